//go:build linux

package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
)

func TestSupervise_Codes(t *testing.T) {
	labtest.Devices(t)
	for name, want := range map[string]int{"test.code": 42, "test.signal": 137, "test.nothing": 70} {
		code, err := Supervise(t.Context(), Supervision{Stage: name, Signals: make(chan os.Signal)})
		if code != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", name, code, err, want)
		}
	}
}

func TestSupervise_WhatTheStageSees(t *testing.T) {
	labtest.Devices(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{r})
	var out bytes.Buffer
	code, err := Supervise(t.Context(), Supervision{Stage: "test.look", Files: []*os.File{w}, Stdout: &out, Stderr: t.Output()})
	closeAll([]*os.File{w})
	if code != 0 || err != nil || out.String() != "0 true lab 4 <nil>\n" {
		t.Errorf("%d, %v: %q", code, err, out.String())
	}
	if host, _ := os.Hostname(); host != "lab" { // of these tests' own supervision
		t.Error(host)
	}
}

func TestSupervise_Signals(t *testing.T) {
	labtest.Devices(t)
	for _, c := range []struct {
		name string
		do   func(signals chan<- os.Signal, cancel func())
		want string
	}{
		{"sent on", func(s chan<- os.Signal, _ func()) { s <- syscall.SIGUSR1 }, "got user defined signal 1\n"},
		{"end of ctx", func(_ chan<- os.Signal, cancel func()) { cancel() }, "got terminated\n"},
		{"of the process", func(chan<- os.Signal, func()) { _ = syscall.Kill(os.Getpid(), syscall.SIGUSR1) }, "got user defined signal 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll([]*os.File{r})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := Supervision{Stage: "test.term", Stdout: w, Stderr: t.Output()}
			signals := make(chan os.Signal)
			if c.name != "of the process" {
				s.Signals = signals
			}
			type result struct {
				code int
				err  error
			}
			done := make(chan result)
			go func() {
				code, err := Supervise(ctx, s)
				_ = w.Close()
				done <- result{code, err}
			}()
			lines := bufio.NewReader(r)
			if line, err := lines.ReadString('\n'); line != "ready\n" {
				t.Fatal(line, err)
			}
			c.do(signals, cancel)
			if line, err := lines.ReadString('\n'); line != c.want {
				t.Error(line, err)
			}
			if got := <-done; got.code != 3 || got.err != nil {
				t.Error(got)
			}
		})
	}
}

