package peer

import "syscall"

// attributes put a process into a group of its own, so that Ctrl-C reaches only
// its parent, and let it die with its parent.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
