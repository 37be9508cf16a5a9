package grant

import (
	"strings"

	"holdfast.dev/engine"
)

// feed starts the agent's two watches, once: all records of its kind, and all
// sessions. a.mu is held.
//
// The watches are long-lived, because a watch that starts at the present
// revision waits up to 100 ms for its first event in etcd; that is what makes
// the handover of etcd's own mutex slow.
func (a *Agent) feed() {
	if a.feeding || a.closed || a.ctx.Err() != nil {
		return
	}
	a.feeding = true
	follow := func(key, end string, f func(engine.Update)) {
		a.running.Go(func() { engine.Follow(a.ctx, a.session.Engine(), a.session.Attempt(), key, end, f) })
	}
	follow(a.cfg.Kind+"/", engine.PrefixEnd(a.cfg.Kind+"/"), a.onRecords)
	key, end := engine.SessionRange()
	follow(key, end, a.onSessions)
}

// feedKnows says whether the feed has seen which sessions lived at rev. a.mu is
// held.
func (a *Agent) feedKnows(rev int64) bool { return a.live.Knows(rev) }

func (a *Agent) onRecords(u engine.Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.feedRev = u.Revision
	if u.Snapshot {
		clear(a.delays)
		seen := map[string]engine.KV{}
		for _, kv := range u.KVs {
			if name, ok := strings.CutPrefix(kv.Key, a.key("")); ok {
				seen[name] = kv
			} else if name, ok := strings.CutPrefix(kv.Key, a.delayKey("")); ok {
				a.delays[name] = struct{}{}
			}
		}
		for name, e := range a.entries {
			kv, ok := seen[name]
			e.news = &news{kv: kv, missing: !ok, rev: u.Revision}
			a.poke(e)
		}
		return
	}
	for _, ev := range u.Events {
		if name, ok := strings.CutPrefix(ev.KV.Key, a.key("")); ok {
			if e := a.entries[name]; e != nil && ev.KV.ModRevision > e.asOf {
				e.news = &news{kv: ev.KV, missing: ev.Deleted, rev: ev.KV.ModRevision}
				a.poke(e)
			}
		} else if name, ok := strings.CutPrefix(ev.KV.Key, a.delayKey("")); ok {
			if ev.Deleted {
				delete(a.delays, name)
			} else {
				a.delays[name] = struct{}{}
			}
			if e := a.entries[name]; e != nil {
				a.poke(e)
			}
		}
	}
}

func (a *Agent) onSessions(u engine.Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.live
	dead := a.live.Apply(u)
	for _, e := range a.entries {
		// What the feed says of a session counts once it is as new as the record.
		caughtUp := !was.Knows(e.mod) && a.live.Knows(e.mod)
		if u.Snapshot || e.concerns(dead) || caughtUp {
			a.poke(e)
		}
	}
}

// concerns notes the sessions that ended, and says whether any has to do with
// the entry.
func (e *entry) concerns(dead []engine.SessionID) bool {
	hit := false
	for _, id := range dead {
		for _, w := range e.waiting {
			if w.Session == id {
				e.note(id, true)
				hit = true
			}
		}
		for _, list := range [][]Claim{e.record.Holders, e.record.Queue} {
			for _, c := range list {
				hit = hit || c.Session == id || c.Agent == id
			}
		}
	}
	return hit
}
