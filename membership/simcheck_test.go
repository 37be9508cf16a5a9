package membership

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev"
)

// check holds what one watcher was told against what happened.
func (s *sim) check(who string, events []Event) {
	present := map[string]Member{}
	joined := map[int]bool{} // numbers that were ever seen
	synced := 0
	var last int64
	for i, ev := range events {
		bad := func(format string, args ...any) {
			s.fail("%s: event %d, %v %s %s at %d (gap %v): %w", who, i, ev.Kind, ev.Member.ID, ev.Member.Address,
				ev.Revision, ev.Gap, fmt.Errorf(format, args...))
		}
		if ev.Revision < last {
			bad("after revision %d", last)
		}
		last = ev.Revision
		if ev.Kind == Synced {
			synced++
			continue
		}
		st := s.stays[numberOf(ev.Member)]
		if st == nil || st.id != ev.Member.ID || st.session != ev.Member.Session {
			bad("nobody registered that")
			continue
		}
		old, here := present[ev.Member.ID]
		switch ev.Kind {
		case Joined:
			if here {
				bad("it is there already, as %s", old.Address)
			}
			if joined[st.number] {
				bad("it joined twice")
			}
			joined[st.number] = true
			present[ev.Member.ID] = ev.Member
		case Updated:
			if !here || old.Session != ev.Member.Session {
				bad("it is not there: %+v", old)
			}
			joined[st.number] = true
			present[ev.Member.ID] = ev.Member
		case Left:
			if !here || old.Address != ev.Member.Address {
				bad("it is not there: %+v", old)
			}
			if !st.leaving && (!ev.Gap || !st.replaced) {
				bad("it did not leave")
			}
			delete(present, ev.Member.ID)
		case Lost:
			if !here || old.Address != ev.Member.Address {
				bad("it is not there: %+v", old)
			}
			end, gone := s.ends[st.session]
			if !gone || end > ev.Revision || !ev.Gap && end != ev.Revision {
				bad("its session ended at %d (%v)", end, gone)
			}
			if st.left && !ev.Gap {
				bad("it had left")
			}
			delete(present, ev.Member.ID)
		case Synced:
		}
	}
	if synced != 1 {
		s.fail("%s was told %d times that it is all", who, synced)
	}
	var final []string
	for _, m := range present {
		final = append(final, m.ID+" "+m.Address)
	}
	slices.Sort(final)
	if !slices.Equal(final, s.final) {
		s.fail("%s: at the end there are %q, the watcher was told of %q", who, s.final, final)
	}
	if !s.compacts() {
		s.complete(who, joined, events)
	}
}

// complete says which certain stays a watcher was not told of, if it was there
// from the beginning.
func (s *sim) complete(who string, joined map[int]bool, events []Event) {
	if i := slices.IndexFunc(events, func(ev Event) bool { return ev.Kind == Synced }); i < 0 || events[i].Revision > 1 {
		return
	}
	for n, st := range s.stays {
		if st.sure && !joined[n] {
			s.fail("%s: was never told of %d, id %s", who, n, st.id)
		}
	}
}

// agree holds watchers against each other: when history is whole, they are told
// the same after both have listed.
func (s *sim) agree(told [][]Event) {
	if s.compacts() {
		return
	}
	for i, a := range told {
		for j, b := range told[:i] {
			from := max(listed(a), listed(b))
			if x, y := after(a, from), after(b, from); !slices.Equal(x, y) {
				s.fail("watchers %d and %d differ after %d:\n%s\n--\n%s", i, j, from, strings.Join(x, "\n"), strings.Join(y, "\n"))
			}
		}
	}
}

// listed is the revision of a watcher's listing.
func listed(events []Event) int64 {
	for _, ev := range events {
		if ev.Kind == Synced {
			return ev.Revision
		}
	}
	return 0
}

// after is what was told of revisions after one, as text.
func after(events []Event, rev int64) (out []string) {
	for _, ev := range events {
		if ev.Revision > rev {
			out = append(out, fmt.Sprint(ev.Kind, " ", ev.Member.ID, " ", ev.Member.Address, " at ", ev.Revision))
		}
	}
	return out
}

// numberOf is the stay that a member belongs to.
func numberOf(m Member) int {
	number, _, _ := strings.Cut(m.Address, "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		return -1
	}
	return n
}

// requestOf is the request id in an error.
func requestOf(err error) string {
	e, ok := errors.AsType[*holdfast.Error](err)
	if !ok {
		return ""
	}
	return e.Request
}
