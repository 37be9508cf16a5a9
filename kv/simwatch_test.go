package kv

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// seen is what a watcher was told, and what it knows it was not told: the
// changes after one revision and up to another that were compacted.
type seen struct {
	events []Event
	gaps   [][2]int64
}

// watcher follows all keys from the beginning over a bad network; from time to
// time it goes away for a while, and then on from where it was.
func (s *sim) watcher(ctx context.Context, id uint64) (w seen) {
	rng := rand.New(rand.NewPCG(s.seed, 500+id))
	net := network(s.mem, s.seed<<16|0xff00|id)
	defer func() { _ = net.Close() }()
	var e engine.Engine = net
	if s.mutant.engine != nil {
		e = s.mutant.engine(e)
	}
	store := NewFor(e, 0)
	for from := int64(1); ctx.Err() == nil; wait(ctx, time.Duration(rng.IntN(5000))*time.Millisecond) {
		wctx, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(20))*time.Second)
		for b := range store.Watch(wctx, WatchRequest{From: from, Prev: true, Progress: rng.IntN(2) == 0}) {
			if b.Err == nil && b.Revision < from {
				s.fail("watch from %d: a batch up to %d", from, b.Revision)
			}
			w.events = append(w.events, b.Events...)
			from = b.Revision + 1
			switch {
			case errors.Is(b.Err, holdfast.ErrCompacted):
				page, err := store.List(ctx, "", Limit(1))
				if err == nil {
					w.gaps = append(w.gaps, [2]int64{from - 1, page.Revision})
					from = page.Revision + 1
				}
			case b.Err != nil:
				s.fail("watch: %w", b.Err)
			}
		}
		cancel()
	}
	return w
}

// compare holds what watchers and readers of past states saw against what
// happened.
func (s *sim) compare(truth []Event, watched []seen) {
	for i, w := range watched {
		var want []Event
		for _, ev := range truth {
			missed := slices.ContainsFunc(w.gaps, func(g [2]int64) bool {
				return g[0] < ev.Entry.Revision && ev.Entry.Revision <= g[1]
			})
			if !missed {
				want = append(want, ev)
			}
		}
		// What was compacted in between cannot be told as what there was before.
		prev := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Prev" },
			cmp.Comparer(func(a, b *Entry) bool { return a == nil || b == nil || cmp.Equal(*a, *b) }))
		if d := cmp.Diff(want, w.events, prev); d != "" {
			s.fail("watcher %d (-truth +seen):\n%s", i, d)
		}
	}
	for _, p := range s.snapped {
		want, found := Entry{Key: p.key}, false
		for _, ev := range truth {
			if ev.Entry.Key == p.key && ev.Entry.Revision <= p.at {
				want, found = ev.Entry, !ev.Deleted
			}
		}
		if !found {
			want = Entry{Key: p.key}
		}
		want.ReadRevision = p.at
		if d := cmp.Diff(want, p.entry); d != "" || found != p.found {
			s.fail("%s read of %s at %d (-truth +seen):\n%s", p.what, p.key, p.at, d)
		}
	}
}

// record is all changes of all keys, from the engine itself, until ctx ends. It
// watches more than it needs, so as never to be behind when history is
// compacted.
func (s *sim) record(ctx context.Context) (events []Event) {
	c := cursor{next: 1}
	for b := range s.mem.Watch(ctx, engine.WatchRequest{Key: "\x00", End: engine.PrefixEnd(""), Revision: 1, Prev: true}) {
		b.Events = slices.DeleteFunc(b.Events, func(ev engine.Event) bool { return !strings.HasPrefix(ev.KV.Key, keyPrefix) })
		out, _, _ := c.take(b, true)
		if out.Err != nil {
			s.fail("the recorder's watch: %w", out.Err)
		}
		events = append(events, out.Events...)
	}
	return events
}
