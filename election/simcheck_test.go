package election_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast.dev"
)

// check judges the history.
func (s *simulation) check() (faults []string) {
	failf := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if len(s.terms) < s.atLeast {
		failf("only %d terms: nothing was tested", len(s.terms))
	}
	for i, a := range s.terms {
		for _, b := range s.terms[i+1:] {
			if a.name == b.name && a.from < b.until && b.from < a.until {
				failf("%s: led by session %v (token %d) %v–%v and by session %v (token %d) %v–%v",
					a.name, a.session, a.token, a.from, a.until, b.session, b.token, b.from, b.until)
			}
		}
		if i := s.begin(a.name, a.token); i < 0 || s.truth[a.name][i].session != a.session || s.truth[a.name][i].at > a.from {
			failf("%s: session %v believes in token %d since %v; the engine does not know of that", a.name, a.session, a.token, a.from)
		}
	}
	for _, name := range []string{"a", "b"} {
		s.checkTruth(name, failf)
	}
	for _, seen := range s.seen {
		s.checkSight(seen, failf)
	}
	if !porcupine.CheckOperations(termModel, s.history()) {
		failf("the terms cannot be put in an order in which tokens grow and each begins after the one before")
	}
	return faults
}

// begin is the index of the first true state with that token, or -1.
func (s *simulation) begin(name string, token holdfast.Token) int {
	return slices.IndexFunc(s.truth[name], func(st state) bool { return st.token == token })
}

// checkTruth judges what the quorum had: leaders that lived when they were
// elected, with growing tokens, their own values, each fenced off if it
// vanished.
func (s *simulation) checkTruth(name string, failf func(string, ...any)) {
	var last state // that had a leader
	told := map[string]bool{}
	for _, st := range s.truth[name] {
		told[st.value] = true
		switch w := s.words[st.value]; {
		case st.token == 0:
			continue
		case w == nil || w.session != st.session:
			failf("%s: %v: nobody said that", name, st)
		case st.token < last.token || st.token == last.token && st.session != last.session:
			failf("%s: %v after %v", name, st, last)
		case st.token == last.token && said(st.value) < said(last.value):
			failf("%s: %v after %v, which was proclaimed later", name, st, last)
		}
		if st.token > last.token {
			if end, ended := s.ends[st.session]; ended && end < st.revision {
				failf("%s: %v: its session ended at %d", name, st, end)
			}
			if s.fences && last.token != 0 {
				s.checkFenced(name, last, st, failf)
			}
		}
		last = st
	}
	for value, w := range s.words {
		if w.acked && !told[value] && s.owns(name, w) && !s.toldElsewhere(name, value) {
			failf("%s: %q was acknowledged and never known", name, value)
		}
	}
}

// said is how many values a candidate had said with this one.
func said(value string) (n int) {
	_, _ = fmt.Sscan(value[strings.LastIndexByte(value, '/')+1:], &n)
	return n
}

// owns says whether the word's session ever led.
func (s *simulation) owns(name string, w *word) bool {
	return slices.ContainsFunc(s.truth[name], func(st state) bool { return st.session == w.session })
}

// toldElsewhere says whether the value was known in the other election.
func (s *simulation) toldElsewhere(name, value string) bool {
	for other, states := range s.truth {
		if other != name && slices.ContainsFunc(states, func(st state) bool { return st.value == value }) {
			return true
		}
	}
	return false
}

// checkFenced: a leader that was lost without having resigned vanished, so the
// next one has fenced it off, after it stopped believing and before it leads
// itself. A leader that never knew gave its campaign up, and may have resigned.
func (s *simulation) checkFenced(name string, old, next state, failf func(string, ...any)) {
	i := slices.IndexFunc(s.terms, func(t *term) bool { return t.name == name && t.token == old.token })
	if i < 0 || s.terms[i].resigning {
		return
	}
	for _, h := range s.hooks {
		if h.name == name && h.session == next.session && h.vanished == old.token && h.at <= next.at {
			if h.from < s.terms[i].until {
				failf("%s: %v: fenced off at %v, when it believed to lead until %v", name, old, h.from, s.terms[i].until)
			}
			return
		}
	}
	failf("%s: %v vanished, and was not fenced off before %v", name, old, next)
}

// checkSight: an observer sees every state of the record from the first one on,
// those in which nobody leads too, and nothing else.
func (s *simulation) checkSight(seen sight, failf func(string, ...any)) {
	if len(seen.states) == 0 {
		failf("%s of %s saw nothing", seen.who, seen.name)
		return
	}
	first := seen.states[0] // a snapshot, at any revision
	want := slices.DeleteFunc(slices.Clone(s.truth[seen.name]), func(st state) bool { return st.revision <= first.revision })
	got := seen.states[1:]
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			failf("%s of %s saw what was not: %v", seen.who, seen.name, got[i])
		case i >= len(got):
			failf("%s of %s did not see %v", seen.who, seen.name, want[i])
		case !got[i].same(want[i]):
			failf("%s of %s saw %v instead of %v", seen.who, seen.name, got[i], want[i])
		default:
			continue
		}
		return
	}
}

// termState is the model's state: the token of who leads, and the highest so far.
type termState struct{ leader, last holdfast.Token }

type termInput struct {
	name  string
	begin bool
	token holdfast.Token
}

// termModel is an election in which a term begins when nobody leads, with a
// token above all before, and ends once.
var termModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, 2)
		for _, op := range history {
			i := 0
			if op.Input.(termInput).name == "b" {
				i = 1
			}
			parts[i] = append(parts[i], op)
		}
		return parts
	},
	Init: func() any { return termState{} },
	Step: func(state, input, _ any) (bool, any) {
		st, in := state.(termState), input.(termInput)
		if in.begin {
			return st.leader == 0 && in.token > st.last, termState{in.token, in.token}
		}
		return st.leader == in.token, termState{last: st.last}
	},
}

// history is the terms as operations. A term whose end was not confirmed ended
// at some time after its leader stopped believing in it.
func (s *simulation) history() []porcupine.Operation {
	var ops []porcupine.Operation
	for i, t := range s.terms {
		in := termInput{name: t.name, begin: true, token: t.token}
		ops = append(ops, porcupine.Operation{ClientId: 2 * i, Input: in, Call: int64(t.asked), Return: int64(t.from)})
		in.begin = false
		end := int64(t.resigned)
		if end == 0 {
			end = int64(24 * time.Hour)
		}
		ops = append(ops, porcupine.Operation{ClientId: 2*i + 1, Input: in, Call: int64(t.until), Return: end})
	}
	return ops
}
