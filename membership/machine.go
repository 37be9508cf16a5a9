package membership

import (
	"maps"
	"slices"

	"holdfast.dev/engine"
)

// This file is the pure core of a watch: it turns records and their changes
// into events, also when a part of history is missing. It does no I/O.

// Kind is what an [Event] tells.
type Kind uint8

// What an event can tell.
const (
	Joined  Kind = iota + 1 // the member is in the roster now
	Updated                 // it has another address or other metadata
	Left                    // it said goodbye
	Lost                    // its session ended, and it had not left
	Synced                  // once: all that were there have been told, as Joined; what follows are changes
)

// String is the kind in lower case.
func (k Kind) String() string {
	switch k {
	case Joined:
		return "joined"
	case Updated:
		return "updated"
	case Left:
		return "left"
	case Lost:
		return "lost"
	case Synced:
		return "synced"
	}
	return "none"
}

// Event is one change of a group, or, with Err, the end of a watch.
type Event struct {
	Kind     Kind
	Member   Member // with Left and Lost, as it was last known
	Revision int64  // at which it happened or, after a gap, was seen
	// Gap: history was compacted while the watcher was away, and the event was
	// inferred from what is there now.
	Gap bool
	Err error
}

// view is what a watcher knows of a group.
type view struct {
	group   string
	next    int64             // the first revision not yet seen
	synced  bool              // there was a listing
	members map[string]Member // present, by id
}

// apply takes in a batch of changes. Revisions seen before are skipped.
func (v *view) apply(b engine.WatchBatch) ([]Event, error) {
	var out []Event
	for _, ev := range b.Events {
		rev := ev.KV.ModRevision
		if rev < v.next {
			continue
		}
		m, gone := Member{ID: ev.KV.Key[len(groupPrefix(v.group)):]}, false
		if !ev.Deleted {
			var err error
			if m, gone, err = decode(v.group, ev.KV); err != nil {
				return out, err
			}
		}
		old, known := v.members[m.ID]
		switch {
		case ev.Deleted && known:
			out = append(out, v.remove(Lost, old, rev, false))
		case gone && known:
			out = append(out, v.remove(Left, old, rev, false))
		case ev.Deleted || gone: // it has been told already
		case known:
			out = append(out, v.put(Updated, m, rev, false))
		default:
			out = append(out, v.put(Joined, m, rev, false))
		}
	}
	v.next = max(v.next, b.Revision+1)
	return out, nil
}

// missing are the sessions of the members that went while the watcher was
// away, each once: relist has to know which of them are alive.
func (v *view) missing(kvs []engine.KV) []engine.SessionID {
	still := map[string]int64{}
	for _, kv := range kvs {
		still[kv.Key] = kv.CreateRevision
	}
	sessions := map[engine.SessionID]bool{}
	for id, m := range v.members {
		if still[recordKey(v.group, id)] != m.created {
			sessions[m.Session] = true
		}
	}
	return slices.Sorted(maps.Keys(sessions))
}

// relist takes in all records as they were at revision rev: the first listing,
// or one after history was compacted. Alive tells, of the sessions in missing,
// which existed at rev: a record of such a session can only have gone because
// its member had left.
func (v *view) relist(kvs []engine.KV, rev int64, alive map[engine.SessionID]bool) ([]Event, error) {
	gap := v.synced
	var out []Event
	here := make(map[string]Member, len(kvs))
	hasLeft := map[string]Member{}
	for _, kv := range kvs {
		m, gone, err := decode(v.group, kv)
		if err != nil {
			return nil, err
		}
		if gone {
			hasLeft[m.ID] = m
		} else {
			here[m.ID] = m
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.members)) {
		old := v.members[id]
		now, still := here[id]
		switch {
		case still && now.created == old.created && now.Session == old.Session: // the same, or changed
		case still && now.created == old.created, hasLeft[id].created == old.created:
			out = append(out, v.remove(Left, old, rev, gap)) // only who has left is written over
		case alive[old.Session]:
			out = append(out, v.remove(Left, old, rev, gap))
		default:
			out = append(out, v.remove(Lost, old, rev, gap))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(here)) {
		old, known := v.members[id]
		switch {
		case !known:
			out = append(out, v.put(Joined, here[id], rev, gap))
		case old.Revision != here[id].Revision:
			out = append(out, v.put(Updated, here[id], rev, gap))
		}
	}
	if !v.synced {
		v.synced = true
		out = append(out, Event{Kind: Synced, Revision: rev})
	}
	v.next = rev + 1
	return out, nil
}

// put notes a member that is present.
func (v *view) put(k Kind, m Member, rev int64, gap bool) Event {
	if v.members == nil {
		v.members = map[string]Member{}
	}
	v.members[m.ID] = m
	return Event{Kind: k, Member: m, Revision: rev, Gap: gap}
}

// remove forgets a member.
func (v *view) remove(k Kind, m Member, rev int64, gap bool) Event {
	delete(v.members, m.ID)
	return Event{Kind: k, Member: m, Revision: rev, Gap: gap}
}
