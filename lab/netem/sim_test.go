package netem

import (
	"slices"
	"time"

	"pgregory.net/rapid"
)

// line drives a pipeline as a switch would, on a clock of its own.
type line struct {
	t     rapid.TB
	p     *Pipeline
	now   time.Duration
	waits []Out // in order of time
	outs  []Out // all that left, in the order in which it was decided
	all   Set
	sent  int
}

func newLine(t rapid.TB, c Config, ims ...Impairment) (*line, []*Rule) {
	l := &line{t: t, p: New(c)}
	var rules []*Rule
	for _, im := range ims {
		rules = append(rules, l.add("rule", im))
	}
	return l, rules
}

func (l *line) add(id string, im Impairment) *Rule {
	l.t.Helper()
	r, err := l.p.Add(id, im)
	if err != nil {
		l.t.Fatal(err)
	}
	l.all |= r.Set()
	return r
}

// take sorts what left a pipeline into what waits and what is done.
func (l *line) take(outs []Out) {
	for _, o := range outs {
		if o.Fate != Wait {
			l.outs = append(l.outs, o)
			continue
		}
		at, _ := slices.BinarySearchFunc(l.waits, o, func(a, b Out) int {
			if a.At <= b.At {
				return -1
			}
			return 1
		})
		l.waits = slices.Insert(l.waits, at, o)
	}
}

// until lets time pass.
func (l *line) until(now time.Duration) {
	for len(l.waits) > 0 && l.waits[0].At <= now {
		o := l.waits[0]
		l.waits = l.waits[1:]
		l.take([]Out{l.p.Egress(o)})
	}
	l.now = now
}

// push sends a frame of so many bytes; its number is its Ref.
func (l *line) push(size int, rules Set) {
	l.take(l.p.Push(l.now, Frame{Data: make([]byte, size), Ref: l.sent}, rules, nil))
	l.sent++
}

func (l *line) remove(r *Rule) {
	for _, f := range l.p.Remove(r) {
		l.take(l.p.Push(l.now, f, l.all, nil))
	}
}

func (l *line) drain() { l.until(1 << 62) }

// delivered is what arrives, in the order of its times.
func (l *line) delivered() []Out {
	var d []Out
	for _, o := range l.outs {
		if o.Fate == Deliver {
			d = append(d, o)
		}
	}
	slices.SortStableFunc(d, func(a, b Out) int { return int(a.At - b.At) })
	return d
}

// conserved checks that no frame came from nowhere or is gone.
func (l *line) conserved() {
	l.t.Helper()
	c := l.p.Counters()
	if c.In+c.Duplicated != c.Out+c.Held+c.Waiting+c.Dropped() || c.In != int64(l.sent) || c.Waiting != int64(len(l.waits)) {
		l.t.Fatalf("%d frames sent, %d wait; counters %+v", l.sent, len(l.waits), c)
	}
	fates := map[Fate]int64{}
	for _, o := range l.outs {
		fates[o.Fate]++
	}
	if fates[Deliver] != c.Out || fates[DropCut] != c.DroppedCut || fates[DropJam] != c.DroppedJam ||
		fates[DropMTU] != c.DroppedMTU || fates[DropLoss] != c.DroppedLoss || fates[DropQueue] != c.DroppedQueue {
		l.t.Fatalf("fates %v, counters %+v", fates, c)
	}
}
