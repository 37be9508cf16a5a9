//go:build unix && !linux

package devcluster

import "syscall"

// attributes put a node into a process group of its own, so that Ctrl-C
// reaches only its parent. This system cannot let it die with its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
