package check

import (
	"context"
	"fmt"
	"slices"

	"holdfast.dev/lab/history"
)

// A checker by name. Fits says whether a history can be meant for it.
type entry struct {
	name  string
	check Func
	fits  func(*profile) bool
}

// entries are the checkers that have a name, in the order in which Guess
// proposes them. Checkers that need options run with those of their zero value.
func entries() []entry {
	return []entry{
		{"stats", Stats{}.Check, func(p *profile) bool { return p.calls > 0 }},
	}
}

// profile is what Guess knows of a history.
type profile struct {
	calls int
	f     map[string]bool // the functions of clients' operations
	lists map[string]bool // those whose completions carry lists
}

func (p *profile) has(fs ...string) bool {
	for _, f := range fs {
		if !p.f[f] {
			return false
		}
	}
	return true
}

// only reports that there is no other function than these.
func (p *profile) only(fs ...string) bool {
	for f := range p.f {
		if !slices.Contains(fs, f) {
			return false
		}
	}
	return true
}

// Names are the names of all checkers.
func Names() []string {
	var names []string
	for _, e := range entries() {
		names = append(names, e.name)
	}
	return names
}

// ByName is the checker of that name, with the options of its zero value. One
// that panics has the verdict Unknown.
func ByName(name string) (func(context.Context, history.History) Result, bool) {
	for _, e := range entries() {
		if e.name == name {
			return Safely(name, e.check), true
		}
	}
	return nil, false
}

// Safely is check with a panic turned into Unknown: a checker that fails says
// nothing about the system.
func Safely(name string, check Func) Func {
	return func(ctx context.Context, h history.History) (r Result) {
		defer func() {
			if p := recover(); p != nil {
				r = unknown(name, "the checker failed: %s", shorten(fmt.Sprint(p)))
			}
		}()
		return check(ctx, h)
	}
}

// Guess proposes the names of checkers that fit the operations of a history,
// stats first.
func Guess(h history.History) []string {
	p := profile{f: map[string]bool{}, lists: map[string]bool{}}
	for i := range h {
		op := &h[i]
		if op.Process == history.Nemesis {
			continue
		}
		if op.Type == history.Invoke {
			p.calls++
			p.f[op.F] = true
		}
		if _, list := op.Value.([]any); list && op.Type == history.OK {
			p.lists[op.F] = true
		}
	}
	var names []string
	for _, e := range entries() {
		if e.fits(&p) {
			names = append(names, e.name)
		}
	}
	return names
}
