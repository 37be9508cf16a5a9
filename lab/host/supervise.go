//go:build linux

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

// Supervision is a stage that runs in namespaces of its own. Stage is required.
type Supervision struct {
	Stage string   // as registered in package stage
	Args  []string // of the stage
	Env   []string // default: that of the calling process

	// Files are open in the stage from descriptor 3 on.
	Files  []*os.File
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Signals are sent on to the stage. Without it Supervise itself takes SIGINT,
	// SIGTERM, SIGUSR1 and SIGUSR2 of the calling process as long as it runs.
	Signals <-chan os.Signal

	// Grace is how long the stage has after ctx ended, when it gets SIGTERM
	// unless a signal was sent on before; default 10s. Then it is killed.
	Grace time.Duration
}

// markerLab names the lab in the environment of all of its processes.
const markerLab = "HOLDFAST_LAB"

// marker is the environment by which a process of this lab is known.
func marker() []string { return []string{markerLab + "=" + runID()} }

// Supervise runs a stage as root in new pid, mount, net, uts and ipc namespaces,
// and returns its exit code, 128 + n when signal n ended it. An error means that
// the stage did not start. Without root there is a user namespace too, in which
// the calling user is root and nobody else exists.
//
// Whatever happens to the calling process or to the stage, the kernel ends
// everything that was started in the namespaces, and with them go mounts and
// devices. The stage is not in the foreground of a terminal: signals of the
// keyboard reach it only as they are sent on.
func Supervise(ctx context.Context, s Supervision) (code int, err error) {
	id := newRunID()
	arg, err := json.Marshal(supervised{Stage: s.Stage, Args: s.Args, Files: len(s.Files), Lab: id})
	if err != nil {
		return 0, err
	}
	ours, theirs, err := pair()
	if err != nil {
		return 0, err
	}
	defer ours.close()
	cmd := stage.Command(context.WithoutCancel(ctx), stageSupervise, string(arg))
	cmd.Env = s.Env
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(slices.Clone(cmd.Env), markerLab+"="+id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Stdout, s.Stderr
	cmd.ExtraFiles = append(slices.Clone(s.Files), theirs)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if !privileged() {
		attr := cmd.SysProcAttr
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	signals := s.Signals
	if signals == nil {
		c := make(chan os.Signal, 8)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
		defer signal.Stop(c)
		signals = c
	}

	// The signal at the parent's death is that of the thread which started the
	// child, so the thread stays with this goroutine until the child has ended.
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_ = theirs.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-ended
		return 0, fmt.Errorf("new namespaces: %w%s", err, namespaceHint(err))
	}
	// The supervisor says when it can take signals, or why it cannot start.
	var r report
	if _, _, err := ours.receive(&r); err != nil { // it ended before
		r = report{What: reportFailed, Err: "the supervising process ended before it began"}
	}
	if r.What == reportReady {
		forward(ctx, cmd, signals, s.Grace, ended)
	}
	<-ended
	cleanRun(context.WithoutCancel(ctx), id)
	if r.What != reportReady {
		return 0, errors.New(r.Err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// forward sends signals on until the supervisor has ended.
func forward(ctx context.Context, cmd *exec.Cmd, signals <-chan os.Signal, grace time.Duration, ended <-chan struct{}) {
	if grace <= 0 {
		grace = 10 * time.Second
	}
	told := false
	kill := time.NewTimer(time.Hour)
	kill.Stop()
	defer kill.Stop()
	done := ctx.Done()
	for {
		select {
		case <-ended:
			return
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			told = told || sig == syscall.SIGINT || sig == syscall.SIGTERM
			_ = cmd.Process.Signal(sig) // it may have ended just now
		case <-done:
			done = nil
			if !told {
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
			kill.Reset(grace)
		case <-kill.C:
			_ = cmd.Process.Kill()
		}
	}
}

// privileged tells whether this process may make namespaces as it is.
func privileged() bool {
	if os.Geteuid() != 0 {
		return false
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// supervised is what stageSupervise runs.
type supervised struct {
	Stage string
	Args  []string
	Files int
	Lab   string
}

// superviseStage is the first process of the lab's pid namespace: it starts the
// stage, waits for everything that nobody else waits for, and ends with the
// stage or with the process that started it, and everything with it.
func superviseStage(args []string) int {
	var s supervised
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &s) != nil {
		return 70
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	life := uintptr(3 + s.Files)
	unix.CloseOnExec(int(life))
	c, err := newConn(os.NewFile(life, "life"))
	if err != nil {
		return 70
	}
	// Should the parent have died before the kernel knew that this process wants
	// to die with it, the socket says so.
	orphaned := make(chan struct{})
	go func() {
		defer close(orphaned)
		var r report
		for {
			if _, _, err := c.receive(&r); err != nil {
				return
			}
		}
	}()
	pid, err := s.start()
	if err != nil {
		_ = c.send(report{What: reportFailed, Err: err.Error()}, 0)
		return 1
	}
	_ = c.send(report{What: reportReady}, 0) // if nobody is there to hear it, orphaned says so
	for {
		select {
		case <-orphaned:
			return 128 + int(syscall.SIGKILL)
		case sig := <-signals:
			n, ok := sig.(syscall.Signal)
			if ok && n != syscall.SIGCHLD {
				_ = syscall.Kill(pid, n) // it may have ended just now
				continue
			}
			if code, over := reapUntil(pid); over {
				return code
			}
		}
	}
}

// start makes the namespaces the lab's and starts the stage.
func (s supervised) start() (pid int, err error) {
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return 0, os.NewSyscallError("set hostname", err)
	}
	if err := privateMounts(); err != nil {
		return 0, err
	}
	if err := mountProc(); err != nil {
		return 0, err
	}
	if err := loopback(); err != nil {
		return 0, err
	}
	files := make([]uintptr, 3+s.Files)
	for i := range files {
		files[i] = uintptr(i)
	}
	argv := stage.Argv(s.Stage, s.Args...)
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Files: files, Env: os.Environ(),
	})
	if err != nil {
		return 0, os.NewSyscallError("start the stage", err)
	}
	return pid, nil
}

// reapUntil waits for every process that has ended, and tells the exit code of
// pid if that is among them.
func reapUntil(pid int) (code int, over bool) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || got <= 0 {
			return code, over
		}
		if got == pid {
			code, over = ws.ExitStatus(), true
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
	}
}

// namespaceHint says what helps when namespaces are refused.
func namespaceHint(err error) string {
	read := func(name string) string {
		data, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	return namespaceAdvice(err, os.Geteuid() == 0, read)
}

// namespaceAdvice is namespaceHint for the values of sysctls.
func namespaceAdvice(err error, root bool, sysctl func(name string) string) string {
	refused := errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
	switch {
	case sysctl("user/max_user_namespaces") == "0" && !root:
		return ": user namespaces are off here: run as root, or sysctl user.max_user_namespaces=16384"
	case sysctl("kernel/unprivileged_userns_clone") == "0" && !root:
		return ": user namespaces are for root only here: run as root, or sysctl kernel.unprivileged_userns_clone=1"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && !root:
		return ": AppArmor restricts user namespaces here: run as root, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	case refused && root:
		return ": this root may not make namespaces: in a container, run it with --privileged or with CAP_SYS_ADMIN, CAP_NET_ADMIN and no seccomp profile"
	case refused:
		return ": run as root, or in a container that allows user namespaces"
	case errors.Is(err, syscall.ENOSPC):
		return ": no further namespaces allowed: raise the sysctls user.max_*_namespaces"
	case errors.Is(err, syscall.EINVAL):
		return ": the kernel lacks namespaces"
	}
	return ""
}
