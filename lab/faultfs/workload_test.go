//go:build linux

package faultfs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
)

// fsyncDir is what a careful program does after it made a file.
func fsyncDir(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

// count makes n transactions of one increment each and returns how many were
// acknowledged.
func count(db *bbolt.DB, n int) (acked int) {
	for range n {
		if db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			next := binary.BigEndian.AppendUint64(nil, uint64(b.Stats().KeyN))
			return b.Put(next, bytes.Repeat(next, 50))
		}) == nil {
			acked++
		}
	}
	return acked
}

func transactions(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	must(t, err)
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("corrupt: %v", err)
		}
		if b := tx.Bucket([]byte("b")); b != nil {
			n = b.Stats().KeyN
		}
		return nil
	}))
	must(t, db.Close())
	return n
}

func TestBbolt(t *testing.T) {
	f, dir := mountTest(t, Config{})
	path := dir + "/db"
	total := 0
	for i, c := range []Crash{
		{Profile: Posix},
		{Profile: Ext4Ordered},
		{Profile: LazyFS},
		{Profile: Posix, Policy: Subset, Seed: 1},
		{Profile: Posix, Policy: Subset, Seed: 2},
		{Profile: Ext4Ordered, Policy: Subset, Seed: 3},
		{Profile: Posix, Policy: Prefix, Seed: 4},
		{Profile: Posix, Policy: TornTail, Seed: 5},
		{Profile: Ext4Ordered, Policy: TornTail, Seed: 6},
		{Profile: Ext4Ordered, Policy: Aged},
	} {
		t.Run(fmt.Sprintf("%s %s %d", c.Profile, c.Policy, i), func(t *testing.T) {
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
			must(t, err)
			fsyncDir(t, dir)
			if n := count(db, 5); n != 5 {
				t.Fatal(n)
			}
			total += 5
			// One more that is interrupted: nothing of it is synced.
			inject(t, f, Rule{ID: t.Name(), Ops: []string{"fdatasync", "fsync"}, Action: EIO})
			if n := count(db, 1); n != 0 {
				t.Fatal("fsync failed, and the transaction did not")
			}
			remove(t, f, t.Name())
			must(t, db.Close())
			_, err = f.Crash(t.Context(), c)
			must(t, err)
			if n := transactions(t, path); n != total {
				t.Fatalf("%d of %d acknowledged transactions are there", n, total)
			}
		})
	}
	t.Run("without sync", func(t *testing.T) {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true, NoGrowSync: true})
		must(t, err)
		if n := count(db, 20); n != 20 {
			t.Fatal(n)
		}
		must(t, db.Close())
		if n := transactions(t, path); n != total+20 {
			t.Fatal("lost without a power failure")
		}
		l, err := f.Crash(t.Context(), Crash{})
		must(t, err)
		if n := transactions(t, path); n != total || l.Files != 1 || l.Bytes == 0 || l.Paths[0] != "db" {
			t.Fatalf("%d, want %d, %+v", n, total, l)
		}
	})
}

// redis is a server on a directory.
type redis struct {
	cmd  *exec.Cmd
	conn net.Conn
	r    *bufio.Reader
}

func startRedis(t *testing.T, dir, fsync string) *redis {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	s := &redis{cmd: exec.CommandContext(ctx, labtest.Server(t, "redis-server", "redis-server"),
		"--port", "0", "--unixsocket", socket, "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no")}
	out := new(bytes.Buffer)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	must(t, s.cmd.Start())
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err == nil {
			s.conn, s.r = conn, bufio.NewReader(conn)
			t.Cleanup(func() { _ = conn.Close() })
			if s.ask("PING") == "+PONG" {
				return s
			}
			_ = conn.Close()
		}
		if time.Now().After(deadline) {
			s.kill(t)
			t.Fatalf("redis does not start: %v\n%s", err, out)
		}
	}
}

func (s *redis) ask(command string) string {
	if _, err := io.WriteString(s.conn, command+"\r\n"); err != nil {
		return ""
	}
	line, _ := s.r.ReadString('\n')
	if strings.HasPrefix(line, "$") && line != "$-1\r\n" {
		line, _ = s.r.ReadString('\n')
	}
	return strings.TrimSpace(line)
}

func (s *redis) count() int {
	n, _ := strconv.Atoi(s.ask("GET n"))
	return n
}

func (s *redis) kill(t *testing.T) {
	t.Helper()
	must(t, s.cmd.Process.Kill())
	_ = s.cmd.Wait()
}

func TestRedis(t *testing.T) {
	labtest.Server(t, "redis-server", "redis-server")
	const n = 300
	for _, c := range []struct {
		fsync string
		want  int
	}{{"always", n}, {"no", 0}} {
		t.Run(c.fsync, func(t *testing.T) {
			f, dir := mountTest(t, Config{})
			s := startRedis(t, dir, c.fsync)
			for i := range n {
				if got := s.ask("INCR n"); got != fmt.Sprintf(":%d", i+1) {
					t.Fatal(got)
				}
			}
			s.kill(t)
			s = startRedis(t, dir, c.fsync)
			if got := s.count(); got != n {
				t.Fatalf("kill -9 alone lost %d of %d", n-got, n)
			}
			s.kill(t)
			l, err := f.Crash(t.Context(), Crash{})
			must(t, err)
			s = startRedis(t, dir, c.fsync)
			if got := s.count(); got != c.want {
				t.Fatalf("%d of %d survived, want %d: %+v", got, n, c.want, l)
			}
			s.kill(t)
		})
	}
}

