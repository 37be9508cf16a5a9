//go:build linux

package faultfs

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

// Config describes a filesystem. Only Mount is needed.
type Config struct {
	Mount        string        // an existing directory; its owner and mode become those of the root
	Quota        int64         // bytes of file content before ENOSPC; default 4 GiB
	FsyncLatency time.Duration // mean time of an fsync; default 1ms, negative is none
	Seed         uint64        // of everything random: latencies, probabilities, which bit
	Log          io.Writer     // what the daemon has to say; default: nowhere

	patience time.Duration // how long killed processes may take to let go of the mount at a crash
}

// Counters are what the filesystem did since it started.
type Counters struct {
	Ops          map[string]int64 `json:"ops"`           // requests by name, as in Rule.Ops
	BytesRead    int64            `json:"bytes_read"`    // that reached the daemon; the kernel's cache answers the rest
	BytesWritten int64            `json:"bytes_written"` // by processes
	Fsyncs       int64            `json:"fsyncs"`        // fsync, fdatasync and fsync of directories
	Used         int64            `json:"used"`          // bytes of pages that count against the quota
	Files        int64            `json:"files"`         // inodes
	PendingOps   int              `json:"pending_ops"`   // operations that no fsync made durable
	PendingBytes int64            `json:"pending_bytes"` // of content in them
	WrittenBack  int64            `json:"written_back"`  // operations that went to the disk because too many were pending
	Crashes      int64            `json:"crashes"`
	Faults       map[string]int64 `json:"faults"` // operations that met a rule, by ID
}

// Dump says what to copy out of the filesystem, and where to.
type Dump struct {
	Dir      string  `json:"dir"`       // is made; must not be below the mount point
	Disk     bool    `json:"disk"`      // what would survive by Profile if the power failed now, instead of what processes see
	Profile  Profile `json:"profile"`   // for Disk; default Ext4Ordered
	MaxFile  int64   `json:"max_file"`  // larger files are left out; default 64 MiB
	MaxTotal int64   `json:"max_total"` // stops there; default 1 GiB
}

// Dumped is what was copied.
type Dumped struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Skipped []string `json:"skipped"` // what the limits left out
}

// FS is a mounted filesystem and the process that serves it. Its methods may be
// called concurrently.
type FS struct {
	mount   string
	cmd     *exec.Cmd
	kill    context.CancelFunc
	control *os.File
	ended   chan struct{} // closed when the process ended and nobody reads its answers any more

	writing sync.Mutex // one request at a time
	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[uint64]chan<- reply // nil when the daemon is gone
	why     error                   // it is gone
}

// ErrGone is that the filesystem is closed, or its process has died.
var ErrGone = errors.New("the filesystem is gone")

const (
	defaultQuota        = 4 << 30
	defaultFsyncLatency = time.Millisecond
	defaultPatience     = 5 * time.Second
)

// Start mounts an empty filesystem and starts the process that serves it. It
// checks that what is written through the mount point arrives there. ctx bounds
// only the start.
func Start(ctx context.Context, c Config) (*FS, error) {
	config, err := c.daemon()
	if err != nil {
		return nil, err
	}
	f, err := spawn(context.WithoutCancel(ctx), config, c.Log)
	if err != nil {
		return nil, fmt.Errorf("filesystem %s: %w", c.Mount, err)
	}
	err = f.await(ctx)
	if err == nil {
		err = f.probe(ctx)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), defaultPatience)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("filesystem %s: %w", c.Mount, err), f.Close(ctx))
	}
	return f, nil
}

// daemon checks the configuration and completes it.
func (c Config) daemon() (d daemonConfig, err error) {
	mount, err := filepath.Abs(c.Mount)
	if err == nil {
		mount, err = filepath.EvalSymlinks(mount)
	}
	if err != nil {
		return d, fmt.Errorf("mount point: %w", err)
	}
	info, err := os.Stat(mount)
	if err != nil {
		return d, fmt.Errorf("mount point: %w", err)
	}
	if !info.IsDir() {
		return d, fmt.Errorf("mount point %s: not a directory", mount)
	}
	if c.Quota < 0 {
		return d, fmt.Errorf("quota %d: has to be positive", c.Quota)
	}
	d = daemonConfig{
		Mount: mount, Quota: cmp.Or(c.Quota, defaultQuota), FsyncLatency: cmp.Or(c.FsyncLatency, defaultFsyncLatency), Seed: c.Seed,
		Patience: cmp.Or(c.patience, defaultPatience),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		d.UID, d.GID, d.Mode = st.Uid, st.Gid, st.Mode
	}
	return d, nil
}

// spawn starts the process, which lives until Close.
func spawn(ctx context.Context, config daemonConfig, log io.Writer) (*FS, error) {
	arg, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()                 //nolint:errcheck // the child has it
	ctx, kill := context.WithCancel(ctx) // until Close
	f := &FS{
		mount: config.Mount, cmd: stage.Command(ctx, stageName, string(arg)), kill: kill, control: ours,
		ended: make(chan struct{}), waiting: map[uint64]chan<- reply{},
	}
	f.cmd.Stderr = log
	f.cmd.ExtraFiles = []*os.File{theirs}
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // not what a terminal interrupts
	f.cmd.WaitDelay = time.Second
	if err := f.cmd.Start(); err != nil {
		kill()
		return nil, errors.Join(err, ours.Close())
	}
	return f, nil
}

