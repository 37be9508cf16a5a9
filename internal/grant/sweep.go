package grant

import (
	"slices"
	"strings"
	"time"

	"holdfast.dev/engine"
)

const (
	// sweepPause lets deaths gather before a sweep looks at every record, and
	// keeps several agents apart: the first leaves nothing for the others.
	sweepPause = time.Second
	// sweepPage is how many records a sweep reads at a time. After a page with
	// something to free it pauses, so that a storm of deaths leaves room for
	// those who wait for an answer.
	sweepPage = 64
)

// sweeper frees the grants of sessions that ended, wherever they are.
func (a *Agent) sweeper() {
	apart := time.Duration(uint64(a.session.ID()) % uint64(2*sweepPause))
	for {
		select {
		case <-a.due:
		case <-a.ctx.Done():
			return
		}
		t := time.NewTimer(sweepPause + apart)
		select {
		case <-t.C:
		case <-a.ctx.Done():
			t.Stop()
			return
		}
		if err := a.sweep(); err != nil {
			a.sweepSoon() // no quorum: later
		}
	}
}

// sweepSoon asks for a sweep.
func (a *Agent) sweepSoon() {
	select {
	case a.due <- struct{}{}:
	default: // one is due already
	}
}

// sweep reads every record and works on those that a dead session holds.
func (a *Agent) sweep() error {
	next, end := a.key(""), engine.PrefixEnd(a.key(""))
	for next < end {
		res, err := engine.Read(a.ctx, a.session.Engine(), a.session.Attempt(), engine.RangeRequest{Key: next, End: end, Limit: sweepPage})
		if err != nil {
			return err
		}
		freed := false
		for _, kv := range res.KVs {
			freed = a.sweepRecord(kv, res.Revision) || freed
			next = kv.Key + "\x00"
		}
		if !res.More {
			return nil
		}
		if freed {
			if err := engine.Pause(a.ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepRecord works on a record that a dead session holds, and says whether it
// is one.
func (a *Agent) sweepRecord(kv engine.KV, rev int64) bool {
	rec, err := decode(kv.Key, kv.Value, kv.ModRevision)
	if err != nil {
		return false // whoever asks for it is told
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	dead := slices.ContainsFunc(rec.Holders, func(c Claim) bool { return a.live.Dead(c.Session, c.Granted) })
	if dead {
		e := a.entry(strings.TrimPrefix(kv.Key, a.key("")))
		if e.news == nil || e.news.rev < rev {
			e.news = &news{kv: kv, rev: rev}
		}
		a.poke(e)
	}
	return dead
}
