//go:build unix && !linux

package runner

import (
	"io"
	"os/exec"
	"syscall"
)

// prepare puts the command into a process group of its own.
func prepare(cmd *exec.Cmd, _ io.Reader) (restore func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return func() {}
}
