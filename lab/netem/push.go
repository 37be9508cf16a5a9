package netem

import "time"

// Push puts a frame that came at now on the link, where the rules of the set
// match it, and appends what leaves to out: the frame and its copies, dropped
// ones too, but not one that is held. now never falls.
//
// The order is netem's: cut and MTU, then duplicate, loss, corrupt, delay or
// reorder, rate. Copies meet losses and delays of their own.
func (p *Pipeline) Push(now time.Duration, f Frame, rules Set, out []Out) []Out {
	c := p.class(rules & p.active)
	if f.held == nil { // else it was counted when it came
		p.count.In++
		p.count.InBytes += int64(len(f.Data))
	}
	p.frames++
	if c.first == 0 {
		c.first = p.frames
	}
	c.last = p.frames
	for _, r := range c.rules {
		r.met++
		if !f.held.has(r) {
			r.count.In++
			r.count.InBytes += int64(len(f.Data))
		}
	}
	if fate, by := p.gate(c, f); fate != Deliver {
		if fate == Wait {
			return out
		}
		return append(out, p.drop(c, Out{At: now, Frame: f, Fate: fate}, by, f.held == nil))
	}
	copies := 0
	for _, r := range c.rules {
		if r.duplicate.next(diceFor(r.key, r.met, 0), forDuplicate, r.im.Duplicate, r.im.DuplicateCorrelation) {
			r.count.Duplicated++
			r.count.Touched++
			copies++
		}
	}
	// Copies are made before bits are flipped.
	first := len(out)
	o := Out{At: now, Frame: f, class: c}
	if f.held != nil {
		o.Marks, o.Frame.held = Released, nil
	}
	out = append(out, o)
	for range copies {
		o.Frame = p.config.Clone(f)
		o.Frame.held = nil
		o.Marks |= Copied
		out = append(out, o)
	}
	p.count.Duplicated += int64(copies)
	for i := range out[first:] {
		out[first+i] = p.pass(now, out[first+i], i, f.held != nil)
	}
	return out
}

// gate says what a cut or an MTU does to a frame; Wait is that it is held.
func (p *Pipeline) gate(c *class, f Frame) (Fate, *Rule) {
	var jam *Rule
	for _, r := range c.rules {
		switch {
		case r.im.Cut == Stopped:
			return DropCut, r
		case r.im.Cut == Jammed && jam == nil:
			jam = r
		}
	}
	switch {
	case jam == nil:
	case len(p.jam) >= p.config.Jam:
		return DropJam, jam
	default:
		for _, r := range c.rules {
			if r.im.Cut == Jammed && !f.held.has(r) {
				r.count.Delayed++
				r.count.Touched++
			}
		}
		if f.held == nil {
			p.count.Delayed++
			p.count.Touched++
		}
		f.held = c
		jam.count.Held++
		p.count.Held++
		p.jam = append(p.jam, held{f, jam})
		return Wait, jam
	}
	for _, r := range c.rules {
		if r.im.MTU > 0 && len(f.Data)-etherHeader > r.im.MTU {
			return DropMTU, r
		}
	}
	return Deliver, nil
}

// drop counts a frame that is dropped; fresh is false when it was counted as
// touched before.
func (p *Pipeline) drop(c *class, o Out, by *Rule, fresh bool) Out {
	o.Rule, o.class, o.Frame.held = by, c, nil
	by.count.drop(o.Fate)
	by.count.Touched++
	p.count.drop(o.Fate)
	if fresh {
		p.count.Touched++
	}
	return o
}

