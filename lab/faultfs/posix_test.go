//go:build linux

package faultfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

// open opens a file of the test and closes it at its end at the latest.
func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func stat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Lstat(path, &st))
	return st
}

func TestPosix(t *testing.T) {
	f, root := mountTest(t, Config{Quota: 64 << 20})
	for _, c := range []struct {
		name string
		run  func(t *testing.T, dir string)
	}{
		{"links", testLinks},
		{"renames", testRenames},
		{"unlinked but open", testUnlinked},
		{"tmpfile", testTmpfile},
		{"sparse", testSparse},
		{"mmap", testMmap},
		{"special files", testSpecial},
		{"attributes", testAttributes},
		{"permissions", testPermissions},
		{"directories", testDirectories},
		{"locks", testLocks},
		{"direct", testDirect},
		{"copy", testCopy},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(root, strings.ReplaceAll(c.name, " ", "-"))
			must(t, os.Mkdir(dir, 0o755))
			c.run(t, dir)
		})
	}
	t.Run("space", func(t *testing.T) {
		file := open(t, root+"/big", os.O_RDWR|os.O_CREATE)
		must(t, unix.Fallocate(int(file.Fd()), 0, 0, 48<<20))
		if c, err := f.Counters(t.Context()); err != nil || c.Used > 1<<20 {
			t.Fatalf("space that is only reserved uses %d: %v", c.Used, err)
		}
		wantErr(t, unix.Fallocate(int(file.Fd()), 0, 0, 65<<20), syscall.ENOSPC)
		_, err := file.Write(make([]byte, 70<<20))
		wantErr(t, err, syscall.ENOSPC)
		var st unix.Statfs_t
		must(t, unix.Statfs(root, &st))
		if st.Bfree > 4<<20/pageSize || st.Blocks != 64<<20/pageSize || st.Type != unix.FUSE_SUPER_MAGIC {
			t.Errorf("%+v", st)
		}
		must(t, os.Remove(root+"/big"))
		must(t, file.Close())
		// RELEASE is not waited for by close.
		for deadline := time.Now().Add(5 * time.Second); ; {
			c, err := f.Counters(t.Context())
			must(t, err)
			if c.Used < 1<<20 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a removed file still uses %d", c.Used)
			}
		}
	})
}

func testLinks(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	must(t, os.Link(dir+"/a", dir+"/b"))
	if a, b := stat(t, dir+"/a"), stat(t, dir+"/b"); a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Fatal(a, b)
	}
	wantErr(t, os.Link(dir+"/a", dir+"/b"), fs.ErrExist)
	wantErr(t, os.Link(dir, dir+"/d"), syscall.EPERM)
	must(t, os.Remove(dir+"/a"))
	if b := stat(t, dir+"/b"); b.Nlink != 1 || readAll(t, dir+"/b") != "x" {
		t.Fatal(b)
	}
	must(t, os.Symlink("b", dir+"/s"))
	if to, err := os.Readlink(dir + "/s"); to != "b" || err != nil || readAll(t, dir+"/s") != "x" || stat(t, dir+"/s").Size != 1 {
		t.Fatal(to, err)
	}
}

func testRenames(t *testing.T, dir string) {
	at := func(name string) string { return dir + "/" + name }
	must(t, os.WriteFile(at("a"), []byte("a"), 0o644))
	must(t, os.WriteFile(at("b"), []byte("b"), 0o644))
	wantErr(t, unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("b"), unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(t, unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("b"), unix.RENAME_EXCHANGE))
	if readAll(t, at("a")) != "b" || readAll(t, at("b")) != "a" {
		t.Fatal("not exchanged")
	}
	must(t, os.Rename(at("a"), at("b")))
	if _, err := os.Stat(at("a")); !errors.Is(err, fs.ErrNotExist) || readAll(t, at("b")) != "b" {
		t.Fatal(err)
	}
	must(t, os.MkdirAll(at("d/e"), 0o755))
	wantErr(t, os.Rename(at("d"), at("d/e/f")), syscall.EINVAL)
	must(t, os.Mkdir(at("x"), 0o755))
	must(t, os.Rename(at("d/e"), at("x/e")))
	if stat(t, at("d")).Nlink != 2 || stat(t, at("x")).Nlink != 3 {
		t.Fatal(stat(t, at("d")), stat(t, at("x")))
	}
	wantErr(t, os.Remove(at("x")), syscall.ENOTEMPTY)
	wantErr(t, syscall.Rename(at("b"), at("x")), syscall.EISDIR)
	wantErr(t, syscall.Rename(at("d"), at("x")), syscall.ENOTEMPTY)
	must(t, syscall.Rename(at("x"), at("d")))
	if stat(t, at("d/e")).Mode&syscall.S_IFMT != syscall.S_IFDIR {
		t.Fatal("the directory did not come along")
	}
}

