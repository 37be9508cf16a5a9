package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// procDir is where processes are seen, by their ids in the lab's pid namespace.
const procDir = "/proc"

// entry is a process as /proc shows it.
type entry struct {
	pid, parent, session int
	state                byte
	command              string
}

// alive tells whether a process is more than an exit code to be fetched.
func (e entry) alive() bool { return e.state != 'Z' && e.state != 'X' }

// stopped tells whether it was stopped by a signal or by a tracer.
func (e entry) stopped() bool { return e.state == 'T' || e.state == 't' }

// table is all processes, in the order of their ids.
type table []entry

// readTable reads /proc. Processes that end meanwhile may be missing, and so may
// those that began.
func readTable() (table, error) {
	f, err := os.Open(procDir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	var t table
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		line, err := os.ReadFile(filepath.Join(procDir, name, "stat"))
		if err != nil {
			continue // it has ended
		}
		e, err := parseStat(string(line))
		if err != nil {
			return nil, err
		}
		t = append(t, e)
	}
	slices.SortFunc(t, func(a, b entry) int { return a.pid - b.pid })
	return t, nil
}

// parseStat reads a line of /proc/PID/stat. The second field is the name of the
// program in parentheses, which may hold blanks and parentheses itself.
func parseStat(line string) (entry, error) {
	bad := fmt.Errorf("process status %q: not of this kernel", line)
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return entry{}, bad
	}
	rest := strings.Fields(line[end+1:])
	if len(rest) < 4 || len(rest[0]) != 1 {
		return entry{}, bad
	}
	e := entry{state: rest[0][0], command: line[open+1 : end]}
	var errs [3]error
	e.pid, errs[0] = strconv.Atoi(strings.TrimSpace(line[:open]))
	e.parent, errs[1] = strconv.Atoi(rest[1])
	e.session, errs[2] = strconv.Atoi(rest[3])
	if errors.Join(errs[:]...) != nil {
		return entry{}, bad
	}
	return e, nil
}

// below are the descendants of a process.
func (t table) below(pid int) table {
	return t.closure(func(e entry, in map[int]bool) bool { return e.parent == pid || in[e.parent] })
}

// closure collects entries until no further one is chosen.
func (t table) closure(choose func(e entry, in map[int]bool) bool) table {
	in := map[int]bool{}
	for grown := true; grown; {
		grown = false
		for _, e := range t {
			if !in[e.pid] && choose(e, in) {
				in[e.pid], grown = true, true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(t), func(e entry) bool { return !in[e.pid] })
}

// started are the entries of a host, whose first process is init, that belong to
// what was started with the sessions roots: members of the sessions, orphans
// that bear the mark, and all descendants of those.
func (t table) started(init int, roots []int, marked func(pid int) bool) table {
	return t.below(init).closure(func(e entry, in map[int]bool) bool {
		switch {
		case in[e.parent] || slices.Contains(roots, e.session):
			return true
		case e.parent == init && e.alive():
			return marked(e.pid)
		}
		return false
	})
}

// living leaves out zombies.
func (t table) living() table {
	return slices.DeleteFunc(slices.Clone(t), func(e entry) bool { return !e.alive() })
}

func (t table) pids() []int {
	pids := make([]int, len(t))
	for i, e := range t {
		pids[i] = e.pid
	}
	return pids
}

// describe lists processes for an error.
func describe(t table) string {
	var b strings.Builder
	for i, e := range t {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(t)-i)
			break
		}
		fmt.Fprintf(&b, "; %s (%d) is in state %c", e.command, e.pid, e.state)
		if e.state == 'D' {
			b.WriteString(", waiting for a disk")
		}
	}
	return b.String()
}

// hasEnv tells whether a process was started with a variable. While a process
// turns into another program its environment is empty for a moment.
func hasEnv(pid int, variable string) bool {
	const tries = 20
	for range tries {
		data, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "environ"))
		if err != nil {
			return false
		}
		if len(data) > 0 {
			return slices.Contains(strings.Split(string(data), "\x00"), variable)
		}
		runtime.Gosched()
	}
	return false
}
