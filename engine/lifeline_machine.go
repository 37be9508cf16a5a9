package engine

import (
	"errors"
	"time"

	"holdfast.dev"
)

// lifelineCore is the pure part of a [Lifeline]: instants in, state out.
//
//	    answered              answered
//	  ┌──────────┐          ┌──────────┐
//	  ▼          │          ▼          │
//	Safe ───────────────► Jeopardy ────┘
//	  │  half the TTL       │
//	  │  without answer     │ validUntil passed, or refused
//	  └──────────┬──────────┘
//	             ▼
//	           Lost          (Closed from anywhere but Lost)
type lifelineCore struct {
	state   SessionState
	ttl     time.Duration
	sent    Instant // when the last acknowledged renewal was sent
	renewAt Instant // when to send the next
}

func newLifelineCore(sent Instant, ttl time.Duration) lifelineCore {
	return lifelineCore{state: Safe, ttl: ttl, sent: sent, renewAt: sent.Add(ttl / 3)}
}

// validUntil leaves a tenth of the TTL for clocks of different speed, for the
// time it takes to stop, and for the reading of the clock itself.
func (c *lifelineCore) validUntil() Instant { return c.sent.Add(c.ttl - c.ttl/10) }

func (c *lifelineCore) jeopardyAt() Instant { return c.sent.Add(c.ttl / 2) }

// answered takes in the answer to the renewal sent at the instant sent.
func (c *lifelineCore) answered(now, sent Instant, ttl time.Duration, err error) {
	switch {
	case c.state == Lost || c.state == Closed:
	case err == nil && now < c.validUntil():
		c.ttl, c.sent, c.state = ttl, sent, Safe
		c.renewAt = sent.Add(ttl / 3)
		c.tick(now)
	case errors.Is(err, holdfast.ErrLost):
		c.state = Lost
	default:
		c.renewAt = now.Add(min(c.ttl/20, 250*time.Millisecond))
		c.tick(now)
	}
}

// tick takes in the passing of time.
func (c *lifelineCore) tick(now Instant) {
	switch {
	case c.state == Lost || c.state == Closed:
	case now >= c.validUntil():
		c.state = Lost
	case now >= c.jeopardyAt():
		c.state = Jeopardy
	}
}

func (c *lifelineCore) close() {
	if c.state != Lost {
		c.state = Closed
	}
}

// next is how long the clock may be left alone. It is never more than a tenth
// of the TTL: timers stand still while the machine sleeps, so the deadline
// itself cannot be trusted to a timer.
func (c *lifelineCore) next(now Instant, flying bool) time.Duration {
	d := min(c.ttl/10, time.Second)
	if !flying {
		d = min(d, c.renewAt.Sub(now))
	}
	if c.state == Safe {
		d = min(d, c.jeopardyAt().Sub(now))
	}
	return max(min(d, c.validUntil().Sub(now)), 0)
}
