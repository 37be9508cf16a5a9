// Package labtest is for tests that need hosts, devices and servers: it says
// what is missing, and keeps what a test starts inside namespaces that end with
// it.
package labtest

import (
	"os"
	"os/exec"
	"testing"

	"holdfast.dev/internal/stage"
)

// Main is for TestMain of packages whose tests start stages:
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
func Main(m *testing.M) int {
	if code, ok := stage.Run(os.Args, os.Stderr); ok {
		return code
	}
	return m.Run()
}

// Devices skips the test where this process may not make network devices and
// mount filesystems: without root, or without /dev/net/tun and /dev/fuse.
func Devices(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the lab needs root here; nothing to install")
	}
	for _, dev := range []string{"/dev/net/tun", "/dev/fuse"} {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("the lab needs %s (%v): install a kernel that has it", dev, err)
		}
		_ = f.Close()
	}
}

// Server returns the path of a program, and skips the test where it is missing,
// saying which Debian package to install.
func Server(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("missing server %s: install %s (Debian: apt-get install %s)", program, pkg, pkg)
	}
	return path
}
