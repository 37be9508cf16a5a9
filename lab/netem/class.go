package netem

import (
	"slices"
	"time"
)

// class is the frames that meet the same rules: they stay in order.
type class struct {
	set   Set
	rules []*Rule
	at    time.Duration // when the last of them ends its delay
	sent  time.Duration // when the last of them leaves a rate
	first uint64        // number of its first frame
	last  uint64        // and of its last
}

// has is false for no class.
func (c *class) has(r *Rule) bool { return c != nil && slices.Contains(c.rules, r) }

// class finds or makes the class of a set. A new one begins after the frames of
// those that it has all rules of: delays add up, so they are not later than its
// own would be.
func (p *Pipeline) class(set Set) *class {
	for _, c := range p.classes {
		if c.set == set {
			return c
		}
	}
	c := &class{set: set}
	for _, r := range p.rules {
		if r != nil && set&r.Set() != 0 {
			c.rules = append(c.rules, r)
		}
	}
	for _, o := range p.classes {
		if o.set&^set == 0 {
			c.at, c.sent = max(c.at, o.at), max(c.sent, o.sent)
		}
	}
	p.classes = append(p.classes, c)
	return c
}

// forget replaces the classes that the rule is in by those without it. Frames
// of the class without the rule wait for the frames of that with it, unless both
// were in use side by side: then the rule is for some traffic only, and the
// other traffic has nothing to wait for.
func (p *Pipeline) forget(r *Rule) {
	var gone []*class
	kept := p.classes[:0]
	for _, c := range p.classes {
		if c.set&r.Set() != 0 {
			gone = append(gone, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.classes[len(kept):])
	p.classes = kept
	for _, g := range gone {
		if c := p.class(g.set &^ r.Set()); c.last < g.first {
			c.at = max(c.at, g.at, g.sent)
			if slices.ContainsFunc(g.rules, func(r *Rule) bool { return r.im.Rate > 0 }) {
				c.at++ // some may still have to come to the rate: no tie with those
			}
			if c.first == 0 {
				c.first = g.first
			}
			c.last = g.last
		}
	}
}
