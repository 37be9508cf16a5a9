//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A lab is named after the process that started it: its pid namespace, its id
// there and when it began, in the kernel's clock ticks. So it can be told from
// the name alone whether that process still lives.

// runs counts the labs of this process.
var runs atomic.Int64

// runID names the lab that this process belongs to.
func runID() string {
	if id, ok := os.LookupEnv(markerLab); ok && id != "" {
		return id
	}
	return ownID() + "-0"
}

// newRunID names a new lab of this process.
func newRunID() string { return fmt.Sprintf("%s-%d", ownID(), runs.Add(1)) }

func ownID() string {
	pid := os.Getpid()
	return fmt.Sprintf("%s-%d-%s", pidNamespace(), pid, startTime(pid))
}

// pidNamespace is the number of this process's pid namespace.
func pidNamespace() string {
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "0"
	}
	return strings.Trim(link, "pid:[]")
}

// startTime is when a process began, "" when there is none.
func startTime(pid int) string {
	data, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	f := strings.Fields(rest)
	const field = 22 - 3 // the numbering of proc(5), of which this is the third on
	if len(f) <= field || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[field]
}

// dead tells whether the lab of that name ended. It says no when it cannot know.
func dead(id string) bool {
	f := strings.Split(id, "-")
	if len(f) != 4 || f[0] != pidNamespace() {
		return false
	}
	pid, err := strconv.Atoi(f[1])
	return err == nil && startTime(pid) != f[2]
}

// Clean ends and removes what dead labs left behind: processes, cgroups, and
// mounts whose filesystem nobody serves. It returns what that was, one line
// each. A lab lives as long as the process that started it; labs of other pid
// namespaces are left alone.
func Clean(ctx context.Context) ([]string, error) { return clean(ctx, dead) }

// cleanRun removes what one lab, which has ended, could not remove itself.
func cleanRun(ctx context.Context, lab string) {
	_, _ = clean(ctx, func(id string) bool { return id == lab }) // Clean finds it again
}

func clean(ctx context.Context, dead func(id string) bool) (done []string, err error) {
	var errs []error
	killed, err := killStray(ctx, dead)
	done, errs = append(done, killed...), append(errs, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for line := range strings.Lines(string(mounts)) {
		m, ok := parseMount(line)
		if !ok || !m.disk() {
			continue
		}
		if _, err := os.Stat(m.point); !errors.Is(err, syscall.ENOTCONN) {
			continue
		}
		if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: m.point, Err: err})
			continue
		}
		done = append(done, "mount "+m.point)
	}
	for _, m := range cgroupMounts(string(mounts)) {
		groups, err := cleanCgroups(m.point, dead)
		done, errs = append(done, groups...), append(errs, err)
	}
	return done, errors.Join(errs...)
}

// killStray kills processes of dead labs, and waits until they are gone.
func killStray(ctx context.Context, dead func(id string) bool) (done []string, err error) {
	t, err := readTable()
	if err != nil {
		return nil, err
	}
	for _, e := range t {
		data, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(e.pid), "environ"))
		if err != nil || e.pid == os.Getpid() {
			continue
		}
		for kv := range strings.SplitSeq(string(data), "\x00") {
			id, ok := strings.CutPrefix(kv, markerLab+"=")
			if !ok || !dead(id) {
				continue
			}
			if err := killPID(ctx, e.pid); err != nil {
				return done, fmt.Errorf("process %d (%s) of lab %s: %w", e.pid, e.command, id, err)
			}
			done = append(done, fmt.Sprintf("process %d (%s) of lab %s", e.pid, e.command, id))
			break
		}
	}
	return done, nil
}

// killPID kills a process and waits for its end.
func killPID(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("kill", err)
	}
	for range int(killTime.Milliseconds() / 100) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
	return errNotDead
}

// cleanCgroups removes the cgroups of dead labs below a directory.
func cleanCgroups(root string, dead func(id string) bool) (done []string, err error) {
	var errs []error
	_ = filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not ours
		}
		id, ok := strings.CutPrefix(d.Name(), cgroupPrefix)
		if !ok {
			return nil
		}
		if !dead(id) {
			return fs.SkipDir
		}
		hosts, _ := os.ReadDir(dir)
		for _, h := range hosts {
			if h.IsDir() {
				errs = append(errs, removeCgroup(filepath.Join(dir, h.Name())))
			}
		}
		if err := removeCgroup(dir); err != nil {
			errs = append(errs, err)
		} else {
			done = append(done, "cgroup "+dir)
		}
		return fs.SkipDir
	})
	return done, errors.Join(errs...)
}
