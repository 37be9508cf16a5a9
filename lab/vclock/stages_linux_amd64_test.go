package vclock

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

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
		if args[0] == "plain" {
			err := unix.Exec(args[1], args[1:], os.Environ())
			complain("test-exec:", args[1], err.Error())
			return 98
		}
		listener, err := Install()
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
		path, err := exec.LookPath(args[0])
		if err == nil {
			err = unix.Exec(path, args, os.Environ())
		}
		complain("test-exec:", args[0], err.Error())
		return 95
	})
}
