//go:build linux

package host

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killTime is how long processes have to die of SIGKILL. Those that wait for a
// disk in the kernel may need for ever.
const killTime = 10 * time.Second

// owner is the state of a host that one goroutine owns: which of its processes
// are stopped, and by whom.
type owner struct {
	h      *Host
	paused map[int]bool // by Pause
	held   map[int]bool // by the duty cycle, until it lets them go
	duty   duty
}

// own is the owner's goroutine.
func (h *Host) own() {
	o := &owner{h: h, paused: map[int]bool{}, held: map[int]bool{}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case f := <-h.ops:
			f(o)
		case <-timer.C:
			o.turn()
		case <-h.dead:
			return
		}
		timer.Reset(o.duty.untilTurn(time.Now()))
	}
}

// do runs f in the owner's goroutine.
func (h *Host) do(ctx context.Context, f func(*owner) error) error {
	done := make(chan error, 1)
	select {
	case h.ops <- func(o *owner) { done <- f(o) }:
		return <-done
	case <-h.dead:
		return ErrOff
	case <-ctx.Done():
		return ctx.Err()
	}
}

// members are the living processes that belong to a name; "" is all. sure is
// false when others may belong to it too, which a further look will tell.
func (o *owner) members(name string) (found table, sure bool, err error) {
	h := o.h
	h.mu.Lock()
	_, known := h.roots[name]
	roots := slices.Clone(h.roots[name])
	var others []int
	for other, sids := range h.roots {
		if other != name {
			others = append(others, sids...)
		}
	}
	h.mu.Unlock()
	if name != "" && !known {
		return nil, true, fmt.Errorf("no process %q was started", name)
	}
	t, err := readTable()
	if err != nil {
		return nil, true, err
	}
	if name == "" {
		return t.below(h.PID()).living(), true, nil
	}
	found, sure = t.started(h.PID(), roots, others, func(pid int) mark { return lookMark(pid, name) })

	// Sessions without members are over, and their numbers may come again.
	h.mu.Lock()
	h.roots[name] = slices.DeleteFunc(h.roots[name], func(sid int) bool {
		return slices.Contains(roots, sid) && !slices.ContainsFunc(found, func(e entry) bool { return e.session == sid })
	})
	h.mu.Unlock()
	return found.living(), sure, nil
}

// stop sends SIGSTOP to members of a name until no further one is found, and
// returns all of them. They are entered into set.
func (o *owner) stop(name string, set map[int]bool) (found table, sure bool, err error) {
	for {
		found, sure, err = o.members(name)
		if err != nil {
			return nil, true, err
		}
		fresh := false
		for _, e := range found {
			if set[e.pid] {
				continue
			}
			set[e.pid], fresh = true, true
			_ = syscall.Kill(e.pid, syscall.SIGSTOP) // it may have ended just now
		}
		if !fresh {
			return found, sure, nil
		}
	}
}

// Pids are all living processes of the host but its first, in the lab's pid
// namespace.
func (h *Host) Pids() []int {
	t, err := readTable()
	if err != nil {
		return nil
	}
	return t.below(h.PID()).living().pids()
}

// Kill sends SIGKILL to the named process and everything it started, or to all
// processes of the host when name is empty, and returns when they are gone. It
// returns how many there were. Those that do not die within 10s, because they
// wait in the kernel for a disk that does not answer, are named in the error.
func (h *Host) Kill(ctx context.Context, name string) (int, error) {
	n, err := h.kill(ctx, name)
	if err != nil {
		err = fmt.Errorf("host %s: kill %s: %w", h.cfg.Name, name, err)
	}
	return n, err
}

