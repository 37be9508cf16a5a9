//go:build linux

package vswitch

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"holdfast.dev/lab/netem"
)

// LinkCounters is what happened on one directed link.
type LinkCounters struct {
	From, To                 string
	Rx, Tx                   int64 // frames that came from From, and that went to To
	RxBytes, TxBytes         int64
	DroppedCut, DroppedLoss  int64
	DroppedQueue, DroppedMTU int64
	DroppedJam               int64 // more than a jam may hold
	DroppedDown              int64 // To was unplugged or its interface down
	Held                     int64 // by a jam, now
	Duplicated, Corrupted    int64
	Reordered, Delayed       int64
	Delay                    Lateness // of delayed frames: achieved minus asked
	Overrun                  int64    // frames that the lab itself was late for, or lost
}

// Health is what the lab itself did wrong: a run with overruns shows the lab's
// faults and not those of the scenario.
type Health struct {
	Overruns   int64            // of all links
	TxDropped  map[string]int64 // by port: frames that the kernel dropped before the switch read them
	Lateness   Lateness         // of delayed frames of all links
	Unknown    int64            // frames to nobody on the switch: broadcasts but ARP, IPv6, unknown addresses
	Uncaptured int64            // frames that are missing in the capture because its writer was too slow
}

// each calls f for every link.
func (s *Switch) each(f func(*link)) {
	for _, row := range s.table.Load().links {
		for _, l := range row {
			if l != nil {
				f(l)
			}
		}
	}
}

// Counters is what happened on each directed link that had traffic or rules,
// ordered by names.
func (s *Switch) Counters() []LinkCounters {
	var out []LinkCounters
	s.each(func(l *link) {
		c := LinkCounters{
			From: l.from.name, To: l.to.name,
			Rx: l.rx.Load(), Tx: l.tx.Load(), RxBytes: l.rxBytes.Load(), TxBytes: l.txBytes.Load(),
			DroppedDown: l.down.Load(), Overrun: l.overrun.Load(),
		}
		var n netem.Counters
		l.mu.Lock()
		if l.pipe != nil {
			n = l.pipe.Counters()
		}
		l.mu.Unlock()
		if c.Rx == 0 && l.ruled.Load() == 0 {
			return
		}
		c.DroppedCut, c.DroppedLoss, c.DroppedQueue = n.DroppedCut, n.DroppedLoss, n.DroppedQueue
		c.DroppedMTU, c.DroppedJam, c.Held = n.DroppedMTU, n.DroppedJam, n.Held
		c.Duplicated, c.Corrupted, c.Reordered, c.Delayed = n.Duplicated, n.Corrupted, n.Reordered, n.Delayed
		if h := l.late.Load(); h != nil {
			var sums [buckets]int64
			var longest time.Duration
			h.into(&sums, &longest)
			c.Delay = latenessOf(&sums, longest)
		}
		out = append(out, c)
	})
	slices.SortFunc(out, func(a, b LinkCounters) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return out
}

// Health is what the lab itself did wrong so far. It calls Config.TxDropped.
func (s *Switch) Health() Health {
	h := Health{Uncaptured: s.capture.missing()}
	var sums [buckets]int64
	var longest time.Duration
	s.each(func(l *link) {
		h.Overruns += l.overrun.Load()
		if late := l.late.Load(); late != nil {
			late.into(&sums, &longest)
		}
	})
	h.Lateness = latenessOf(&sums, longest)
	for name, host := range s.table.Load().byName {
		h.Unknown += host.lost.Load()
		if s.config.TxDropped == nil {
			continue
		}
		if n, err := s.config.TxDropped(name); err == nil { // else the host is gone: what was read last stays
			s.mu.Lock()
			s.dropped[name] = max(s.dropped[name], n)
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	h.TxDropped = maps.Clone(s.dropped)
	s.mu.Unlock()
	return h
}
