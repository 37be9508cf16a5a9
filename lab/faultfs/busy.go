//go:build linux

package faultfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// deviceOf returns the device number of what is mounted on a path, as
// major:minor, without asking the filesystem.
func deviceOf(mount string) (string, error) {
	if real, err := filepath.EvalSymlinks(filepath.Dir(mount)); err == nil {
		mount = filepath.Join(real, filepath.Base(mount))
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	dev := ""
	escape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// ID, parent, major:minor, root, mount point, …
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && escape.Replace(fields[4]) == mount {
			dev = fields[2] // the last one is on top
		}
	}
	if dev == "" {
		return "", fmt.Errorf("nothing is mounted on %s", mount)
	}
	return dev, nil
}

// process is one that uses a mount.
type process struct {
	pid       int
	name, why string
}

func (u process) String() string { return fmt.Sprintf("%s (pid %d, %s)", u.name, u.pid, u.why) }

// usersOf returns the processes other than this one, of all namespaces that its
// /proc shows, that have something of the device open or mapped, or are in it.
func usersOf(dev string) (users []process) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range procs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() {
			continue
		}
		if why := usedBy(dir, dev); why != "" {
			name, _ := os.ReadFile(dir + "/comm")
			users = append(users, process{pid, strings.TrimSpace(string(name)), why})
		}
	}
	return users
}

// usedBy says how a process uses the device, "" if it does not.
func usedBy(proc, dev string) string {
	for _, link := range [...]string{"cwd", "root", "exe"} {
		if on(proc+"/"+link, dev) {
			return link
		}
	}
	fds, _ := os.ReadDir(proc + "/fd")
	for _, fd := range fds {
		if path := proc + "/fd/" + fd.Name(); on(path, dev) {
			name, _ := os.Readlink(path)
			return "has " + name + " open"
		}
	}
	major, minor, _ := strings.Cut(dev, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if errors.Join(err1, err2) != nil {
		return ""
	}
	hex := fmt.Sprintf("%02x:%02x", a, b)
	maps, _ := os.ReadFile(proc + "/maps")
	for line := range strings.Lines(string(maps)) {
		// range, rights, offset, major:minor, inode, path
		if f := strings.Fields(line); len(f) > 3 && f[3] == hex {
			return "has mapped " + f[len(f)-1]
		}
	}
	return ""
}

// on reports whether a link of /proc leads to the device; the filesystem is not
// asked, so one that hangs does not hang this.
func on(link, dev string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st); err != nil {
		return false
	}
	return fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor) == dev
}

// killed reports whether a thread has SIGKILL pending, is on its way out, or is
// gone.
func killed(tid int) bool {
	proc := "/proc/" + strconv.Itoa(tid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		if bits, ok := strings.CutPrefix(line, "SigPnd:"); ok {
			if set, _ := strconv.ParseUint(strings.TrimSpace(bits), 16, 64); set&(1<<(unix.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	// After the name, which may hold anything, come state, parent, group,
	// session, terminal, its group, flags.
	const exiting = 0x4
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return true
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return false
	}
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	return flags&exiting != 0
}