func testUnlinked(t *testing.T, dir string) {
	f := open(t, dir+"/a", os.O_RDWR|os.O_CREATE)
	_, err := f.WriteString("still here")
	must(t, err)
	must(t, os.Remove(dir+"/a"))
	b := make([]byte, 20)
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != "still here" {
		t.Fatal(string(b[:n]))
	}
	_, err = f.WriteString(", growing")
	must(t, err)
	must(t, f.Sync())
	if info, err := f.Stat(); err != nil || info.Size() != 19 {
		t.Fatal(info, err)
	}
	must(t, os.WriteFile(dir+"/a", []byte("other"), 0o644))
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != "still here, growing" {
		t.Fatal(string(b[:n]))
	}
}

func testTmpfile(t *testing.T, dir string) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	must(t, err)
	defer unix.Close(fd) //nolint:errcheck // the test is over
	_, err = unix.Write(fd, []byte("nameless"))
	must(t, err)
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW))
	if readAll(t, dir+"/named") != "nameless" {
		t.Fatal("content is gone")
	}
}

func testSparse(t *testing.T, dir string) {
	f := open(t, dir+"/a", os.O_RDWR|os.O_CREATE)
	_, err := f.WriteAt([]byte("x"), 1<<30)
	must(t, err)
	if st := stat(t, dir+"/a"); st.Size != 1<<30+1 || st.Blocks != 8 {
		t.Fatal(st.Size, st.Blocks)
	}
	fd := int(f.Fd())
	if at, err := unix.Seek(fd, 0, unix.SEEK_DATA); at != 1<<30 || err != nil {
		t.Fatal(at, err)
	}
	if at, err := unix.Seek(fd, 1<<30, unix.SEEK_HOLE); at != 1<<30+1 || err != nil {
		t.Fatal(at, err)
	}
	_, err = unix.Seek(fd, 1<<30+1, unix.SEEK_DATA)
	wantErr(t, err, syscall.ENXIO)
	must(t, f.Truncate(0))
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 3*pageSize), 0)
	must(t, err)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100, 2*pageSize))
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 3*pageSize-10, 20))
	want := strings.Repeat("x", 100) + strings.Repeat("\x00", 2*pageSize) + strings.Repeat("x", pageSize-110) + strings.Repeat("\x00", 20)
	if got := readAll(t, dir+"/a"); got != want {
		t.Fatal(shorten(got))
	}
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
	if st := stat(t, dir+"/a"); st.Size != 3*pageSize+10 {
		t.Fatal(st.Size)
	}
	must(t, f.Truncate(50))
	must(t, f.Truncate(200))
	if got := readAll(t, dir+"/a"); got != strings.Repeat("x", 50)+strings.Repeat("\x00", 150) {
		t.Fatal(shorten(got))
	}
}

func testMmap(t *testing.T, dir string) {
	f := open(t, dir+"/a", os.O_RDWR|os.O_CREATE)
	must(t, f.Truncate(2*pageSize))
	m, err := unix.Mmap(int(f.Fd()), 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(m[pageSize-3:], "across")
	must(t, unix.Msync(m, unix.MS_SYNC))
	_, err = f.WriteAt([]byte("write"), 10)
	must(t, err)
	if string(m[10:15]) != "write" {
		t.Fatal("the mapping does not see a write")
	}
	copy(m[100:], "mapped")
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, 100); string(b) != "mapped" || err != nil {
		t.Fatal(string(b), err)
	}
	must(t, unix.Munmap(m))
	must(t, f.Close())
	if got := readAll(t, dir+"/a"); got[pageSize-3:pageSize+3] != "across" || got[100:106] != "mapped" {
		t.Fatal(shorten(got))
	}
}