// await reads the first line of the daemon and lets answers be read.
func (f *FS) await(ctx context.Context) error {
	up := make(chan reply, 1)
	f.waiting[0] = up
	go f.receive()
	select {
	case r, ok := <-up:
		if !ok {
			return f.gone()
		}
		if r.Error != "" {
			return errors.New(r.Error)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// receive hands out answers until the daemon ends; Close waits for it.
func (f *FS) receive() {
	defer close(f.ended)
	lines := bufio.NewScanner(f.control)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		f.mu.Lock()
		answer := f.waiting[r.ID]
		delete(f.waiting, r.ID)
		f.mu.Unlock()
		if answer != nil {
			answer <- r // has room for it
		}
	}
	err := f.cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, answer := range f.waiting {
		close(answer)
	}
	f.waiting = nil
	f.why = err
}

// gone says why nobody answers.
func (f *FS) gone() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.why != nil {
		return fmt.Errorf("%w: its process ended: %w", ErrGone, f.why)
	}
	return ErrGone
}

// call sends a request and waits for its answer.
func (f *FS) call(ctx context.Context, r request, result any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	answer := make(chan reply, 1)
	f.mu.Lock()
	if f.waiting == nil {
		f.mu.Unlock()
		return f.gone()
	}
	f.next++
	r.ID = f.next
	f.waiting[r.ID] = answer
	f.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f.writing.Lock()
	_, err = f.control.Write(append(line, '\n'))
	f.writing.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case a, ok := <-answer:
		switch {
		case !ok:
			return f.gone()
		case a.Error != "":
			return errors.New(a.Error)
		case result != nil:
			return json.Unmarshal(a.Result, result)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// probe writes a file and makes sure that the daemon saw the bytes: a kernel
// can be told to keep them to itself, and then every fault would be a fiction.
func (f *FS) probe(ctx context.Context) error {
	before, err := f.Counters(ctx)
	if err != nil {
		return err
	}
	const size = 3 * pageSize / 2
	path := filepath.Join(f.mount, ".holdfast-probe")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	after, err := f.Counters(ctx)
	if err == nil && after.BytesWritten-before.BytesWritten != size {
		err = fmt.Errorf("of %d bytes written the daemon saw %d: the kernel passes it by", size, after.BytesWritten-before.BytesWritten)
	}
	return err
}

// Inject adds a rule. Its ID must not be in use.
func (f *FS) Inject(ctx context.Context, r Rule) error {
	return f.call(ctx, request{Call: callInject, Rule: &r}, nil)
}

// Remove ends a rule and lets go on what it stalled. Its count remains.
func (f *FS) Remove(ctx context.Context, id string) error {
	return f.call(ctx, request{Call: callRemove, Name: id}, nil)
}

// Touched is how many operations the rule changed so far.
func (f *FS) Touched(ctx context.Context, id string) (n int64, err error) {
	return n, f.call(ctx, request{Call: callTouched, Name: id}, &n)
}

// Flip flips n bits at rest, in files that match the glob, on the disk and in
// what processes see, and returns where: "path:offset.bit".
func (f *FS) Flip(ctx context.Context, glob string, n int, seed uint64) (where []string, err error) {
	return where, f.call(ctx, request{Call: callFlip, Name: glob, N: n, Seed: seed}, &where)
}

// Crash is the power failure. The caller has ended every process that used the
// filesystem; if one is left, nothing happens but an error that names it.
// Afterwards the filesystem is mounted anew on the same place. Rules stay.
func (f *FS) Crash(ctx context.Context, c Crash) (l Losses, err error) {
	return l, f.call(ctx, request{Call: callCrash, Crash: &c}, &l)
}

// Sync makes everything durable, as syncfs would if the kernel told a FUSE
// filesystem of it.
func (f *FS) Sync(ctx context.Context) error { return f.call(ctx, request{Call: callSync}, nil) }

// Counters returns the counters.
func (f *FS) Counters(ctx context.Context) (c Counters, err error) {
	return c, f.call(ctx, request{Call: callCounters}, &c)
}

// Dump copies the filesystem into a real directory, because its content is gone
// when it is closed.
func (f *FS) Dump(ctx context.Context, d Dump) (n Dumped, err error) {
	return n, f.call(ctx, request{Call: callDump, Dump: &d}, &n)
}

// Done is closed when the filesystem is gone: after Close, or because its
// process has died.
func (f *FS) Done() <-chan struct{} { return f.ended }

// Close unmounts the filesystem and ends its process; the content is lost. When
// ctx ends first the process is killed.
func (f *FS) Close(ctx context.Context) error {
	f.mu.Lock()
	gone := f.waiting == nil
	f.mu.Unlock()
	if !gone {
		f.hangUp()
	}
	select {
	case <-f.ended:
	case <-ctx.Done():
		f.kill()
		<-f.ended
		_ = unix.Unmount(f.mount, unix.MNT_DETACH)
	}
	f.kill()
	err := f.control.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// hangUp tells the daemon to end; what it still answers can be read.
func (f *FS) hangUp() {
	if raw, err := f.control.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}
