//go:build linux

package faultfs

import (
	"context"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

func init() {
	// Maps a file, changes it, says so, and stays.
	stage.Register("faultfs-mapper", func(args []string) int {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return 1
		}
		m, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return 1
		}
		m[0] = 'x'
		_, _ = os.NewFile(1, "stdout").WriteString(".")
		_, _ = io.Copy(io.Discard, os.NewFile(0, "stdin"))
		return 0
	})
}

// hold starts a command that stays until it is killed, and waits for its sign.
func hold(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestKilledWithDirtyMap: a process whose mapped pages the kernel cannot write
// back, because writes hang, dies of SIGKILL all the same.
func TestKilledWithDirtyMap(t *testing.T) {
	f, dir := mountTest(t, Config{})
	must(t, os.WriteFile(dir+"/a", make([]byte, pageSize), 0o644))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	cmd := stage.Command(ctx, "faultfs-mapper", dir+"/a")
	hold(t, cmd)
	inject(t, f, Rule{ID: "hang", Ops: []string{"write"}, Action: Stall})
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if ctx.Err() != nil {
		t.Error("it did not die")
	}
	_, err := f.Crash(t.Context(), Crash{})
	must(t, err)
}

// TestOtherNamespace: a copy of the mount in a namespace that lives on, as
// hosts of the lab have them, does not keep the power from failing; what comes
// through it afterwards fails.
func TestOtherNamespace(t *testing.T) {
	f, dir := mountTest(t, Config{})
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo .; read x; cat "+dir+"/a >/dev/null 2>&1 && exit 3; exit 4")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: 0}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	must(t, err)
	_, err = f.Crash(t.Context(), Crash{})
	must(t, err)
	must(t, os.WriteFile(dir+"/b", []byte("after"), 0o644))
	_, err = io.WriteString(in, "go\n")
	must(t, err)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 4 {
		t.Fatal("the old mount still works", err)
	}
	if readAll(t, dir+"/b") != "after" {
		t.Fatal("the new one does not")
	}
}
