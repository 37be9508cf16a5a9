package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/kv"
	"holdfast.dev/lock"
	"holdfast.dev/membership"
)

// reopenPause is the pause before a lost session of the node is opened anew.
const reopenPause = 250 * time.Millisecond

// parts is what the node does in the quorum, under one session of its own.
// Clients' grants hang on their own sessions and outlive it.
type parts struct {
	session   *engine.Session
	locks     *lock.Manager
	elections *election.Manager
	store     *kv.Store
}

// own keeps parts: when the node's session is lost, it opens another one. Safe
// for concurrent use.
type own struct {
	cfg     Config
	members *membership.Registry

	mu  sync.Mutex // guards the field below
	cur *parts     // nil while there is no session
}

// run opens sessions until ctx ends.
func (o *own) run(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := engine.OpenSession(ctx, o.cfg.Engine, engine.SessionConfig{
			TTL: o.cfg.SessionTTL, Name: o.cfg.Name, Attempt: o.cfg.Attempt,
		})
		if err != nil {
			if ctx.Err() == nil {
				o.cfg.Logger.WarnContext(ctx, "no session", slog.String("error", err.Error()))
			}
			if pause(ctx, reopenPause) != nil {
				return
			}
			continue
		}
		o.hold(ctx, s)
	}
}

// hold works under one session until it or ctx ends.
func (o *own) hold(ctx context.Context, s *engine.Session) {
	p := &parts{
		session:   s,
		locks:     lock.New(s, lock.Config{Sweep: true}),
		elections: election.New(s, election.Config{Sweep: true}),
		store:     kv.New(s),
	}
	if err := o.publish(ctx, s); err != nil {
		o.cfg.Logger.WarnContext(ctx, "node is not published", slog.String("error", err.Error()))
	}
	o.set(p)
	select {
	case <-ctx.Done():
	case <-s.Context().Done():
		o.cfg.Logger.WarnContext(ctx, "the node's own session is lost; opening another one", slog.String("session", s.ID().String()))
	}
	o.set(nil)
	p.locks.Close()
	p.elections.Close()
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.cfg.Attempt)
	defer cancel()
	if err := s.Close(cctx); err != nil {
		o.cfg.Logger.DebugContext(ctx, "session runs out by itself", slog.String("error", err.Error()))
	}
}

// nodePrefix is where nodes say where their API is, under their session.
const nodePrefix = "cluster/node/"

// nodeRecord is what a node says of itself.
type nodeRecord struct {
	Name    string   `json:"name"`
	URLs    []string `json:"urls,omitempty"`
	Version string   `json:"version"`
	Member  uint64   `json:"member,omitempty"` // of the consensus
}

// publish writes the node's record.
func (o *own) publish(ctx context.Context, s *engine.Session) error {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.CallTimeout)
	defer cancel()
	rec := nodeRecord{Name: o.cfg.Name, URLs: o.cfg.Advertise, Version: o.cfg.Version}
	if st, err := o.cfg.Engine.Status(ctx); err == nil {
		rec.Member = st.MemberID
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	_, err = s.Submit(ctx, engine.Txn{
		If:   []engine.Compare{s.Alive()},
		Then: []engine.Op{engine.PutLeased(nodePrefix+s.ID().String(), value, engine.LeaseID(s.ID()))},
	})
	return err
}

func (o *own) set(p *parts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cur = p
}

// parts is what to work with now. Without a session the node is cut off from
// the quorum: another one will serve.
func (o *own) parts() (*parts, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cur == nil {
		return nil, &holdfast.Error{
			Key: "node " + o.cfg.Name, Op: "open session", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied,
		}
	}
	return o.cur, nil
}

// blame turns the loss of the node's own session into what it means to a
// client: not that his is lost.
func (p *parts) blame(err error) error {
	c := holdfast.CodeOf(err)
	if c != holdfast.CodeLost && c != holdfast.CodeClosed || p.session.Err() == nil && !names(err, "session "+p.session.ID().String()) {
		return err
	}
	return &holdfast.Error{Op: "serve", Code: holdfast.CodeNoQuorum, Outcome: holdfast.Unknown, Err: plainError{err}}
}

// names says whether an error in the chain has that subject.
func names(err error, key string) bool {
	for {
		e, ok := errors.AsType[*holdfast.Error](err)
		if !ok || e.Key == key {
			return ok
		}
		err = e.Err
	}
}

// retry repeats a call that may be repeated until it succeeds, fails for good,
// or ctx ends.
func retry[T any](ctx context.Context, attempt time.Duration, f func(context.Context) (T, error)) (T, error) {
	for {
		actx, cancel := context.WithTimeout(ctx, attempt)
		v, err := f(actx)
		cancel()
		if c := holdfast.CodeOf(err); c != holdfast.CodeNoQuorum && c != holdfast.CodeDeadline && c != holdfast.CodeCanceled {
			return v, err
		}
		if pause(ctx, attempt/16) != nil {
			return v, &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.OutcomeOf(err), Err: err}
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
