package grant

import (
	"slices"
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
	ended := a.live.Apply(u)
	if a.cfg.Sweep && (len(ended) > 0 || u.Snapshot) {
		a.sweepSoon()
	}
	for e := range a.behind {
		// What the feed says of a session counts once it is as new as the record.
		if a.feedKnows(e.mod) {
			delete(a.behind, e)
			a.poke(e)
		}
	}
	if len(ended) == 0 {
		return
	}
	dead := make(map[engine.SessionID]bool, len(ended))
	for _, id := range ended {
		dead[id] = true
	}
	for _, e := range a.entries {
		// Where nobody waits, the sweep comes by, which is in no hurry.
		if e.concerns(dead) && (!a.cfg.Sweep || len(e.waiting) > 0) {
			a.poke(e)
		}
	}
}

// concerns notes the sessions that ended, and says whether any has to do with
// the entry.
func (e *entry) concerns(dead map[engine.SessionID]bool) bool {
	hit := false
	for _, w := range e.waiting {
		if dead[w.Session] {
			e.note(w.Session, true)
			hit = true
		}
	}
	named := func(c Claim) bool { return dead[c.Session] || dead[c.Agent] }
	return hit || slices.ContainsFunc(e.record.Holders, named) || slices.ContainsFunc(e.record.Queue, named)
}