// A stage that ignores the end of ctx is killed.
func TestSupervise_Grace(t *testing.T) {
	labtest.Devices(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, err := Supervise(ctx, Supervision{Stage: "test.deaf", Grace: 10 * time.Millisecond, Signals: make(chan os.Signal)})
	if code != 137 && code != 143 || err != nil { // 143 when it had no time to ignore anything
		t.Error(code, err)
	}
}

// Whoever of the chain is killed by kill -9: nothing stays.
func TestSupervise_NothingIsLeft(t *testing.T) {
	labtest.Devices(t)
	for who, depth := range map[string]int{
		"outer process": 0, "outer process of a stopped supervisor": 0,
		"supervisor": 1, "stage": 2, "first process of the host": 3,
	} {
		t.Run(who, func(t *testing.T) {
			before := mounts(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll([]*os.File{r})
			outer := stage.Command(context.Background(), "test.outer", t.TempDir())
			outer.Stdout, outer.Stderr = w, w
			err = outer.Start()
			_ = w.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = outer.Process.Kill() }()
			if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
				t.Fatal(line, err)
			}
			all, err := readTable()
			if err != nil {
				t.Fatal(err)
			}
			victim := outer.Process.Pid
			for range depth {
				children := all.closure(func(e entry, _ map[int]bool) bool { return e.parent == victim })
				if len(children) != 1 {
					t.Fatalf("children of %d: %v", victim, children)
				}
				victim = children[0].pid
			}
			started := all.below(outer.Process.Pid)
			if len(started) < 6 || len(cgroups(t)) == 0 {
				t.Fatalf("only %v, %v", started, cgroups(t))
			}
			if strings.Contains(who, "stopped") {
				// It cannot see that the socket is closed; the kernel kills it.
				if err := syscall.Kill(started[0].pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = outer.Wait() // killed, or with the code of what was
			until(t, "all are gone", func() bool {
				now, err := readTable()
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range now {
					for _, old := range started {
						if e.pid == old.pid {
							return false
						}
					}
				}
				return true
			})
			for line := range strings.Lines(mounts(t)) {
				if !strings.Contains(before, line) {
					t.Errorf("new mount %s", line)
				}
			}
			cleaned, err := Clean(t.Context())
			if err != nil {
				t.Error(err)
			}
			if left := cgroups(t); len(left) != 0 {
				t.Errorf("left after Clean %v: %v", cleaned, left)
			}
			if depth == 0 && len(cleaned) == 0 {
				t.Error("nothing to clean: who did?")
			}
			if again, err := Clean(t.Context()); len(again) != 0 || err != nil {
				t.Errorf("second Clean: %v, %v", again, err)
			}
		})
	}
}

// mounts is the list of mounts. Those that were there before the lab can go away
// at any time, with the directories under them.
func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// cgroups are those of labs that processes of this pid namespace started.
func cgroups(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range cgroupMounts(string(mounts)) {
		_ = filepath.WalkDir(m.point, func(dir string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(d.Name(), cgroupPrefix+pidNamespace()+"-") {
				found = append(found, dir)
				return fs.SkipDir
			}
			return nil
		})
	}
	return found
}

// Clean ends processes that were started under a lab which is dead, and spares
// those of labs that live.
func TestClean_Processes(t *testing.T) {
	labtest.Devices(t)
	begin := func(id string) (pid int, done chan struct{}) {
		cmd := stage.Command(t.Context(), "test.wait")
		cmd.Env = []string{markerLab + "=" + id}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = w
		err = cmd.Start()
		_ = w.Close()
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
			t.Fatal(line, err)
		}
		_ = r.Close()
		done = make(chan struct{})
		go func() {
			_ = cmd.Wait() // killed
			close(done)
		}()
		return cmd.Process.Pid, done
	}
	_, stray := begin(pidNamespace() + "-999999-1-1")
	_, elsewhere := begin("1-999999-1-1")
	live, own := begin(newRunID())
	if cleaned, err := Clean(t.Context()); err != nil || len(cleaned) != 1 || !strings.Contains(cleaned[0], "999999-1-1") {
		t.Errorf("%v, %v", cleaned, err)
	}
	<-stray
	for _, c := range []chan struct{}{elsewhere, own} {
		select {
		case <-c:
			t.Error("Clean killed what is not its own")
		default:
		}
	}
	if startTime(live) == "" {
		t.Error("the live one is gone")
	}
}

func TestAble(t *testing.T) {
	labtest.Devices(t)
	if err := Able(); err != nil {
		t.Error(err)
	}
}

func TestAble_Advice(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{deviceError(tunDevice, "tun", os.ErrPermission), "the lab needs /dev/net/tun: run as root, or let everybody use it with chmod 0666 /dev/net/tun"},
		{deviceError(fuseDevice, "fuse", os.ErrNotExist), "the lab needs /dev/fuse: load it with modprobe fuse (in a container: add --device /dev/fuse)"},
		{deviceError(fuseDevice, "fuse", syscall.ENXIO), "the lab needs /dev/fuse: load it with modprobe fuse (in a container: add --device /dev/fuse)"},
		{deviceError(fuseDevice, "fuse", errors.New("odd")), "the lab needs /dev/fuse: odd"},
	} {
		if c.err.Error() != c.want {
			t.Errorf("%q, want %q", c.err, c.want)
		}
	}
	for _, c := range []struct {
		err    error
		root   bool
		sysctl string // name and value
		want   string
	}{
		{syscall.ENOSPC, false, "user/max_user_namespaces 0", "sysctl user.max_user_namespaces=16384"},
		{syscall.EPERM, false, "kernel/unprivileged_userns_clone 0", "sysctl kernel.unprivileged_userns_clone=1"},
		{syscall.EACCES, false, "kernel/apparmor_restrict_unprivileged_userns 1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{syscall.EPERM, true, "kernel/apparmor_restrict_unprivileged_userns 1", "--privileged"},
		{syscall.EPERM, false, "", "run as root"},
		{syscall.ENOSPC, true, "", "user.max_*_namespaces"},
		{syscall.EINVAL, true, "", "the kernel lacks namespaces"},
	} {
		got := namespaceAdvice(c.err, c.root, func(name string) string {
			key, value, _ := strings.Cut(c.sysctl, " ")
			if name == key {
				return value
			}
			return ""
		})
		if !strings.Contains(got, c.want) {
			t.Errorf("%v, root %v, %s: %q, want %q", c.err, c.root, c.sysctl, got, c.want)
		}
	}
}

// Everything works without root where devices are open to all.
func TestUnprivileged(t *testing.T) {
	labtest.Devices(t)
	dir := t.TempDir()
	open(t, dir)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := stage.Command(t.Context(), "test.devices", dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil || out.String() != "all is well\n" {
		t.Errorf("%v: %s", err, out.String())
	}
}
