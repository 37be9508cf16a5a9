package vclock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// waitOptions take only what this thread traces: neither what other threads
// trace nor children that something else in this program waits for.
const waitOptions = unix.WNOHANG | unix.WALL | unix.WNOTHREAD

// Polls of a traced thread: there is no way to wait for it and to be woken by
// something else, and an exec takes some hundred microseconds.
const (
	firstPoll = 50 * time.Microsecond
	lastPoll  = 5 * time.Millisecond
)

// stopTimeout is how long the threads of a running process may take to stop; a
// thread that sleeps uninterruptibly does not.
const stopTimeout = 2 * time.Second

// onThread runs f on an OS thread of its own. When f says that it leaves traced
// threads behind, the OS thread ends, by which the kernel lets go of them.
func onThread(f func() (clean bool)) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		if f() {
			runtime.UnlockOSThread()
		}
		return // a goroutine that ends locked ends its thread
	}
	// The main thread does not end.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

func ptrace(request, pid int, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0); errno != 0 {
		return goneOr(errno)
	}
	return nil
}

// seize begins to trace a thread without stopping it.
func seize(tid int, options uintptr) error {
	err := ptrace(unix.PTRACE_SEIZE, tid, options)
	if errors.Is(err, unix.EPERM) {
		return errors.New("it cannot be traced: another tracer has it, or it has more privileges")
	}
	return err
}

// release lets a stopped thread go on as it would have without us. One that was
// killed while it was stopped is no longer, cannot be let go, and has to be waited
// for instead: the exec of another thread, or its parent, waits for that. It must
// be called by onThread, which gets clean.
func release(ctx context.Context, tid int, status unix.WaitStatus) (clean bool) {
	for {
		signal := uintptr(0)
		if status.Stopped() && int(status)>>16 == 0 {
			signal = uintptr(status.StopSignal()) // it stopped to receive this one
		}
		if ptrace(unix.PTRACE_DETACH, tid, signal) == nil {
			return true
		}
		var err error
		if _, status, err = await(ctx, tid, tid); err != nil {
			return errors.Is(err, errGone)
		}
	}
}

// await polls until the traced thread stops or ends. An exec makes a thread
// take the ID of its process, the leader.
func await(ctx context.Context, tid, leader int) (who int, status unix.WaitStatus, err error) {
	timer := time.NewTimer(firstPoll)
	defer timer.Stop()
	for wait := firstPoll; ; wait = min(wait*3/2, lastPoll) {
		who, err = unix.Wait4(tid, &status, waitOptions, nil)
		if errors.Is(err, unix.ECHILD) && leader != tid {
			who, err = unix.Wait4(leader, &status, waitOptions, nil)
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, 0, errGone // ECHILD: the exec of another thread ended it
		case who != 0 && !status.Stopped():
			return 0, 0, errGone
		case who != 0:
			return who, status, nil
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// followExec sees a thread through its exec: it traces it, calls proceed, which
// lets the exec happen, and calls stopped at the moment when the new program is
// there and has not run a single instruction. When the exec fails, stopped is not
// called. It must be called by onThread, which gets clean.
//
// The request to stop comes right behind the one to proceed: it has no effect in
// the middle of a system call, so that the thread stops either in its exec or, if
// that failed, on its way back to the program. No time-out is involved.
func followExec(ctx context.Context, tid, leader int, proceed func(), stopped func() error) (clean bool, err error) {
	err = seize(tid, unix.PTRACE_O_TRACEEXEC)
	proceed()
	if err != nil {
		return true, err
	}
	_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0) // fails if it was killed meanwhile, which await sees
	who, status, err := await(ctx, tid, leader)
	if err != nil {
		return errors.Is(err, errGone), err
	}
	if status.TrapCause() == unix.PTRACE_EVENT_EXEC {
		err = stopped()
	}
	return release(ctx, who, status), err
}

// whileStopped calls f while all threads of a process are stopped, with the
// addresses of their next instructions. It must be called by onThread, which
// gets clean.
func whileStopped(whole context.Context, pid int, f func(next []uint64) error) (clean bool, err error) {
	type thread struct {
		tid    int
		status unix.WaitStatus
	}
	var held []thread
	defer func() {
		for _, t := range held {
			if !release(whole, t.tid, t.status) {
				clean = false
			}
		}
	}()
	ctx, cancel := context.WithTimeout(whole, stopTimeout)
	defer cancel()
	var next []uint64
	for seen := map[int]bool{}; ; {
		tids, err := numbers(procPath(pid, "task"))
		if err != nil {
			return true, err
		}
		fresh := false
		for _, tid := range tids { // a stopped thread starts no other
			if seen[tid] {
				continue
			}
			seen[tid], fresh = true, true
			if err := seize(tid, 0); errors.Is(err, errGone) {
				continue
			} else if err != nil {
				return true, err
			}
			_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0) // fails if it was killed meanwhile, which await sees
			_, status, err := await(ctx, tid, tid)
			switch {
			case errors.Is(err, errGone):
				continue
			case err != nil:
				return false, errors.New("a thread of it does not stop")
			}
			held = append(held, thread{tid, status})
			var regs unix.PtraceRegs
			if err := unix.PtraceGetRegs(tid, &regs); err != nil {
				return true, fmt.Errorf("registers: %w", err)
			}
			next = append(next, regs.Rip)
		}
		if !fresh {
			return true, f(next)
		}
	}
}