func testSpecial(t *testing.T, dir string) {
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	r := open(t, dir+"/fifo", os.O_RDWR)
	_, err := r.WriteString("through")
	must(t, err)
	b := make([]byte, 7)
	if _, err := r.Read(b); string(b) != "through" || err != nil {
		t.Fatal(string(b), err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", dir+"/socket")
	must(t, err)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", dir+"/socket")
	must(t, err)
	must(t, c.Close())
	must(t, l.Close())
	if st := stat(t, dir+"/fifo"); st.Mode != syscall.S_IFIFO|0o600 {
		t.Fatal(st.Mode)
	}
}

func testAttributes(t *testing.T, dir string) {
	path := dir + "/a"
	must(t, os.WriteFile(path, []byte("x"), 0o644))
	must(t, os.Chmod(path, 0o600))
	must(t, os.Chown(path, 12, 34))
	when := time.Unix(1234567890, 987654321)
	must(t, os.Chtimes(path, when, when))
	st := stat(t, path)
	if st.Mode != syscall.S_IFREG|0o600 || st.Uid != 12 || st.Gid != 34 || time.Unix(st.Mtim.Unix()) != when || time.Unix(st.Atim.Unix()) != when {
		t.Fatalf("%+v", st)
	}
	_, err := unix.Getxattr(path, "user.none", nil)
	wantErr(t, err, syscall.ENODATA)
	must(t, unix.Setxattr(path, "user.one", []byte("1"), unix.XATTR_CREATE))
	wantErr(t, unix.Setxattr(path, "user.one", nil, unix.XATTR_CREATE), syscall.EEXIST)
	must(t, unix.Setxattr(path, "user.none", nil, 0))
	b := make([]byte, 100)
	n, err := unix.Listxattr(path, b)
	if string(b[:max(n, 0)]) != "user.none\x00user.one\x00" || err != nil {
		t.Fatal(string(b[:n]), err)
	}
	must(t, unix.Removexattr(path, "user.none"))
	if n, err := unix.Getxattr(path, "user.one", b); string(b[:max(n, 0)]) != "1" || err != nil {
		t.Fatal(n, err)
	}
	must(t, os.Chmod(path, os.ModeSetuid|0o755))
	as(t, 12, open(t, dir, os.O_RDONLY), "echo more >>a")
	if st := stat(t, path); st.Mode&syscall.S_ISUID != 0 {
		t.Fatalf("a write by somebody without privileges left the set-uid bit: %o", st.Mode)
	}
}

// as runs a shell command as somebody else in a directory, to which the way by
// its path may be barred.
func as(t *testing.T, uid uint32, dir *os.File, command string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "cd /proc/self/fd/3/. && "+command)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

func testPermissions(t *testing.T, dir string) {
	d := open(t, dir, os.O_RDONLY)
	must(t, os.Chmod(dir, 0o777))
	must(t, os.WriteFile(dir+"/secret", nil, 0o600))
	as(t, 1234, d, "! cat secret 2>/dev/null && echo mine >own && chmod 600 own && cat own && ! chown 0 own 2>/dev/null")
	if st := stat(t, dir+"/own"); st.Uid != 1234 || st.Gid != 1234 {
		t.Fatalf("%+v", st)
	}
	must(t, os.Mkdir(dir+"/group", 0o755))
	must(t, os.Chown(dir+"/group", 0, 77))
	must(t, os.Chmod(dir+"/group", os.ModeSetgid|0o775))
	must(t, os.Mkdir(dir+"/group/sub", 0o755))
	if st := stat(t, dir+"/group/sub"); st.Gid != 77 || st.Mode&syscall.S_ISGID == 0 {
		t.Fatalf("%+v", st)
	}
}

func testDirectories(t *testing.T, dir string) {
	const many = 1000
	for i := range many {
		must(t, os.WriteFile(fmt.Sprintf("%s/%04d", dir, i), nil, 0o644))
	}
	d := open(t, dir, os.O_RDONLY)
	seen := map[string]int{}
	for i := 0; ; i++ {
		names, err := d.Readdirnames(37)
		if err != nil {
			break
		}
		for _, name := range names {
			seen[name]++
		}
		// What is removed and made meanwhile must not disturb the others.
		must(t, os.Remove(fmt.Sprintf("%s/%04d", dir, i)))
		must(t, os.WriteFile(fmt.Sprintf("%s/new%d", dir, i), nil, 0o644))
		must(t, os.Rename(fmt.Sprintf("%s/%04d", dir, many-1-i), fmt.Sprintf("%s/moved%d", dir, i)))
	}
	for i := 100; i < many-100; i++ {
		if name := fmt.Sprintf("%04d", i); seen[name] != 1 {
			t.Fatalf("%s was listed %d times", name, seen[name])
		}
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	if len(names) != many {
		t.Fatal(len(names))
	}
	if !slices.IsSortedFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) {
		t.Fatal("unsorted")
	}
}

func testLocks(t *testing.T, dir string) {
	a, b := open(t, dir+"/lock", os.O_RDWR|os.O_CREATE), open(t, dir+"/lock", os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	wantErr(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EWOULDBLOCK)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	must(t, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &lock))
	wantErr(t, unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &lock), syscall.EAGAIN)
}

func testDirect(t *testing.T, dir string) {
	b, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer unix.Munmap(b) //nolint:errcheck // the test is over
	f := open(t, dir+"/a", os.O_RDWR|os.O_CREATE|syscall.O_DIRECT)
	copy(b, "aligned")
	_, err = f.WriteAt(b, 0)
	must(t, err)
	clear(b)
	if _, err := f.ReadAt(b, 0); !bytes.HasPrefix(b, []byte("aligned")) || err != nil {
		t.Fatal(err)
	}
}

func testCopy(t *testing.T, dir string) {
	a, b := open(t, dir+"/a", os.O_RDWR|os.O_CREATE), open(t, dir+"/b", os.O_RDWR|os.O_CREATE)
	_, err := a.WriteString("0123456789")
	must(t, err)
	from, to := int64(2), int64(5000)
	if n, err := unix.CopyFileRange(int(a.Fd()), &from, int(b.Fd()), &to, 5, 0); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if got := readAll(t, dir+"/b"); got != strings.Repeat("\x00", 5000)+"23456" {
		t.Fatal(shorten(got))
	}
}
