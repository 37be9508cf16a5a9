//go:build linux

package host

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		line string
		want entry
		bad  bool
	}{
		{line: "12 (redis-server) S 1 12 11 0 -1 4194560 1\n", want: entry{12, 1, 11, 'S', "redis-server"}},
		{line: "7 (a) b (c) d) T 3 7 7 0", want: entry{7, 3, 7, 'T', "a) b (c) d"}},
		{line: "7 () Z 3 7 7 0", want: entry{7, 3, 7, 'Z', ""}},
		{line: "", bad: true},
		{line: "x (a) S 1 1 1", bad: true},
		{line: "1 (a) S 1 1", bad: true},
		{line: "1 a S 1 1 1", bad: true},
		{line: "1 )a( S 1 1 1", bad: true},
		{line: "1 (a) SS 1 1 1", bad: true},
	} {
		if got, err := parseStat(c.line); got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
}

func TestTable_Started(t *testing.T) {
	// The host's first process is 10. "a" was started as 20, "b" as 30.
	world := table{
		{1, 0, 1, 'S', "init"},
		{5, 1, 5, 'S', "other host"},
		{6, 5, 20, 'S', "same session number elsewhere"},
		{10, 1, 10, 'S', "first"},
		{20, 10, 20, 'S', "a"},
		{21, 20, 20, 'S', "child"},
		{22, 21, 22, 'S', "grandchild in its own session"},
		{23, 10, 20, 'S', "orphan of the session"},
		{24, 10, 24, 'S', "marked a"},
		{25, 24, 25, 'S', "child of the marked"},
		{26, 10, 26, 'Z', "zombie"},
		{27, 23, 27, 'S', "child of the orphan"},
		{30, 10, 30, 'S', "b"},
		{31, 30, 30, 'Z', "zombie of b"},
		{40, 10, 40, 'S', "no mark"},
	}
	marks := map[int]mark{24: markOurs}
	look := func(pid int) mark { return marks[pid] }
	found, sure := world.started(10, []int{20}, []int{30}, look)
	if got, want := found.pids(), []int{20, 21, 22, 23, 24, 25, 27}; !slices.Equal(got, want) || !sure {
		t.Errorf("a: %v, %v, want %v", got, sure, want)
	}
	found, sure = world.started(10, []int{30}, []int{20}, func(int) mark { return markOther })
	if got, want := found.living().pids(), []int{30}; !slices.Equal(got, want) || !sure {
		t.Errorf("b: %v, %v, want %v", got, sure, want)
	}
	marks[40] = markUnknown
	if _, sure = world.started(10, []int{20}, []int{30}, look); sure {
		t.Error("sure of 40")
	}
	if got, want := len(world.below(10)), 11; got != want {
		t.Errorf("%d below, want %d", got, want)
	}
	if got := describe(table{{7, 1, 7, 'D', "x"}}); got != "; x (7) is in state D, waiting for a disk" {
		t.Error(got)
	}
	if got := describe(slices.Repeat(table{{7, 1, 7, 'R', "x"}}, 10)); !strings.HasSuffix(got, " and 2 more") {
		t.Error(got)
	}
}

func TestMapped(t *testing.T) {
	whole, one := "         0          0 4294967295\n", "         0      65534          1\n"
	for _, c := range []struct {
		table string
		id    int
		want  bool
	}{{whole, 0, true}, {whole, 65534, true}, {one, 0, true}, {one, 65534, false}, {one, 1, false}, {"", 0, false}, {"1 1 1\n100 5 10\n", 109, true}, {"1 1 1\n100 5 10\n", 110, false}} {
		if got := mapped(c.table, c.id); got != c.want {
			t.Errorf("%q %d: %v", c.table, c.id, got)
		}
	}
}

