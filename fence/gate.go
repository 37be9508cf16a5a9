package fence

import (
	"context"
	"sync"

	"holdfast.dev"
)

// gate lets the requests of one resource through under one token at a time. A
// request with a higher token waits until those with a lower one are done, and
// from then on keeps lower ones out; without that, a slow request could act
// after the first one of its successor. It forgets a resource as soon as
// nobody is in it or waits: what must be remembered is in a Highest.
type gate struct {
	mu sync.Mutex // guards the fields below, and those of each passage

	at map[string]*passage
}

// passage is the gate of one resource.
//
// Invariant: inside > 0 implies current <= highest.
type passage struct {
	highest holdfast.Token // that anybody came with
	current holdfast.Token // of those inside
	inside  int
	waiting int
	changed chan struct{} // closed, and replaced, when a waiter has to look again
}

// enter returns when the request may pass, and then leave must be called. A
// StaleError says that a higher token is inside or waits.
func (g *gate) enter(ctx context.Context, resource string, token holdfast.Token) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.at[resource]
	if p == nil {
		if g.at == nil {
			g.at = map[string]*passage{}
		}
		p = &passage{changed: make(chan struct{})}
		g.at[resource] = p
	}
	if token > p.highest {
		p.highest = token
		p.wake()
	}
	for {
		switch {
		case token < p.highest:
			g.forget(resource, p)
			return &StaleError{Token: token, Highest: p.highest}
		case p.inside == 0 || p.current == token:
			p.current = token
			p.inside++
			return nil
		}
		changed := p.changed
		p.waiting++
		g.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		g.mu.Lock()
		p.waiting--
		if err != nil {
			g.forget(resource, p)
			return err
		}
	}
}

// leave undoes enter.
func (g *gate) leave(resource string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.at[resource]
	if p.inside--; p.inside == 0 {
		p.wake()
	}
	g.forget(resource, p)
}

func (g *gate) forget(resource string, p *passage) {
	if p.inside == 0 && p.waiting == 0 {
		delete(g.at, resource)
	}
}

func (p *passage) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}
