//go:build linux

package vswitch

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev/lab/netem"
)

// buffer is a frame, and where it is on its way.
type buffer struct {
	data []byte
	n    int

	link *link // while it is in the schedule
	out  netem.Out
}

// link is the way from one host to another.
type link struct {
	from, to *host

	// While both are zero frames go straight through, without the lock.
	ruled   atomic.Int32 // rules
	pending atomic.Int32 // frames in the schedule

	rx, tx, rxBytes, txBytes atomic.Int64
	down, overrun            atomic.Int64
	late                     atomic.Pointer[histogram] // from the first delayed frame on

	mu       sync.Mutex // never held over I/O
	pipe     *netem.Pipeline
	rules    []*linked
	same     map[string]int // how many rules there were of each kind
	draining bool           // frames of a rule that was removed are still under way
}

// linked is a rule on one link.
type linked struct {
	applied *Applied
	link    *link
	rule    *netem.Rule
}

// matching is the rules that match.
func (l *link) matching(p *packet) (set netem.Set) {
	for _, r := range l.rules {
		if r.applied.match.matches(p) {
			set |= r.rule.Set()
		}
	}
	return set
}

// by is the text of the rule on this link that did something.
func (l *link) by(rule *netem.Rule) string {
	for _, r := range l.rules {
		if r.rule == rule {
			return r.applied.text
		}
	}
	return "a rule that was removed"
}

// intake is what one goroutine needs to put frames on links.
type intake struct {
	s      *Switch
	from   *host
	outs   []netem.Out
	direct []*buffer // to be sent without delay
}

// take forwards a frame from the host. It returns true when it is done with the
// buffer.
func (in *intake) take(b *buffer) bool {
	s, frame := in.s, b.data[:b.n]
	if b.n < etherHeader {
		in.from.lost.Add(1)
		return true
	}
	t := s.table.Load()
	ether := binary.BigEndian.Uint16(frame[12:])
	if ether == etherARP {
		if answerARP(frame, t.owner) {
			s.inject(in.from, frame, "answered by the lab")
		}
		return true
	}
	p := parse(frame)
	to := t.byMAC[mac(frame)]
	if to == nil && ether == etherIPv4 && frame[0]&1 == 0 {
		if to = t.byAddr[p.dst]; to != nil {
			copy(frame, to.mac[:]) // it was meant for a router
		}
	}
	if to == nil || to == in.from {
		in.from.lost.Add(1)
		s.capture.frame(s, in.from.face, inbound, frame, "not forwarded: no such host")
		return true
	}
	if p.proto == protoTCP && p.ports && in.from.flows.track(&p) {
		s.sendReset(to, in.from, p.to, p.from, p.ack, p.seq)
	}
	return in.put(t.links[in.from.index][to.index], b, &p)
}

// put puts a frame on a link. It returns true when it is done with the buffer.
func (in *intake) put(l *link, b *buffer, p *packet) bool {
	l.rx.Add(1)
	l.rxBytes.Add(int64(b.n))
	if l.ruled.Load() != 0 || l.pending.Load() != 0 {
		in.impair(l, b, p)
		return false
	}
	s, frame := in.s, b.data[:b.n]
	s.capture.frame(s, l.from.face, inbound, frame, "")
	s.deliver(l, frame)
	return true
}

// impair puts a frame through the rules of a link. It takes the buffer.
func (in *intake) impair(l *link, b *buffer, p *packet) {
	s := in.s
	seen := s.capture.copy(s, l.from.face, inbound, b.data[:b.n])
	in.direct = in.direct[:0]
	l.mu.Lock()
	set := l.matching(p)
	in.outs = l.pipe.Push(s.now(), netem.Frame{Data: b.data[:b.n], Ref: b}, set, in.outs[:0])
	in.direct = s.route(l, set, in.outs, in.direct)
	if seen != nil {
		seen.comment = l.story(in.outs)
	}
	l.mu.Unlock()
	s.capture.put(seen)
	for i := range in.outs {
		if o := &in.outs[i]; o.Fate >= netem.DropCut {
			s.free(o.Frame.Ref.(*buffer))
		}
	}
	for _, b := range in.direct {
		s.deliver(l, b.data[:b.n])
		s.free(b)
	}
	clear(in.outs)
}