func TestCgroupPlaces(t *testing.T) {
	const (
		v1 = `30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
		v2        = "32 25 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		container = `32 25 0:28 /docker/abc /sys/fs/cgr\040oup rw - cgroup cgroup rw,cpu` + "\n"
	)
	for _, c := range []struct {
		mounts, own string
		want        []cgroupPlace
	}{
		{v1, "5:memory:/x\n4:cpu,cpuacct:/user/me\n0::/user/me\n", []cgroupPlace{
			{"/sys/fs/cgroup/cpu,cpuacct/user/me", false},
			{"/sys/fs/cgroup/cpu,cpuacct/user", false},
			{"/sys/fs/cgroup/cpu,cpuacct", false},
			{"/sys/fs/cgroup/unified/user/me", true},
			{"/sys/fs/cgroup/unified/user", true},
			{"/sys/fs/cgroup/unified", true},
		}},
		{v2, "0::/\n", []cgroupPlace{{"/sys/fs/cgroup", true}}},
		{container, "4:cpu:/docker/abc/deep\n", []cgroupPlace{{"/sys/fs/cgr oup/deep", false}, {"/sys/fs/cgr oup", false}}},
		{container, "4:cpu:/elsewhere\n", []cgroupPlace{{"/sys/fs/cgr oup", false}}},
		{"nonsense\n", "0::/\n", nil},
		{v2, "", nil},
	} {
		if got := cgroupPlaces(c.mounts, c.own); !slices.Equal(got, c.want) {
			t.Errorf("%q %q: %v, want %v", c.mounts, c.own, got, c.want)
		}
	}
}

// What is written for which version, into files as they are in a cgroup.
func TestCgroup_Files(t *testing.T) {
	for _, c := range []struct {
		v2       bool
		share    float64
		file     string
		want     string
		stat     string
		throttle time.Duration
	}{
		{false, 0.25, "cpu.cfs_quota_us", "25000", "nr_periods 3\nthrottled_time 1500\n", 1500},
		{false, 0, "cpu.cfs_quota_us", "-1", "nr_throttled x\n", 0},
		{true, 1.5, "cpu.max", "150000 100000", "usage_usec 5\nthrottled_usec 7\n", 7 * time.Microsecond},
		{true, 0, "cpu.max", "max 100000", "", 0},
	} {
		g := &cgroup{dir: t.TempDir(), v2: c.v2}
		if err := os.WriteFile(filepath.Join(g.dir, "cpu.stat"), []byte(c.stat), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{c.file, "cpu.cfs_period_us"} {
			if err := os.WriteFile(filepath.Join(g.dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.limit(c.share); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(filepath.Join(g.dir, c.file)); string(got) != c.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", c.file, got, err, c.want)
		}
		if got := g.throttled(); got != c.throttle {
			t.Errorf("%q: %v", c.stat, got)
		}
	}
	var none *cgroup
	if none.add(1) != nil || none.throttled() != 0 {
		t.Error("no cgroup does something")
	}
	none.remove()
}

func TestDuty(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		d    duty
		want time.Duration
	}{
		{duty{}, time.Hour},
		{duty{share: 1}, time.Hour},
		{duty{share: 0.5, turn: now.Add(30 * time.Millisecond)}, 30 * time.Millisecond},
		{duty{share: 0.5, turn: now.Add(-time.Second)}, 0},
	} {
		if got := c.d.untilTurn(now); got != c.want {
			t.Errorf("%+v: %v, want %v", c.d, got, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	c, err := Config{Name: "n1", Addr: netip.MustParsePrefix("10.77.0.11/16"), Scratch: "/x"}.withDefaults()
	if err != nil || c.MTU != 1500 || c.Domain != "lab" || c.MAC.String() != "02:00:0a:4d:00:0b" {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = Config{
		Name: "n_1", Addr: netip.MustParsePrefix("10.77.0.11/16"), MAC: net.HardwareAddr{1}, MTU: 5,
		Gateway: netip.MustParseAddr("10.78.0.1"), Neighbors: map[netip.Addr]net.HardwareAddr{netip.MustParseAddr("::1"): nil},
		Hosts: map[string]netip.Addr{"a b": {}}, Data: "data", Clock: true,
	}.withDefaults()
	for _, want := range []string{`name "n_1"`, "hardware address 01", "MTU 5", "gateway 10.78.0.1", "neighbor ::1", `host "a b"`, "scratch", "directory data", "clock: nobody"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if _, err = (Config{Name: strings.Repeat("x", 64), Scratch: "/x"}).withDefaults(); err == nil || !strings.Contains(err.Error(), "address invalid") {
		t.Error(err)
	}
}

func TestSpec(t *testing.T) {
	c := Config{Data: "/run/n1/data", Scratch: "/run/n1/tmp", Clock: true}
	for _, p := range []struct {
		p    Process
		dir  string
		home string
		give []string
	}{
		{Process{}, "/run/n1/data", "/run/n1/tmp", []string{"/run/n1/data"}},
		{Process{Dir: "/srv"}, "/srv", "/run/n1/tmp", nil},
		{Process{Dir: "/run/n1/database", User: "postgres"}, "/run/n1/database", "/run/n1/tmp/home/postgres", []string{"/run/n1/tmp/home/postgres"}},
		{Process{Dir: "/run/n1/data/pg", User: "postgres"}, "/run/n1/data/pg", "/run/n1/tmp/home/postgres", []string{"/run/n1/tmp/home/postgres", "/run/n1/data/pg"}},
		{Process{Dir: "/run/n1/tmp", User: "root"}, "/run/n1/tmp", "/run/n1/tmp", nil},
	} {
		s := c.spec(p.p)
		if s.Dir != p.dir || !slices.Equal(s.Give, p.give) || !slices.Contains(s.Env, "HOME="+p.home) || !s.Clock {
			t.Errorf("%+v: %+v", p.p, s)
		}
	}
	if s := (Config{Scratch: "/tmp/x"}).spec(Process{}); s.Dir != "/tmp/x" {
		t.Error(s.Dir)
	}
}

func TestRunIDs(t *testing.T) {
	if id := newRunID(); dead(id) {
		t.Errorf("%s is dead", id)
	}
	if id := pidNamespace() + "-1-1-1"; !dead(id) {
		t.Errorf("%s lives", id)
	}
	for _, id := range []string{"", "x", "1-2-3", "1-1-1-1", pidNamespace() + "-x-1-1"} {
		if dead(id) {
			t.Errorf("%q is of another namespace or no name: nobody knows", id)
		}
	}
}

func TestExit(t *testing.T) {
	for want, e := range map[string]Exit{
		"exit code 3": {Code: 3}, "killed by SIGTERM": {Code: -1, Signal: syscall.SIGTERM}, "killed by signal 99": {Code: -1, Signal: 99},
	} {
		if e.String() != want {
			t.Errorf("%q, want %q", e, want)
		}
	}
}
