package client

import (
	"context"
	"slices"
	"sync"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// slots hands out request ids: one slot per unfinished write, and a number that
// grows. A slot whose write has an unknown outcome is kept until that is
// settled, because a later number would hide the answer; of more than half of
// the slots, the oldest gives way.
type slots struct {
	free chan uint8

	mu      sync.Mutex // guards the fields below
	seq     uint64
	unknown []engine.RequestID // oldest first
}

func newSlots() *slots {
	s := &slots{free: make(chan uint8, engine.Slots)}
	for i := range engine.Slots {
		s.free <- uint8(i)
	}
	return s
}

// take waits for a free slot.
func (s *slots) take(ctx context.Context, session engine.SessionID) (engine.RequestID, error) {
	select {
	case slot := <-s.free:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seq++
		return engine.RequestID{Session: session, Slot: slot, Seq: s.seq}, nil
	case <-ctx.Done():
		return engine.RequestID{}, &holdfast.Error{
			Code: holdfast.CodeOf(ctx.Err()), Outcome: holdfast.NotApplied, Err: context.Cause(ctx),
		}
	}
}

// put returns the slot of a write that has ended.
func (s *slots) put(id engine.RequestID, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unknown {
		s.unknown = append(s.unknown, id)
		if len(s.unknown) <= engine.Slots/2 {
			return
		}
		id, s.unknown = s.unknown[0], s.unknown[1:]
	}
	s.free <- id.Slot // never blocks: there is room for every slot
}

// settle frees the slot of a write whose outcome is known now.
func (s *slots) settle(id engine.RequestID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.unknown, id); i >= 0 {
		s.unknown = slices.Delete(s.unknown, i, i+1)
		s.free <- id.Slot
	}
}
