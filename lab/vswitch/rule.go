//go:build linux

package vswitch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"holdfast.dev/lab/netem"
)

// Link is the way from one host to another. It is directed.
type Link struct{ From, To string }

// Applied is a rule on links.
type Applied struct {
	s     *Switch
	match Match
	text  string

	mu      sync.Mutex
	removed bool
	links   []*linked
}

// Apply impairs frames that match, on links, until the rule is removed. Rules
// of one link add up: each does what it does, in the order in which they came,
// and any that cuts the link cuts it.
func (s *Switch) Apply(links []Link, m Match, im netem.Impairment) (*Applied, error) {
	if err := errors.Join(m.validate(), im.Validate()); err != nil {
		return nil, fmt.Errorf("switch: apply: %w", err)
	}
	t := s.table.Load()
	seen := map[*link]bool{}
	var on []*link
	for _, l := range links {
		at := t.link(l)
		if at == nil {
			return nil, s.unknown(l)
		}
		if !seen[at] {
			seen[at] = true
			on = append(on, at)
		}
	}
	s.mu.Lock()
	s.ordinal++
	a := &Applied{s: s, match: m, text: fmt.Sprintf("rule %d: %s", s.ordinal, describe(m, im))}
	s.mu.Unlock()
	s.capture.event(s, fmt.Sprintf("%s: applied to %s", a.text, list(links)))
	for _, l := range on {
		r, err := l.add(s, a, im)
		if err != nil {
			a.Remove()
			return nil, fmt.Errorf("switch: apply to %s→%s: %w", l.from.name, l.to.name, err)
		}
		a.links = append(a.links, r)
	}
	return a, nil
}

// add puts a rule on a link. What it leaves to chance depends on what the rule
// says, and on how many there were on the link that said the same: not on what
// else was applied before.
func (l *link) add(s *Switch, a *Applied, im netem.Impairment) (*linked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pipe == nil {
		l.pipe = netem.New(netem.Config{
			Seed: s.config.Seed, Link: l.from.name + "→" + l.to.name, Jam: s.config.Jam, Clone: s.clone,
		})
		l.same = map[string]int{}
	}
	kind := describe(a.match, im)
	rule, err := l.pipe.Add(fmt.Sprintf("%s #%d", kind, l.same[kind]), im)
	if err != nil {
		return nil, err
	}
	l.same[kind]++
	r := &linked{applied: a, link: l, rule: rule}
	l.rules = append(l.rules, r)
	l.ruled.Add(1)
	return r, nil
}

// clone is a copy of a frame in a buffer of its own.
func (s *Switch) clone(f netem.Frame) netem.Frame {
	b := s.buffer()
	b.n = copy(b.data, f.Data)
	return netem.Frame{Data: b.data[:b.n], Ref: b}
}

// Touched is how many frames the rule changed so far: dropped, held, delayed,
// duplicated, corrupted, reordered.
func (a *Applied) Touched() int64 {
	c := a.Counters()
	return c.Touched
}

// Counters is what the rule did, on all its links together.
func (a *Applied) Counters() (sum netem.Counters) {
	a.mu.Lock()
	links := a.links
	a.mu.Unlock()
	for _, r := range links {
		r.link.mu.Lock()
		c := r.rule.Counters()
		r.link.mu.Unlock()
		sum.Add(c)
	}
	return sum
}

// String is the rule in words.
func (a *Applied) String() string { return a.text }

// Remove ends the rule. Frames that it delays come at their time, and those
// that follow them do not overtake; frames that it holds go on at once, in
// order. It may be called again.
func (a *Applied) Remove() {
	a.mu.Lock()
	again := a.removed
	a.removed = true
	links := a.links
	a.mu.Unlock()
	if again {
		return
	}
	for _, r := range links {
		r.remove(a.s)
	}
	a.s.capture.event(a.s, a.text+": removed")
}

func (r *linked) remove(s *Switch) {
	l := r.link
	var dead []*buffer
	l.mu.Lock()
	frames := l.pipe.Remove(r.rule)
	for i, o := range l.rules {
		if o == r {
			l.rules = append(l.rules[:i:i], l.rules[i+1:]...)
			break
		}
	}
	l.draining = l.draining || l.pending.Load() > 0
	now := s.now()
	for _, f := range frames {
		p := parse(f.Data)
		outs := l.pipe.Push(now, f, l.matching(&p), nil)
		l.draining = true // the first of them goes through the schedule too, and so come all in order
		for i := range outs {
			o := &outs[i]
			b := o.Frame.Ref.(*buffer)
			if o.Fate >= netem.DropCut {
				dead = append(dead, b)
				continue
			}
			b.link, b.out = l, *o
			l.pending.Add(1)
			s.memory.Add(int64(cap(b.data)))
			s.schedule.add(o.At, b)
		}
	}
	l.ruled.Add(-1)
	l.mu.Unlock()
	for _, b := range dead {
		s.free(b)
	}
}

// describe says what a rule does, and nothing that is zero.
func describe(m Match, im netem.Impairment) string {
	var words []string
	if m.Proto != "" {
		words = append(words, m.Proto)
	}
	if m.Port != 0 {
		words = append(words, fmt.Sprintf("port %d", m.Port))
	}
	if m.SYN {
		words = append(words, "syn")
	}
	return strings.Join(append(words, im.String()), " ")
}

func list(links []Link) string {
	var b strings.Builder
	for i, l := range links {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(links)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(l.From + "→" + l.To)
	}
	return b.String()
}

const discard = 9 // the port of RFC 863

// Burst sends noise from one host to another: UDP frames of full size to the
// discard port, so many bytes of them, as fast as the switch makes them. They
// meet the rules of the link and fill its queue.
func (s *Switch) Burst(ctx context.Context, l Link, bytes int) error {
	at := s.table.Load().link(l)
	if at == nil {
		return s.unknown(l)
	}
	in := &intake{s: s, from: at.from}
	frame := make([]byte, etherHeader+s.config.MTU)
	for n := 0; bytes > 0; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		size := min(bytes, len(frame))
		size = max(size, etherHeader+20+8)
		bytes -= size
		udp := header(frame, at.from, at.to, protoUDP, size-etherHeader-20)
		binary.BigEndian.PutUint16(udp, discard)
		binary.BigEndian.PutUint16(udp[2:], discard)
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		binary.BigEndian.PutUint16(udp[6:], 0) // no checksum
		b := s.buffer()
		b.n = copy(b.data, frame[:size])
		p := parse(b.data[:b.n])
		if in.put(at, b, &p) {
			s.free(b)
		}
	}
	return nil
}
