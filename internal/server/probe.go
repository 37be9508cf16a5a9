package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// probe proves that the quorum answers: one linearizable read, shared by those
// who ask at the same time. Safe for concurrent use.
type probe struct {
	engine  engine.Engine
	attempt time.Duration
	ctx     context.Context // ends when the node stops
	all     sync.WaitGroup  // reads under way

	mu  sync.Mutex // guards the field below
	cur *reading   // under way; nil: none
}

// reading is one read with its result.
type reading struct {
	done     chan struct{} // closed when the fields below are set
	revision int64
	err      error
}

// ask waits for a read that was begun no longer than an attempt ago.
func (p *probe) ask(ctx context.Context) (int64, error) {
	p.mu.Lock()
	r := p.cur
	if r == nil {
		r = &reading{done: make(chan struct{})}
		p.cur = r
		p.all.Go(func() { p.read(r) }) //nolint:contextcheck // shared: it must not end with the first caller
	}
	p.mu.Unlock()
	select {
	case <-r.done:
		return r.revision, r.err
	case <-ctx.Done():
		return 0, &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: ctx.Err()}
	}
}

func (p *probe) read(r *reading) {
	ctx, cancel := context.WithTimeout(p.ctx, p.attempt)
	defer cancel()
	res, err := p.engine.Range(ctx, engine.RangeRequest{Key: "epoch", Count: true})
	r.revision = res.Revision
	if err != nil {
		r.err = &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: err}
	}
	p.mu.Lock()
	p.cur = nil
	p.mu.Unlock()
	close(r.done)
}

// readyWithin is how long a question for readiness may take.
const readyWithin = time.Second

// ready is nil when this node serves: it is not stopping, it has its session,
// and the quorum answers.
func (s *Server) ready(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return errors.New("the node is stopping")
	}
	if _, err := s.own.parts(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if _, err := s.probe.ask(ctx); err != nil {
		return named("node", s.cfg.Name, "probe", err)
	}
	return nil
}
