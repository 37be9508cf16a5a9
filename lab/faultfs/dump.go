//go:build linux

package faultfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	defaultMaxFile  = 64 << 20
	defaultMaxTotal = 1 << 30
)

// dump copies one of the images out.
func (d *daemon) dump(ctx context.Context, what Dump) (n Dumped, err error) {
	if !filepath.IsAbs(what.Dir) || what.Dir == d.Mount || strings.HasPrefix(what.Dir, d.Mount+"/") {
		return n, fmt.Errorf("dump: %q has to be an absolute path that is not below the mount point", what.Dir)
	}
	d.mu.Lock()
	var m *image
	if what.Disk {
		m = d.v.survivors(Crash{Profile: what.Profile}, d.now())
	} else {
		m = d.v.cache.clone()
	}
	d.mu.Unlock()
	return m.export(ctx, what)
}

// export writes an image, that nobody else uses, into a directory.
func (m *image) export(ctx context.Context, what Dump) (n Dumped, err error) {
	maxFile, maxTotal := cmp.Or(what.MaxFile, defaultMaxFile), cmp.Or(what.MaxTotal, defaultMaxTotal)
	if err := os.MkdirAll(what.Dir, 0o755); err != nil {
		return n, err
	}
	root, err := os.OpenRoot(what.Dir)
	if err != nil {
		return n, err
	}
	defer root.Close() //nolint:errcheck // nothing is buffered
	var errs []error
	m.walk(func(path string, node *inode) {
		if path == "" || ctx.Err() != nil || len(errs) > 10 {
			return
		}
		var err error
		switch node.kind() {
		case syscall.S_IFDIR:
			err = root.Mkdir(path, 0o755)
		case syscall.S_IFLNK:
			err = root.Symlink(node.target, path)
		case syscall.S_IFREG:
			held := node.data.n * pageSize
			if held > maxFile || n.Bytes+held > maxTotal {
				n.Skipped = append(n.Skipped, path)
				return
			}
			n.Bytes += held
			err = node.export(root, path)
		default:
			return // sockets and pipes
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, err)
			return
		}
		n.Files++
	})
	return n, errors.Join(append(errs, ctx.Err())...)
}

func (n *inode) export(root *os.Root, path string) (err error) {
	f, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, os.FileMode(n.mode&0o777)|0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(n.size); err != nil {
		return err
	}
	n.data.each(func(i int64, p *page) {
		if err == nil && i*pageSize < n.size {
			_, err = f.WriteAt(p[:min(pageSize, n.size-i*pageSize)], i*pageSize)
		}
	})
	mtime := time.Unix(0, n.mtime)
	return errors.Join(err, root.Chtimes(path, time.Time{}, mtime))
}
