//go:build unix && !linux

package e2e

import "syscall"

// attributes are none: this system cannot let a process die with the test.
func attributes() *syscall.SysProcAttr { return nil }
