//go:build linux

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast.dev/lab/vclock"
)

// execStage turns into the program of args[0], a spec. It is the leader of a
// session of its own already.
func execStage(args []string) int {
	runtime.LockOSThread() // the filter of the clock belongs to the thread that executes
	unix.CloseOnExec(controlFD)
	var s spec
	err := errors.New("no program")
	if len(args) == 1 {
		if err = json.Unmarshal([]byte(args[0]), &s); err == nil {
			err = s.exec()
		}
	}
	tell(map[string]string{"Err": err.Error()}, nil)
	return 127
}

// tell sends a message over the status socket. Nobody is left to hear of an
// error.
func tell(v any, f *os.File) {
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	_ = unix.Sendmsg(controlFD, data, oob, nil, 0)
}

// exec returns only with an error.
func (s spec) exec() error {
	for _, dir := range s.Give {
		if err := s.give(dir); err != nil {
			return err
		}
	}
	if s.Clock { // before root is given up: without it set-user-ID programs lose theirs
		listener, err := vclock.Install()
		if err != nil {
			return fmt.Errorf("clock: %w", err)
		}
		tell(map[string]string{}, listener)
		if err := listener.Close(); err != nil {
			return err
		}
	}
	if s.Drop {
		if err := syscall.Setgroups([]int{s.GID}); err != nil {
			return fmt.Errorf("user %s: %w", s.User, err)
		}
		if err := syscall.Setresgid(s.GID, s.GID, s.GID); err != nil {
			return fmt.Errorf("user %s: %w", s.User, err)
		}
		if err := syscall.Setresuid(s.UID, s.UID, s.UID); err != nil {
			return fmt.Errorf("user %s: %w", s.User, err)
		}
	}
	if err := os.Chdir(s.Dir); err != nil {
		return fmt.Errorf("%w%s", err, s.hint(err))
	}
	path, err := lookPath(s.Argv[0], s.Env)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, s.Argv, s.Env)
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: neither a program for this machine nor a script that names its interpreter", path)
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%s: the interpreter in its first line, or its loader, does not exist", path)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %w: not executable%s", path, err, s.hint(err))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// give makes a directory and, if it belongs to root and the process will not,
// gives it to the process.
func (s spec) give(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if !s.Drop {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return nil
	}
	return os.Chown(dir, s.UID, s.GID)
}

// hint says what helps against a refusal.
func (s spec) hint(err error) string {
	if s.Drop && errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf(" for user %s (every directory above must let others pass)", s.User)
	}
	return ""
}

// lookPath finds a program as a shell would, in the PATH of env.
func lookPath(program string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		return program, executable(program)
	}
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			continue
		}
		if file := filepath.Join(dir, program); executable(file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w (%s)", program, exec.ErrNotFound, path)
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s: is a directory", file)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s: not executable: %w", file, err)
	}
	return nil
}
