//go:build linux

package host

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupPrefix begins the names of the lab's cgroups; a run's id follows, and
// below it is one for each host.
const cgroupPrefix = "holdfast-lab-"

// cgroup limits the CPU time of a host, with version 1 or 2 of the interface.
// The methods of a nil one do nothing.
type cgroup struct {
	dir string
	v2  bool
}

// newCgroup makes a cgroup for a host, or returns nil where that is not allowed.
func newCgroup(host string) *cgroup {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	for _, place := range cgroupPlaces(string(mounts), string(own)) {
		g := &cgroup{dir: filepath.Join(place.dir, cgroupPrefix+runID(), host), v2: place.v2}
		if g.make() == nil {
			return g
		}
		g.remove()
	}
	return nil
}

// cgroupPlace is a directory below which a cgroup may be made.
type cgroupPlace struct {
	dir string
	v2  bool
}

// cgroupPlaces are the places to try: where this process is, and above. Version
// 1 comes first, because where both are mounted it has the CPU controller.
func cgroupPlaces(mountinfo, own string) []cgroupPlace {
	var places []cgroupPlace
	for _, m := range cgroupMounts(mountinfo) {
		for line := range strings.Lines(own) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) != 3 || m.v2 != (f[0] == "0" && f[1] == "") || !m.v2 && !slices.Contains(strings.Split(f[1], ","), "cpu") {
				continue
			}
			rel, ok := strings.CutPrefix(f[2], strings.TrimSuffix(m.root, "/"))
			if !ok {
				rel = "/"
			}
			for rel = path.Clean("/" + rel); ; rel = path.Dir(rel) {
				places = append(places, cgroupPlace{filepath.Join(m.point, rel), m.v2})
				if rel == "/" {
					break
				}
			}
		}
	}
	return places
}

// cgroupMount is where a hierarchy with CPU controller may be.
type cgroupMount struct {
	root, point string
	v2          bool
}

func cgroupMounts(mountinfo string) []cgroupMount {
	var v1, v2 []cgroupMount
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMount(line)
		switch {
		case !ok:
		case m.kind == "cgroup" && slices.Contains(strings.Split(m.options, ","), "cpu"):
			v1 = append(v1, cgroupMount{m.root, m.point, false})
		case m.kind == "cgroup2":
			v2 = append(v2, cgroupMount{m.root, m.point, true})
		}
	}
	return append(v1, v2...)
}

// mount is a line of /proc/PID/mountinfo.
type mount struct{ root, point, kind, options string }

func parseMount(line string) (mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 2 {
		return mount{}, false
	}
	m := mount{root: unescape(l[3]), point: unescape(l[4]), kind: r[0]}
	if len(r) > 2 {
		m.options = r[2]
	}
	return m, true
}

// disk tells whether it is a disk of lab/faultfs.
func (m mount) disk() bool { return m.kind == "fuse.faultfs" }

// unescape undoes the octal escapes of blanks in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (g *cgroup) make() error {
	run := filepath.Dir(g.dir)
	if err := os.Mkdir(run, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if g.v2 {
		if err := os.WriteFile(filepath.Join(run, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
			return err
		}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	_, err := os.Stat(filepath.Join(g.dir, g.limitFile()))
	return err
}

func (g *cgroup) limitFile() string {
	if g.v2 {
		return "cpu.max"
	}
	return "cpu.cfs_quota_us"
}

// add puts a process into the group, and with it all that it will start.
func (g *cgroup) add(pid int) error {
	if g == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// limit gives the group a share of one core; 0 is no limit.
func (g *cgroup) limit(share float64) error {
	quota := int64(share * float64(period.Microseconds()))
	text := strconv.FormatInt(quota, 10)
	if share == 0 {
		text = "-1"
		if g.v2 {
			text = "max"
		}
	}
	if g.v2 {
		text = fmt.Sprintf("%s %d", text, period.Microseconds())
	} else if err := g.write("cpu.cfs_period_us", strconv.FormatInt(period.Microseconds(), 10)); err != nil {
		return err
	}
	return g.write(g.limitFile(), text)
}

func (g *cgroup) write(file, text string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0)
}

// throttled is for how long the group had to wait for its quota so far; 0 when
// there is no group, not even any more.
func (g *cgroup) throttled() time.Duration {
	if g == nil {
		return 0
	}
	data, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	if err != nil {
		return 0
	}
	return parseThrottled(string(data))
}

func parseThrottled(stat string) time.Duration {
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		switch {
		case err != nil:
		case f[0] == "throttled_time":
			return time.Duration(n)
		case f[0] == "throttled_usec":
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}

// remove removes the group, and that of the run when it was the last one. The
// kernel may need a moment after the last process of the group has gone.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	_ = removeCgroup(g.dir)
	_ = os.Remove(filepath.Dir(g.dir)) // others may still need it
}

// removeCgroup removes a cgroup, and waits up to half a second for it to be
// empty.
func removeCgroup(dir string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 50 {
		err := os.Remove(dir)
		if !errors.Is(err, syscall.EBUSY) {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		<-tick.C
	}
	return os.Remove(dir)
}
