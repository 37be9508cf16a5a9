//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package embed

import (
	"os"
	"path/filepath"
)

// lockDir makes dir, if it is missing, and a file in it. This system cannot
// tell whether another node has it.
func lockDir(dir string) (*os.File, error) {
	if err := makeDirs(dir); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
}

// syncDir does nothing: directories cannot be synced here.
func syncDir(string) error { return nil }
