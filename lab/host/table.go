//go:build linux

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// mark is what a process's environment says about who started it.
type mark int

const (
	markOther   mark = iota // somebody else
	markOurs                // the name that is asked for
	markUnknown             // it has no environment, perhaps not yet or no more
)

// started are the entries of a host, whose first process is init, that belong to
// what was started with the sessions roots: members of the sessions, those that
// bear the mark, and all descendants of either. The sessions others belong to
// somebody else. It is not sure when a process may belong or not.
func (t table) started(init int, roots, others []int, look func(pid int) mark) (found table, sure bool) {
	marks := map[int]mark{}
	found = t.below(init).closure(func(e entry, in map[int]bool) bool {
		switch {
		case in[e.parent] || slices.Contains(roots, e.session):
			return true
		case !e.alive() || slices.Contains(others, e.session):
			return false
		}
		if _, known := marks[e.pid]; !known {
			marks[e.pid] = look(e.pid)
		}
		return marks[e.pid] == markOurs
	})
	for _, m := range marks {
		if m == markUnknown {
			return found, false
		}
	}
	return found, true
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

// lookMark reads the mark in the environment that a process was started with.
// While a process turns into another program, or ends, it has none.
func lookMark(pid int, name string) mark {
	data, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "environ"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return markOther // it has ended
	case err != nil || len(data) == 0:
		return markUnknown
	case slices.Contains(strings.Split(string(data), "\x00"), markerProcess+"="+name):
		return markOurs
	}
	return markOther
}
