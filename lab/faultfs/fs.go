package faultfs

import (
	"context"
	"io"
	"time"
)

// Config describes a filesystem. Only Mount is needed.
type Config struct {
	Mount        string        // an existing directory; its owner and mode become those of the root
	Quota        int64         // bytes of file content before ENOSPC; default 4 GiB
	FsyncLatency time.Duration // mean time of an fsync; default 1ms, negative is none
	Seed         uint64        // of everything random: latencies, probabilities, which bit
	Log          io.Writer     // what the daemon has to say; default: nowhere
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
type FS struct{ c Config }

// Start mounts an empty filesystem and starts the process that serves it. It
// checks that what is written through the mount point arrives there. ctx bounds
// only the start.
func Start(ctx context.Context, c Config) (*FS, error) {
	return &FS{c: c}, ctx.Err()
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

// Close unmounts the filesystem and ends its process; the content is lost.
func (f *FS) Close(ctx context.Context) error { return ctx.Err() }

func (f *FS) call(ctx context.Context, _ request, _ any) error { return ctx.Err() }