// pass sends one copy of a frame through loss, corruption and delay.
func (p *Pipeline) pass(now time.Duration, o Out, copied int, held bool) Out {
	c := o.class
	fresh := !held && copied == 0 // not yet counted as touched; a copy is itself a change
	if copied > 0 {
		p.count.Touched++
	}
	for _, r := range c.rules {
		d := diceFor(r.key, r.met, copied)
		lost := r.loss.next(d, forLoss, r.im.Loss, r.im.LossCorrelation)
		if r.im.Gilbert != nil && r.burst.next(d, *r.im.Gilbert) {
			lost = true
		}
		if lost {
			o.Fate = DropLoss
			return p.drop(c, o, r, fresh)
		}
	}
	var delay time.Duration
	slow, ordered := false, true
	for _, r := range c.rules {
		d := diceFor(r.key, r.met, copied)
		touched := false
		if r.corrupt.next(d, forCorrupt, r.im.Corrupt, r.im.CorruptCorrelation) &&
			flip(o.Frame.Data, d.bits(forBit, 0), r.im.FixChecksum) {
			r.count.Corrupted++
			o.Marks |= Corrupted
			touched = true
		}
		switch own := r.delay(d); {
		case r.reorders(d):
			r.count.Reordered++
			o.Marks |= Reordered
			touched = true
		case own > 0:
			r.count.Delayed++
			delay += own
			touched = true
		}
		if r.im.Rate > 0 {
			slow, touched = true, true
		}
		if touched {
			r.count.Touched++
		}
		ordered = ordered && !r.im.Unordered
	}
	o.At = now + delay
	if ordered && o.Marks&Reordered == 0 {
		o.At = max(o.At, c.at)
	}
	if o.Marks&Reordered == 0 {
		c.at = max(c.at, o.At)
	}
	if o.Marks&Corrupted != 0 {
		p.count.Corrupted++
	}
	if o.Marks&Reordered != 0 {
		p.count.Reordered++
	}
	if late := o.At > now || slow; late && !held {
		p.count.Delayed++
	}
	if fresh && (o.At > now || slow || o.Marks != 0) {
		p.count.Touched++
	}
	if !slow {
		p.leave(&o)
		return o
	}
	wait := o.At > now || p.count.Waiting > 0 // in the second case others come to the rate before it
	o.Fate = Wait
	p.count.Waiting++
	if !wait {
		o = p.Egress(o)
	}
	return o
}

func (p *Pipeline) leave(o *Out) {
	o.Fate = Deliver
	p.count.Out++
	p.count.OutBytes += int64(len(o.Frame.Data))
}

// delay is how late the rule sends a frame.
func (r *Rule) delay(d dice) time.Duration {
	own := r.im.Delay
	if r.im.Jitter > 0 {
		own = max(0, own+r.jitter.next(d, &r.im))
	}
	if r.im.Cut == Slowed {
		own += slowness
	}
	return own
}

// reorders says whether a frame goes at once, as netem's gap and probability
// have it: from the gap-th frame after the last one on, each by chance.
func (r *Rule) reorders(d dice) bool {
	if r.im.Reorder <= 0 {
		return false
	}
	r.sinceReorder++
	if r.sinceReorder < r.im.Gap || !r.reorder.next(d, forReorder, r.im.Reorder, r.im.ReorderCorrelation) {
		return false
	}
	r.sinceReorder = 0
	return true
}

// Egress takes a frame whose fate is Wait and whose time has come, and says when
// its last bit leaves the rates of its rules, or that there is no room for it.
// Frames are passed to it in the order of their times.
//
// No rate is exceeded over any span of time by frames that meet the same rules.
// Where two rates are for different traffic that overlaps, what both are for can
// exceed the wider one by the narrower one.
func (p *Pipeline) Egress(o Out) Out {
	c, size := o.class, len(o.Frame.Data)
	p.count.Waiting--
	for _, r := range c.rules {
		if r.im.Rate > 0 && !r.gone && r.rate.length(o.At) >= r.im.Limit {
			o.Fate, o.Rule = DropQueue, r
			r.count.DroppedQueue++
			p.count.DroppedQueue++
			return o
		}
	}
	at, longest := max(o.At, c.sent), time.Duration(0)
	for _, r := range c.rules {
		if r.im.Rate > 0 && !r.gone {
			own := takes(size, r.im.Rate)
			longest = max(longest, own)
			at = max(at, r.rate.send(o.At, own))
		}
	}
	if c.sent > 0 {
		at = max(at, c.sent+longest)
	}
	c.sent, o.At = at, at
	p.leave(&o)
	return o
}

// Abandon is for a frame that left but that the caller cannot carry: it counts
// as dropped for no rule's sake.
func (p *Pipeline) Abandon(o Out) Out {
	switch o.Fate {
	case Wait:
		p.count.Waiting--
	case Deliver:
		p.count.Out--
		p.count.OutBytes -= int64(len(o.Frame.Data))
	case DropCut, DropJam, DropMTU, DropLoss, DropQueue, DropAbandoned:
		return o
	}
	p.count.Abandoned++
	o.Fate = DropAbandoned
	return o
}

// Counters is what happened on the link so far.
func (p *Pipeline) Counters() Counters { return p.count }
