//go:build linux

package faultfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func inject(t *testing.T, f *FS, r Rule) {
	t.Helper()
	must(t, f.Inject(t.Context(), r))
}

func remove(t *testing.T, f *FS, id string) {
	t.Helper()
	must(t, f.Remove(t.Context(), id))
}

func touched(t *testing.T, f *FS, id string) int64 {
	t.Helper()
	n, err := f.Touched(t.Context(), id)
	must(t, err)
	return n
}

// work sets a rule to work.
func work(s *ruleSet, r Rule) error {
	a, err := s.check(r)
	if err != nil {
		return err
	}
	return s.add(a)
}

func TestRulesAreChecked(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{Action: EIO}, "without an ID"},
		{Rule{ID: "x", Action: "explode"}, `no such action`},
		{Rule{ID: "x", Action: EIO, Ops: []string{"chop"}}, `no operation "chop"`},
		{Rule{ID: "x", Action: Torn, Ops: []string{"fsync"}}, "torn cannot happen to fsync"},
		{Rule{ID: "x", Action: EIO, Probability: 1.5}, "not from 0 to 1"},
		{Rule{ID: "x", Action: Slow}, "has to be positive"},
		{Rule{ID: "x", Action: EIO, Path: "[b-a]"}, "path"},
		{Rule{ID: "twice", Action: EIO}, "already"},
	} {
		var s ruleSet
		must(t, work(&s, Rule{ID: "twice", Action: EIO}))
		if err := work(&s, c.rule); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.rule, err, c.want)
		}
	}
	var s ruleSet
	if _, err := s.remove("none"); err == nil {
		t.Error("removed what is not there")
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"", "a/b", true},
		{"**", "", true},
		{"*.wal", "a.wal", true},
		{"*.wal", "d/a.wal", false},
		{"**/*.wal", "a.wal", true},
		{"**/*.wal", "d/e/a.wal", true},
		{"/d/**", "d/e/f", true},
		{"d/**", "de", false},
		{"a?c", "abc", true},
		{"a?c", "a/c", false},
		{"a[0-9]c", "a5c", true},
		{"a[!0-9]c", "a5c", false},
		{"a.c", "abc", false},
		{"über*", "überall", true},
	} {
		g, err := compileGlob(c.glob)
		must(t, err)
		if g.MatchString(c.path) != c.want {
			t.Errorf("%q matches %q: %v", c.glob, c.path, !c.want)
		}
	}
}

