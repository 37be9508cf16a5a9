package engine

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"holdfast.dev"
)

// guard is what lets a session take back its own transactions that may still
// be under way: they compare the session key's revision, and putting the key
// anew ends them all at once. It costs the transactions nothing but a compare.
type guard struct {
	mod  atomic.Int64  // revision of the session key as last known
	turn chan struct{} // of capacity 1: one retire at a time
}

// Guard is the guard "this session exists and has not retired the guard since".
// It implies Alive. Transactions of one session under one guard may travel
// together; they only compare the key.
func (s *Session) Guard() Compare { return ModIs(SessionKey(s.cfg.ID), s.guard.mod.Load()) }

// Retire makes sure that no transaction guarded by g is applied from now on:
// after it, one read tells whether one of unknown outcome was applied. It tries
// until it is done or ctx ends, and fails with ErrLost when the session is
// gone. Other transactions of the session under the same guard fail their
// compare and have to be sent again under a new one.
func (s *Session) Retire(ctx context.Context, g Compare) error {
	select {
	case s.guard.turn <- struct{}{}:
		defer func() { <-s.guard.turn }()
	case <-ctx.Done():
		return &holdfast.Error{Op: "retire guard", Code: codeOfContext(ctx), Outcome: holdfast.Unknown, Err: ctx.Err()}
	}
	if s.guard.mod.Load() > g.Int {
		return nil // somebody else has
	}
	return s.retire(ctx)
}

// Renewed tells the session that its key was read at a revision later than the
// guard's: a retirement whose answer was lost.
func (s *Session) Renewed(mod int64) {
	for {
		old := s.guard.mod.Load()
		if old >= mod || s.guard.mod.CompareAndSwap(old, mod) {
			return
		}
	}
}

func (s *Session) retire(ctx context.Context) error {
	value, err := json.Marshal(SessionRecord{Name: s.cfg.Name, TTL: s.cfg.TTL, Metadata: s.cfg.Metadata})
	if err != nil {
		return err
	}
	res, err := s.Submit(ctx, Txn{
		If:   []Compare{s.Alive()},
		Then: []Op{PutLeased(SessionKey(s.cfg.ID), value, LeaseID(s.cfg.ID))},
	})
	switch {
	case err != nil:
		return err
	case !res.Succeeded:
		return s.ended(holdfast.CodeLost)
	}
	s.Renewed(res.Revision)
	return nil
}