// TestRandomAccess compares a file with a copy in memory, as fsx does.
func TestRandomAccess(t *testing.T) {
	f, dir := mountTest(t, Config{})
	const limit = 64 << 10
	r := rand.New(rand.NewPCG(1, 2))
	file := open(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	fd := int(file.Fd())
	want := []byte{}
	grow := func(to int) {
		if to > len(want) {
			want = append(want, make([]byte, to-len(want))...)
		}
	}
	for step := range 600 {
		off, n := r.IntN(limit), 1+r.IntN(12<<10)
		data := bytes.Repeat([]byte{byte(step)}, n)
		switch what := r.IntN(10); what {
		case 0, 1, 2:
			_, err := file.WriteAt(data, int64(off))
			must(t, err)
			grow(off + n)
			copy(want[off:], data)
		case 3:
			must(t, file.Truncate(int64(off)))
			grow(off)
			want = want[:off]
		case 4:
			if len(want) == 0 {
				continue
			}
			m, err := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			if !bytes.Equal(m, want) {
				t.Fatalf("step %d: mapping differs", step)
			}
			off = r.IntN(len(want))
			copy(m[off:], data)
			copy(want[off:], data)
			must(t, unix.Munmap(m))
		case 5:
			must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
			if off < len(want) {
				clear(want[off:min(len(want), off+n)])
			}
		case 6:
			must(t, unix.Fallocate(fd, 0, int64(off), int64(n)))
			grow(off + n)
		case 7:
			must(t, file.Sync())
			if r.IntN(20) == 0 { // and what was synced survives
				must(t, file.Close())
				_, err := f.Crash(t.Context(), Crash{})
				must(t, err)
				file = open(t, dir+"/f", os.O_RDWR)
				fd = int(file.Fd())
			}
		default:
			got := make([]byte, n)
			k, _ := file.ReadAt(got, int64(off))
			if off >= len(want) && k == 0 {
				continue
			}
			if !bytes.Equal(got[:k], want[min(off, len(want)):min(len(want), off+n)]) {
				t.Fatalf("step %d: read of %d at %d differs", step, n, off)
			}
		}
		if info, err := file.Stat(); err != nil || info.Size() != int64(len(want)) {
			t.Fatal(step, info.Size(), len(want), err)
		}
	}
}

// TestSynchronousWrites: what is written through a descriptor with O_SYNC or
// O_DSYNC needs no fsync.
func TestSynchronousWrites(t *testing.T) {
	f, dir := mountTest(t, Config{})
	for name, flag := range map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "direct": unix.O_DSYNC | unix.O_DIRECT} {
		file := open(t, dir+"/"+name, os.O_RDWR|os.O_CREATE|flag)
		b, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		must(t, err)
		_, err = file.Write(b)
		must(t, err)
		must(t, unix.Munmap(b))
		must(t, file.Close())
	}
	l, err := f.Crash(t.Context(), Crash{})
	must(t, err)
	for _, name := range []string{"sync", "dsync", "direct"} {
		if st := stat(t, dir+"/"+name); st.Size != pageSize {
			t.Errorf("%s: %d bytes are left: %+v", name, st.Size, l)
		}
	}
}

// TestMappedWritesAreLost: pages that a process changed in memory and the kernel
// did not write back are gone with the power.
func TestMappedWritesAreLost(t *testing.T) {
	f, dir := mountTest(t, Config{})
	file := open(t, dir+"/a", os.O_RDWR|os.O_CREATE)
	must(t, file.Truncate(pageSize))
	m, err := unix.Mmap(int(file.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(m, "synced")
	must(t, unix.Msync(m, unix.MS_SYNC))
	copy(m, "unsync")
	must(t, unix.Munmap(m))
	must(t, file.Close())
	_, err = f.Crash(t.Context(), Crash{})
	must(t, err)
	if got := readAll(t, dir+"/a"); !strings.HasPrefix(got, "synced") {
		t.Fatal(shorten(got))
	}
}

func init() {
	stage.Register("faultfs-test", func(args []string) int {
		ctx := context.Background()
		f, err := Start(ctx, Config{Mount: args[0], Log: os.NewFile(2, "stderr")})
		if err == nil {
			err = os.WriteFile(args[0]+"/x", []byte("x"), 0o600)
		}
		if err == nil {
			_, err = f.Crash(ctx, Crash{})
		}
		if _, missing := os.Stat(args[0] + "/x"); err == nil && missing == nil {
			err = fmt.Errorf("what was not synced survived")
		}
		if err == nil {
			err = f.Close(ctx)
		}
		if err != nil {
			_, _ = fmt.Fprintln(os.NewFile(2, "stderr"), err)
			return 1
		}
		return 0
	})
}

func TestUserNamespace(t *testing.T) {
	labtest.Devices(t)
	cmd := stage.Command(t.Context(), "faultfs-test", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestStart(t *testing.T) {
	labtest.Devices(t)
	if _, err := Start(t.Context(), Config{Mount: t.TempDir() + "/none"}); err == nil {
		t.Error("mounted on nothing")
	}
	f, dir := mountTest(t, Config{FsyncLatency: 20 * time.Millisecond})
	file := open(t, dir+"/a", os.O_RDWR|os.O_CREATE)
	start := time.Now()
	must(t, file.Sync())
	if d := time.Since(start); d < 3*time.Millisecond {
		t.Error("fsync took only", d)
	}
	must(t, file.Close())
	if err := f.Inject(t.Context(), Rule{ID: "a", Action: "b"}); err == nil {
		t.Error("a rule without sense was accepted")
	}
	if _, err := f.Crash(t.Context(), Crash{Policy: "maybe"}); err == nil {
		t.Error("a policy that there is not")
	}
	must(t, f.Close(t.Context()))
	must(t, f.Close(t.Context()))
	wantErr(t, f.Sync(t.Context()), ErrGone)
	if _, err := os.Stat(dir + "/a"); err == nil {
		t.Error("still mounted")
	}
}
