package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/faultfs"
)

// loopback is the plainest FUSE filesystem there is: it hands every operation
// on to a directory. It is another process, as the lab's is.
const loopback = "bench-loopback"

func init() { stage.Register(loopback, serveLoopback) }

// serveLoopback serves args[0] on args[1] until its standard input ends.
func serveLoopback(args []string) int {
	root, err := fusefs.NewLoopbackRoot(args[0])
	if err != nil {
		return 1
	}
	server, err := fusefs.Mount(args[1], root, &fusefs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "loopback", Name: "loopback", MaxWrite: 1 << 20,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // or it would see nothing, and nothing would be compared
	}})
	if err != nil {
		return 1
	}
	if _, err := os.NewFile(1, "stdout").WriteString("."); err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.NewFile(0, "stdin"))
	if server.Unmount() != nil {
		return 1
	}
	return 0
}

// startLoopback mounts dir on mount, and returns how to end that.
func startLoopback(ctx context.Context, dir, mount string) (end func() error, err error) {
	cmd := stage.Command(ctx, loopback, dir, mount)
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	up, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() error { return errors.Join(hold.Close(), cmd.Wait()) }
	if _, err := up.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("loopback: %w", err), end())
	}
	return end, nil
}

// A fileLoad is what a worker does to a directory of its own.
type fileLoad struct {
	what    string
	make    func(dir string) (pair, io.Closer, error)
	atLeast float64 // of the loopback's rate
}

// labfs compares the lab's fault filesystem, its latency of fsync switched off,
// with a loopback and with the disk below it. The lab's keeps everything in
// memory, so that its fsync costs less than any disk's; the native disk shows
// what a program under test pays for being in the lab.
func labfs(ctx context.Context, b *bench) (rows []row, err error) {
	dirs := map[string]string{}
	for _, name := range []string{"native", "backing", "loopback", "faultfs"} {
		dirs[name] = filepath.Join(b.dir, name)
		if err := os.Mkdir(dirs[name], 0o755); err != nil {
			return nil, err
		}
	}
	fault, err := faultfs.Start(ctx, faultfs.Config{Mount: dirs["faultfs"], FsyncLatency: -1, Log: b.log})
	if err != nil { // without the right to mount there is nothing to compare
		return []row{{What: "files", Missing: err.Error()}}, nil
	}
	defer func() { err = errors.Join(err, fault.Close(context.WithoutCancel(ctx))) }()
	end, err := startLoopback(ctx, dirs["backing"], dirs["loopback"])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	for _, l := range fileLoads {
		var arms []arm
		var open []io.Closer
		for _, name := range []string{"faultfs", "loopback", "native"} {
			work, closer, err := l.make(dirs[name])
			if err != nil {
				return rows, fmt.Errorf("%s on %s: %w", l.what, name, err)
			}
			open = append(open, closer)
			arms = append(arms, arm{name: name, workers: []pair{work}})
		}
		s, err := b.measure(ctx, arms...)
		for _, c := range open {
			err = errors.Join(err, c.Close())
		}
		if err != nil {
			return rows, fmt.Errorf("%s: %w", l.what, err)
		}
		rows = append(rows, s[0].against(s[1], l.what, l.atLeast), s[0].against(s[2], l.what, 0))
	}
	return rows, nil
}

var fileLoads = []fileLoad{
	{"append 200 B", writes(200, 64<<20, false), 0.9},
	{"write 4 KB", writes(4<<10, 16<<20, false), 0.9},
	{"write 1 MB", writes(1<<20, 64<<20, false), 0.8},
	{"append 200 B and fsync", writes(200, 16<<20, true), 1},
	{"stat", stats, 0.8},
	{"create and rename over", replacements, 0.8},
}

// writes writes so much at a time, one after the other up to a limit and then
// from the start.
func writes(size, limit int64, sync bool) func(dir string) (pair, io.Closer, error) {
	return func(dir string) (pair, io.Closer, error) {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("w%d", size)), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		data, at := make([]byte, size), int64(0)
		return func(context.Context) error {
			if at+size > limit {
				at = 0
			}
			if _, err := f.WriteAt(data, at); err != nil {
				return err
			}
			at += size
			if sync {
				return f.Sync()
			}
			return nil
		}, f, err
	}
}

func stats(dir string) (pair, io.Closer, error) {
	path := filepath.Join(dir, "s")
	f, err := os.Create(path)
	return func(context.Context) error {
		_, err := os.Lstat(path)
		return err
	}, f, err
}

func replacements(dir string) (pair, io.Closer, error) {
	path, data := filepath.Join(dir, "r"), make([]byte, 100)
	return func(context.Context) error {
		if err := os.WriteFile(path+".tmp", data, 0o644); err != nil {
			return err
		}
		return os.Rename(path+".tmp", path)
	}, io.NopCloser(nil), nil
}