// route sends what leaves a pipeline on its way, with the lock held: into the
// schedule or, where that keeps the order, to those that go now.
func (s *Switch) route(l *link, set netem.Set, outs []netem.Out, now []*buffer) []*buffer {
	if l.pending.Load() == 0 {
		l.draining = false
	}
	at := s.now()
	for i := range outs {
		o := &outs[i]
		if o.Fate >= netem.DropCut {
			continue
		}
		b := o.Frame.Ref.(*buffer)
		passes := l.pending.Load() == 0 || o.Marks&netem.Reordered != 0 || set == 0 && !l.draining
		if o.Fate == netem.Deliver && o.At <= at && passes {
			now = append(now, b)
			continue
		}
		if s.memory.Add(int64(cap(b.data))) > int64(s.config.Memory) {
			s.memory.Add(-int64(cap(b.data)))
			l.overrun.Add(1)
			*o = l.pipe.Abandon(*o) // the caller frees it
			continue
		}
		b.link, b.out = l, *o
		l.pending.Add(1)
		s.schedule.add(o.At, b)
	}
	return now
}

// story says in words what was done to a frame.
func (l *link) story(outs []netem.Out) string {
	if len(outs) == 0 {
		return "held by a jam"
	}
	text := ""
	for i := range outs {
		o := &outs[i]
		what := ""
		switch o.Fate {
		case netem.DropCut:
			what = "dropped: link is cut"
		case netem.DropJam:
			what = "dropped: the jam holds as many as it may"
		case netem.DropMTU:
			what = "dropped: too long"
		case netem.DropLoss:
			what = "dropped: loss"
		case netem.DropQueue:
			what = "dropped: the queue is full"
		case netem.DropAbandoned:
			what = "dropped: the lab has no memory left"
		case netem.Deliver, netem.Wait:
			for _, m := range []struct {
				mark netem.Mark
				text string
			}{{netem.Copied, "duplicated"}, {netem.Corrupted, "corrupted"}, {netem.Reordered, "reordered"}, {netem.Released, "released"}} {
				if o.Marks&m.mark != 0 {
					what = join(what, m.text)
				}
			}
		}
		if o.Rule != nil {
			what += " (" + l.by(o.Rule) + ")"
		}
		text = join(text, what)
	}
	return text
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// arrive sends a frame whose time has come.
func (s *Switch) arrive(b *buffer) {
	l := b.link
	if b.out.Fate == netem.Wait {
		l.mu.Lock()
		b.out = l.pipe.Egress(b.out)
		text := ""
		if b.out.Fate != netem.Deliver && s.capture != nil {
			text = l.story([]netem.Out{b.out})
		}
		l.mu.Unlock()
		switch {
		case b.out.Fate != netem.Deliver:
			s.capture.frame(s, 0, 0, b.data[:b.n], text) // what the host sent was captured when it came
			s.settle(b)
			return
		case b.out.At > s.now():
			s.schedule.add(b.out.At, b)
			return
		}
	}
	late := s.now() - b.out.At
	h := l.late.Load()
	if h == nil {
		h = &histogram{}
		l.late.Store(h)
	}
	h.add(late)
	if late > s.config.Late {
		l.overrun.Add(1)
	}
	s.deliver(l, b.data[:b.n])
	s.settle(b)
}

// settle is the end of a buffer that was in the schedule.
func (s *Switch) settle(b *buffer) {
	s.memory.Add(-int64(cap(b.data)))
	l := b.link
	s.free(b)
	l.pending.Add(-1)
}

// deliver sends a frame to the end of a link.
func (s *Switch) deliver(l *link, frame []byte) {
	switch err := s.send(l.to, frame, ""); {
	case err == nil:
		l.tx.Add(1)
		l.txBytes.Add(int64(len(frame)))
	case errors.Is(err, errDown):
		l.down.Add(1)
	default: // no room: the lab is at fault
		l.overrun.Add(1)
	}
}

// send writes a frame to a host.
func (s *Switch) send(to *host, frame []byte, comment string) error {
	p := to.port.Load()
	if p == nil {
		return errDown
	}
	err := p.write(frame)
	if err == nil {
		s.capture.frame(s, to.face, outbound, frame, comment)
	}
	return err
}

// inject sends a frame that no host sent. If there is no room it is lost, as
// any frame may be.
func (s *Switch) inject(to *host, frame []byte, comment string) { _ = s.send(to, frame, comment) }

// now is the time since the switch was made.
func (s *Switch) now() time.Duration { return time.Since(s.begin) }