func (h *Host) kill(ctx context.Context, name string) (int, error) {
	h.mu.Lock()
	waitFor := slices.Collect(maps.Values(h.byName))
	h.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, killTime, errNotDead)
	defer cancel()
	seen := map[int]bool{}
	left, err := h.poll(ctx, func(o *owner) (table, bool, error) {
		found, sure, err := o.members(name)
		for _, e := range found {
			seen[e.pid] = true
			_ = syscall.Kill(e.pid, syscall.SIGKILL) // it may have ended just now
		}
		return found, sure, err
	})
	if err != nil {
		return len(seen), fmt.Errorf("%w%s", err, describe(left))
	}
	for _, p := range waitFor {
		if !seen[p.PID()] {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return len(seen), context.Cause(ctx)
		}
	}
	return len(seen), nil
}

var errNotDead = fmt.Errorf("still there after %v", killTime)

// unsureTime is how long is waited for a process to show whose it is.
const unsureTime = 300 * time.Millisecond

// poll calls f in the owner's goroutine until it returns nobody any more and is
// sure of that.
func (h *Host) poll(ctx context.Context, f func(*owner) (left table, sure bool, err error)) (left table, err error) {
	const first, last = time.Millisecond, 50 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	begin := time.Now()
	for delay := first; ; delay = min(2*delay, last) {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return left, context.Cause(ctx)
		}
		sure := true
		err := h.do(ctx, func(o *owner) (err error) {
			left, sure, err = f(o)
			return err
		})
		if err != nil || len(left) == 0 && (sure || time.Since(begin) > unsureTime) {
			return left, err
		}
		timer.Reset(delay)
	}
}

// diskTime is how long a process may be in an uninterruptible sleep before it
// counts as waiting for a disk, and not just for a moment.
const diskTime = 100 * time.Millisecond

// Pause stops the named process and everything it started, or all processes of
// the host when name is empty, and returns when they stand still, with their
// number. What waits in the kernel for a disk counts as standing still. Processes
// that are started afterwards run.
func (h *Host) Pause(ctx context.Context, name string) (int, error) {
	var all table
	var seen []int // who stood still at the look before this one
	begin := time.Now()
	_, err := h.poll(ctx, func(o *owner) (table, bool, error) {
		// A process that was told to stop may still finish a fork. So a look that
		// finds all of them standing still must be followed by another that finds
		// nobody else.
		found, sure, err := o.stop(name, o.paused)
		all = found
		moving := slices.DeleteFunc(slices.Clone(found), func(e entry) bool {
			return e.stopped() || e.state == 'D' && time.Since(begin) > diskTime
		})
		if before := seen; len(moving) == 0 {
			if seen = found.pids(); !slices.Equal(before, seen) {
				return found, sure, err
			}
		}
		return moving, sure, err
	})
	if err != nil {
		return len(all), fmt.Errorf("host %s: pause %s: %w", h.cfg.Name, name, err)
	}
	return len(all), nil
}

// Resume lets processes go on that Pause stopped: those of one name, or all when
// name is empty. It returns how many.
func (h *Host) Resume(ctx context.Context, name string) (int, error) {
	n := 0
	err := h.do(ctx, func(o *owner) error {
		found, _, err := o.members(name)
		for _, e := range found {
			if !o.paused[e.pid] {
				continue
			}
			n++
			delete(o.paused, e.pid)
			if !o.held[e.pid] {
				_ = syscall.Kill(e.pid, syscall.SIGCONT) // it may have ended just now
			}
		}
		if name == "" {
			clear(o.paused) // the rest has ended
		}
		return err
	})
	if err != nil {
		return n, fmt.Errorf("host %s: resume %s: %w", h.cfg.Name, name, err)
	}
	return n, nil
}

// Running is how many processes of the host live and are not stopped, by Pause
// or otherwise; Throttle does not count.
func (h *Host) Running() int {
	n := 0
	_ = h.do(context.Background(), func(o *owner) error { // off: none
		found, _, err := o.members("")
		for _, e := range found {
			if !o.paused[e.pid] && (!e.stopped() || o.held[e.pid]) {
				n++
			}
		}
		return err
	})
	return n
}

func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return s.String()
}
