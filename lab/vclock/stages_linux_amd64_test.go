package vclock

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

// They live as long as the process: a collected file closes its descriptor.
var (
	stdin  = os.NewFile(0, "stdin")
	stdout = os.NewFile(1, "stdout")
	stderr = os.NewFile(2, "stderr")
)

func complain(words ...any) { _, _ = fmt.Fprintln(stderr, words...) }

func init() {
	// parent starts a program under the filter, hands the listener over its
	// descriptor 3, and waits for it: a process that is not the one that serves.
	stage.Register("test-parent", func(args []string) int {
		cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
		cmd.Args = append([]string{"holdfast-lab:test-exec"}, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		cmd.ExtraFiles = []*os.File{os.NewFile(3, "socket")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread()
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			complain("test-parent:", err.Error())
			return 99
		}
		if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
			return 128 + int(s.Signal())
		}
		return cmd.ProcessState.ExitCode()
	})
	stage.Register("test-exec", func(args []string) int {
		runtime.LockOSThread()
		var listener *os.File
		var err error
		if args[0] == "old" { // as before Linux 5.19
			args = args[1:]
			listener, err = install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
		} else {
			listener, err = Install()
		}
		if err != nil {
			complain("test-exec:", err.Error())
			return 97
		}
		if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener.Fd())), nil, 0); err != nil {
			complain("test-exec:", err.Error())
			return 96
		}
		_ = listener.Close()
		unix.CloseOnExec(3)
		if args[0] == ProbeStage {
			err := unix.Exec("/proc/self/exe", []string{"holdfast-lab:" + ProbeStage}, os.Environ())
			complain("test-exec:", args[0], err.Error())
			return 94
		}
		path, err := exec.LookPath(args[0])
		if err == nil {
			err = unix.Exec(path, args, os.Environ())
		}
		complain("test-exec:", args[0], err.Error())
		return 95
	})
	// drop becomes a lab in a user namespace of its own.
	stage.Register("test-drop", func([]string) int {
		cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
		cmd.Args = []string{"holdfast-lab:test-lab"}
		cmd.Stdout, cmd.Stderr = stdout, stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Pdeathsig:   syscall.SIGKILL,
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		runtime.LockOSThread()
		if err := cmd.Run(); err != nil {
			complain("test-drop:", err.Error())
			return 93
		}
		return 0
	})
	stage.Register("test-lab", func([]string) int {
		if err := lab(); err != nil {
			complain("test-lab:", err.Error())
			return 92
		}
		return 0
	})
}

// lab runs a clock, and one host of which it prints the offset.
func lab() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	c := New()
	defer c.Close()
	probe := NewProbe()
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
	cmd.Args = []string{"holdfast-lab:test-parent", ProbeStage}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = probe, probe, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	listener, err := listenerOf(cmd)
	if err != nil {
		return err
	}
	c.Serve(listener)
	if _, err := probe.Sample(context.Background()); err != nil {
		return err
	}
	if err := c.Set(Offset{Jump: time.Hour}); err != nil {
		return err
	}
	s, err := probe.Sample(context.Background())
	if err != nil {
		return err
	}
	list, err := c.Unpatched()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(stdout, int64(s.Offset), len(list))
	if n := c.Processes(); n != 1 {
		return fmt.Errorf("the clock moves %d processes, want 1", n)
	}
	_ = probe.Close()
	return cmd.Wait()
}
