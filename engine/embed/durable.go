package embed

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// POSIX lets fsync of a file make its content durable and not its name: a file
// whose directory was not synced may be gone when the power fails, and all that
// is below a directory whose name was not. etcd syncs what it writes, and the
// names of later files of its log, but neither that of the first file and of the
// store, nor the directories above them. A node that came back without them would
// take itself for a new one, and forget what it acknowledged (found by the lab:
// see docs/track-record.md). So Start makes the directories before etcd does, and
// syncs the names of the log and the store as soon as etcd has begun: a new member
// may have voted by then, for some milliseconds.

// memberDirs are the directories that etcd expects, in the order in which they
// are made.
func memberDirs(dir string) []string {
	member := filepath.Join(dir, "member")
	return []string{dir, member, filepath.Join(member, "snap")}
}

// makeDirs makes a directory, and those above it that are missing, so that they
// are still there after a power failure.
func makeDirs(dir string) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Also where it was there: whoever made it may have died before this.
	return syncDir(parent)
}

// syncTree makes a directory durable with everything below it.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		if d.IsDir() {
			return syncDir(path)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
