package runner

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"unsafe"
)

// prepare puts the command into a process group of its own, gives that group
// the terminal when this process has it, and lets the command die with this
// process. The function it returns takes the terminal back.
func prepare(cmd *exec.Cmd, stdin io.Reader) (restore func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	f, ok := stdin.(*os.File)
	if !ok {
		return func() {}
	}
	own := syscall.Getpgrp()
	if front, ok := foreground(f); !ok || front != own {
		return func() {}
	}
	cmd.SysProcAttr.Foreground = true
	cmd.SysProcAttr.Ctty = int(f.Fd())
	return func() {
		// A background process that takes the terminal is stopped by SIGTTOU
		// unless it ignores it.
		signal.Ignore(syscall.SIGTTOU)
		defer signal.Reset(syscall.SIGTTOU)
		pgid := int32(own)
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCSPGRP, uintptr(unsafe.Pointer(&pgid)))
	}
}

// foreground is the process group that has the terminal f; false when f is none.
func foreground(f *os.File) (pgid int, ok bool) {
	var got int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&got)))
	return int(got), errno == 0
}