func TestRulesDecideTheSameAgain(t *testing.T) {
	run := func(seed uint64) (hits []int) {
		s := ruleSet{seed: seed}
		must(t, work(&s, Rule{ID: "a", Action: EIO, Probability: 0.3}))
		for i := range 1000 {
			if s.judge(opWrite, []string{"x"}, 1, false).err != 0 {
				hits = append(hits, i)
			}
		}
		if int64(len(hits)) != s.touched["a"] {
			t.Errorf("touched %d, counted %d", len(hits), s.touched["a"])
		}
		return hits
	}
	a, b, c := run(1), run(1), run(2)
	if len(a) < 200 || len(a) > 400 || !equal(a, b) || equal(a, c) {
		t.Error(len(a), len(b), len(c))
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestLognormalHasItsMean(t *testing.T) {
	var sum time.Duration
	slow := 0
	const n = 20000
	for i := range n {
		d := lognormal(random{7, uint64(i)}, time.Millisecond)
		if sum += d; d > 2800*time.Microsecond {
			slow++
		}
	}
	if mean := sum / n; mean < 980*time.Microsecond || mean > 1020*time.Microsecond || slow < n/200 || slow > n/50 {
		t.Error(mean, slow)
	}
}

func TestFaults(t *testing.T) {
	f, dir := mountTest(t, Config{})
	write := func(name, text string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	read := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		return string(b), err
	}
	crash := func(t *testing.T) Losses {
		t.Helper()
		l, err := f.Crash(t.Context(), Crash{Profile: Posix})
		must(t, err)
		return l
	}
	t.Run("eio on what is cached", func(t *testing.T) {
		must(t, write("a", "text"))
		_, err := read("a")
		must(t, err)
		inject(t, f, Rule{ID: "r1", Ops: []string{"read"}, Path: "a", Action: EIO})
		_, err = read("a")
		wantErr(t, err, syscall.EIO)
		must(t, write("b", "text"))
		remove(t, f, "r1")
		if s, err := read("a"); s != "text" || err != nil {
			t.Fatal(s, err)
		}
		if touched(t, f, "r1") == 0 {
			t.Fatal("touched nothing")
		}
	})
	t.Run("nth", func(t *testing.T) {
		inject(t, f, Rule{ID: "r2", Ops: []string{"create"}, Action: EIO, Nth: 2})
		must(t, write("n1", ""))
		wantErr(t, write("n2", ""), syscall.EIO)
		must(t, write("n3", ""))
		remove(t, f, "r2")
		if n := touched(t, f, "r2"); n != 1 {
			t.Fatal(n)
		}
	})
	t.Run("full", func(t *testing.T) {
		inject(t, f, Rule{ID: "r3", Ops: []string{"write"}, Action: ENOSPC, Quota: 10})
		must(t, write("f", "12345"))
		must(t, write("f", "12345"))
		wantErr(t, write("f", "1"), syscall.ENOSPC)
		remove(t, f, "r3")
		must(t, write("f", "1"))
	})
	t.Run("read-only", func(t *testing.T) {
		must(t, write("ro", "x"))
		inject(t, f, Rule{ID: "r4", Action: EROFS})
		wantErr(t, write("new", ""), syscall.EROFS)
		wantErr(t, os.Remove(filepath.Join(dir, "ro")), syscall.EROFS)
		wantErr(t, os.Chmod(filepath.Join(dir, "ro"), 0o600), syscall.EROFS)
		_, err := os.OpenFile(filepath.Join(dir, "ro"), os.O_WRONLY, 0)
		wantErr(t, err, syscall.EROFS)
		if s, err := read("ro"); s != "x" || err != nil {
			t.Fatal(s, err)
		}
		remove(t, f, "r4")
	})
	t.Run("flip read", func(t *testing.T) {
		must(t, write("fl", "aaaa"))
		inject(t, f, Rule{ID: "r5", Path: "fl", Action: FlipRead, Nth: 1})
		s, err := read("fl")
		must(t, err)
		if bits := differing(s, "aaaa"); bits != 1 || touched(t, f, "r5") != 1 {
			t.Fatal(s, bits)
		}
		remove(t, f, "r5")
		if s, _ := read("fl"); s != "aaaa" {
			t.Fatal("the disk itself was changed: " + s)
		}
	})
	t.Run("flip at rest", func(t *testing.T) {
		must(t, write("rest", strings.Repeat("a", 10000)))
		must(t, f.Sync(t.Context()))
		where, err := f.Flip(t.Context(), "res*", 3, 1)
		must(t, err)
		crash(t)
		s, err := read("rest")
		if bits := differing(s, strings.Repeat("a", 10000)); bits != 3 || len(where) != 3 || err != nil {
			t.Fatal(bits, where, err)
		}
		if _, err := f.Flip(t.Context(), "none", 1, 1); err == nil {
			t.Fatal("flipped something in nothing")
		}
	})
	t.Run("fsync fails once", func(t *testing.T) {
		file := open(t, filepath.Join(dir, "fsyncgate"), os.O_RDWR|os.O_CREATE)
		must(t, f.Sync(t.Context()))
		_, err := file.WriteString("lost")
		must(t, err)
		inject(t, f, Rule{ID: "r6", Action: FsyncEIO, Nth: 1})
		wantErr(t, file.Sync(), syscall.EIO)
		must(t, file.Sync())
		remove(t, f, "r6")
		_, err = file.WriteAt([]byte("later"), pageSize)
		must(t, err)
		must(t, file.Sync())
		if s, _ := read("fsyncgate"); !strings.HasPrefix(s, "lost") {
			t.Fatal("processes must see what they wrote")
		}
		must(t, file.Close())
		crash(t)
		if s, _ := read("fsyncgate"); s != strings.Repeat("\x00", pageSize)+"later" {
			t.Fatal(shorten(s))
		}
	})
	t.Run("what the disk makes of a write", func(t *testing.T) {
		old, now := strings.Repeat("o", 3*pageSize), strings.Repeat("n", pageSize)
		for _, action := range []Action{Stale, Torn, Misdirect} {
			name := "disk-" + string(action)
			must(t, write(name, old))
			must(t, f.Sync(t.Context()))
			inject(t, f, Rule{ID: name, Path: name, Action: action})
			file := open(t, filepath.Join(dir, name), os.O_RDWR)
			_, err := file.WriteAt([]byte(now), 0)
			must(t, err)
			must(t, file.Sync())
			must(t, file.Close())
			if s, _ := read(name); s != now+old[pageSize:] {
				t.Fatal("processes must see what they wrote")
			}
			if touched(t, f, name) != 1 {
				t.Fatal(action, "not counted")
			}
			remove(t, f, name)
			crash(t)
			s, err := read(name)
			must(t, err)
			changed := strings.Count(s, "n")
			if len(s) != len(old) ||
				action == Stale && changed != 0 ||
				action == Torn && (changed == 0 || changed == pageSize || changed%sectorSize != 0) ||
				action == Misdirect && (changed != pageSize || s[0] == 'n') {
				t.Error(action, shorten(s))
			}
		}
	})
	t.Run("slow", func(t *testing.T) {
		inject(t, f, Rule{ID: "r7", Ops: []string{"create"}, Action: Slow, Delay: 50 * time.Millisecond})
		start := time.Now()
		for range 3 {
			must(t, write("slow"+time.Now().String(), ""))
		}
		if d := time.Since(start); d < 30*time.Millisecond || d > 5*time.Second {
			t.Fatal(d)
		}
		remove(t, f, "r7")
	})
	t.Run("stall ends with the rule", func(t *testing.T) {
		inject(t, f, Rule{ID: "r8", Path: "st", Ops: []string{"write"}, Action: Stall})
		done := make(chan error, 1)
		go func() { done <- write("st", "x") }()
		for touched(t, f, "r8") == 0 {
		}
		select {
		case err := <-done:
			t.Fatal("not stalled", err)
		default:
		}
		must(t, write("other", "not concerned"))
		remove(t, f, "r8")
		must(t, <-done)
	})
	t.Run("stall ends with SIGKILL only", func(t *testing.T) {
		inject(t, f, Rule{ID: "r9", Ops: []string{"write"}, Action: Stall})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "echo x >"+filepath.Join(dir, "killed"))
		must(t, cmd.Start())
		for touched(t, f, "r9") == 0 {
		}
		must(t, cmd.Process.Signal(syscall.SIGCHLD))
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		must(t, cmd.Process.Kill())
		if err := cmd.Wait(); ctx.Err() != nil {
			t.Fatal("SIGKILL did not reach it", err)
		}
		if s, _ := read("killed"); s != "" {
			t.Fatal("a killed write was carried out")
		}
		// The power fails while a rule is at work, and it stays.
		crash(t)
		go func() { _ = write("again", "x") }()
		for touched(t, f, "r9") < 2 {
		}
		remove(t, f, "r9")
	})
}

// differing counts bits.
func differing(a, b string) (n int) {
	for i := range min(len(a), len(b)) {
		for x := a[i] ^ b[i]; x != 0; x &= x - 1 {
			n++
		}
	}
	return n
}

func TestDump(t *testing.T) {
	f, dir := mountTest(t, Config{})
	must(t, os.MkdirAll(dir+"/d", 0o755))
	s := open(t, dir+"/d/synced", os.O_RDWR|os.O_CREATE)
	_, err := s.WriteString("synced")
	must(t, err)
	must(t, s.Sync())
	_, err = s.WriteString(" and not")
	must(t, err)
	must(t, os.Symlink("synced", dir+"/d/link"))
	must(t, os.WriteFile(dir+"/large", make([]byte, 100_000), 0o644))
	out := t.TempDir()
	n, err := f.Dump(t.Context(), Dump{Dir: out + "/cache", MaxFile: 50_000})
	must(t, err)
	if readAll(t, out+"/cache/d/link") != "synced and not" || len(n.Skipped) != 1 || n.Skipped[0] != "large" || n.Files != 3 {
		t.Fatalf("%+v", n)
	}
	_, err = f.Dump(t.Context(), Dump{Dir: out + "/disk", Disk: true})
	must(t, err)
	if readAll(t, out+"/disk/d/synced") != "synced" {
		t.Fatal(readAll(t, out+"/disk/d/synced"))
	}
	if _, err := os.Lstat(out + "/disk/large"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("what was never synced is on the disk", err)
	}
	if got := readAll(t, dir+"/d/synced"); got != "synced and not" {
		t.Fatal("a dump changed what processes see: " + got)
	}
	if _, err := f.Dump(t.Context(), Dump{Dir: dir + "/x"}); err == nil {
		t.Fatal("dumped into itself")
	}
}
