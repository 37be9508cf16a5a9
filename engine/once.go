package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev"
)

// Slots is how many transactions of one session may be between their first
// attempt and a known outcome at one time: the bound on dedup records.
const Slots = 128

// RequestID names one transaction of one session for ever. The slot is where
// its dedup record stands, shared by at most one unfinished request; within a
// slot, Seq only grows.
type RequestID struct {
	Session SessionID
	Slot    uint8
	Seq     uint64
}

// String is "<session>.<slot>.<seq>".
func (r RequestID) String() string { return fmt.Sprintf("%v.%d.%d", r.Session, r.Slot, r.Seq) }

// ParseRequestID reads what String writes.
func ParseRequestID(s string) (RequestID, error) {
	var r RequestID
	parts := strings.Split(s, ".")
	err := errors.New("want SESSION.SLOT.SEQ, as in 00ab54a98ceb1f0a.3.17")
	if len(parts) == 3 {
		var slot uint64
		var e1, e2, e3 error
		r.Session, e1 = ParseSessionID(parts[0])
		slot, e2 = strconv.ParseUint(parts[1], 10, 8)
		r.Seq, e3 = strconv.ParseUint(parts[2], 10, 63)
		r.Slot = uint8(slot)
		if e1 == nil && e2 == nil && e3 == nil && slot < Slots && r.Seq > 0 {
			return r, nil
		}
		err = errors.Join(err, e1, e2, e3)
	}
	return r, &holdfast.Error{
		Op: "parse request id", Key: strconv.Quote(s), Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err,
	}
}

func (r RequestID) key() string { return fmt.Sprintf("dedup/%v/%02x", r.Session, r.Slot) }

// A slot's value is the sequence number of the last request it recorded, and
// an "x" when that request was cancelled before it was applied. Values compare
// as bytes, so a later request compares greater than an earlier one, cancelled
// or not.
func (r RequestID) applied() string   { return fmt.Sprintf("%016x", r.Seq) }
func (r RequestID) cancelled() string { return r.applied() + "x" }

// settled is the guard "this request or a later one stands in the slot".
func (r RequestID) settled() Compare {
	return Compare{Key: r.key(), Target: CompareValue, Op: Greater, Value: fmt.Appendf(nil, "%016xy", r.Seq-1)}
}

// OnceResult is what a transaction sent by [Once] gave.
type OnceResult struct {
	TxnResult
	Request RequestID
	// Duplicate: an earlier attempt of the same request had been applied, at
	// Revision. Results are then empty: they went lost with its answer. Read
	// again, at Revision, what is needed of them.
	Duplicate bool
}

// Once applies t at most once, however often it is sent: by this call, which
// resends it until the outcome is known or ctx ends, or by later calls with the
// same id. t.Else may only read. A t whose guard fails is answered by Else and
// is not recorded if its first attempt finds so; after an attempt without an
// answer the refusal is recorded as well, so that it stays one. Once fails with
// ErrLost when the session is gone; an error with the outcome Unknown carries
// the id for [Resolve].
//
// Source: Lee et al., "Implementing Linearizability at Large Scale and Low
// Latency" (RIFL, 2015).
func Once(ctx context.Context, e Engine, attempt time.Duration, id RequestID, t Txn) (OnceResult, error) {
	res, _, err := once(ctx, e, attempt, id, t)
	return res, err
}

// once is Once; sure says that no attempt of this call ended unknown.
func once(ctx context.Context, e Engine, attempt time.Duration, id RequestID, t Txn) (result OnceResult, sure bool, err error) {
	result.Request = id
	for _, op := range t.Else {
		if op.Kind != OpGet {
			return result, true, id.err(holdfast.CodeInvalid, holdfast.NotApplied, "Else may only read")
		}
	}
	var res TxnResult
	sure = true
	err = resend(ctx, attempt, func(ctx context.Context) (err error) {
		res, err = e.Txn(ctx, id.recorded(t, !sure))
		if err != nil && holdfast.OutcomeOf(err) != holdfast.NotApplied {
			sure = false
		}
		return err
	})
	switch {
	case err != nil && holdfast.OutcomeOf(err) == holdfast.Unknown:
		return result, sure, &holdfast.Error{Code: holdfast.CodeOf(err), Outcome: holdfast.Unknown, Request: id.String(), Err: err}
	case err != nil:
		return result, sure, err
	case res.Succeeded: // something stands in the slot already
		outcome, rev := id.verdict(res.Results[0].Range.KVs[0])
		switch outcome {
		case holdfast.Applied:
			result.TxnResult, result.Duplicate = TxnResult{Revision: rev, Succeeded: true}, true
			return result, sure, nil
		case holdfast.NotApplied:
			return result, sure, id.err(holdfast.CodeCanceled, holdfast.NotApplied, "refused or cancelled before")
		case holdfast.Unknown:
		}
		return result, sure, id.err(holdfast.CodeConflict, holdfast.Unknown, "a later request has taken its slot")
	}
	got := *res.Results[0].Txn
	if !got.Succeeded && len(got.Results[0].Range.KVs) == 0 {
		// An earlier attempt may have been applied, and its record gone with the
		// session.
		return result, sure, id.err(holdfast.CodeLost, holdfast.Unknown, "session "+id.Session.String()+" is gone")
	}
	ops := len(t.Then)
	if !got.Succeeded {
		ops = len(t.Else)
	}
	result.TxnResult = TxnResult{Revision: res.Revision, Succeeded: got.Succeeded, Results: got.Results[1 : 1+ops]}
	return result, sure, nil
}

// recorded is t with its dedup record. With final, a refusal is recorded too:
// an earlier attempt, still under way, might else find t's guard true again.
func (r RequestID) recorded(t Txn, final bool) Txn {
	session := SessionKey(r.Session)
	inner := Txn{
		If:   append([]Compare{Exists(session)}, t.If...),
		Then: append([]Op{PutLeased(r.key(), []byte(r.applied()), LeaseID(r.Session))}, t.Then...),
		Else: append([]Op{GetRange(RangeRequest{Key: session, KeysOnly: true})}, t.Else...),
	}
	if final {
		inner.Else = append(inner.Else, Nested(Txn{
			If:   []Compare{Exists(session)},
			Then: []Op{PutLeased(r.key(), []byte(r.cancelled()), LeaseID(r.Session))},
		}))
	}
	return Txn{If: []Compare{r.settled()}, Then: []Op{Get(r.key())}, Else: []Op{Nested(inner)}}
}

// Resolve settles a request whose outcome is unknown, for good: it finds that
// it was applied, and at which revision, or makes sure that it never will be,
// even if it is still under way. The outcome stays Unknown, with an error, when
// the session is gone or the request's slot was used again.
func Resolve(ctx context.Context, e Engine, attempt time.Duration, id RequestID) (holdfast.Outcome, int64, error) {
	res, err := Submit(ctx, e, attempt, Txn{
		If:   []Compare{id.settled()},
		Then: []Op{Get(id.key())},
		Else: []Op{Nested(Txn{
			If:   []Compare{Alive(id.Session)},
			Then: []Op{PutLeased(id.key(), []byte(id.cancelled()), LeaseID(id.Session))},
		})},
	})
	switch {
	case err != nil:
		return holdfast.Unknown, 0, err
	case res.Succeeded:
		outcome, rev := id.verdict(res.Results[0].Range.KVs[0])
		if outcome == holdfast.Unknown {
			return outcome, 0, id.err(holdfast.CodeConflict, outcome, "a later request has taken its slot")
		}
		return outcome, rev, nil
	case res.Results[0].Txn.Succeeded:
		return holdfast.NotApplied, 0, nil
	}
	return holdfast.Unknown, 0, id.err(holdfast.CodeLost, holdfast.Unknown, "session "+id.Session.String()+" is gone")
}

// verdict reads what stands in the slot; with Applied comes the revision.
func (r RequestID) verdict(kv KV) (holdfast.Outcome, int64) {
	switch string(kv.Value) {
	case r.applied():
		return holdfast.Applied, kv.ModRevision
	case r.cancelled():
		return holdfast.NotApplied, 0
	}
	return holdfast.Unknown, 0
}

func (r RequestID) err(c holdfast.Code, o holdfast.Outcome, why string) error {
	return &holdfast.Error{Key: "request " + r.String(), Code: c, Outcome: o, Request: r.String(), Err: errors.New(why)}
}

// Once is the function [Once] with an id of its own. At most [Slots] run at one
// time, more wait. A request that ended unknown keeps its slot until Resolve;
// of more than [Slots]/2 such requests the oldest gives way.
func (s *Session) Once(ctx context.Context, t Txn) (OnceResult, error) {
	id, err := s.slots.take(ctx, s.cfg.ID)
	if err != nil {
		return OnceResult{}, err
	}
	res, sure, err := once(ctx, s.engine, s.cfg.Attempt, id, t)
	if sure && errors.Is(err, holdfast.ErrLost) { // nobody else sends this id
		err = id.err(holdfast.CodeLost, holdfast.NotApplied, "session "+s.cfg.ID.String()+" is gone")
	}
	s.slots.put(id, holdfast.OutcomeOf(err) == holdfast.Unknown)
	return res, err
}

// Resolve is the function [Resolve] for a request of this session.
func (s *Session) Resolve(ctx context.Context, id RequestID) (holdfast.Outcome, int64, error) {
	outcome, rev, err := Resolve(ctx, s.engine, s.cfg.Attempt, id)
	if err == nil && id.Session == s.cfg.ID {
		s.slots.settle(id)
	}
	return outcome, rev, err
}

// slots hands out the slots of one session.
type slots struct {
	free chan uint8 // slots no request needs

	mu      sync.Mutex // guards the fields below
	seq     uint64
	unknown []RequestID // ended unknown, oldest first; they keep their slots
}

func newSlots() *slots {
	s := &slots{free: make(chan uint8, Slots)}
	for i := range Slots {
		s.free <- uint8(i)
	}
	return s
}

func (s *slots) take(ctx context.Context, session SessionID) (RequestID, error) {
	select {
	case slot := <-s.free:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seq++
		return RequestID{Session: session, Slot: slot, Seq: s.seq}, nil
	case <-ctx.Done():
		return RequestID{}, &holdfast.Error{Op: "wait for a request slot", Code: codeOfContext(ctx), Outcome: holdfast.NotApplied, Err: ctx.Err()}
	}
}

func (s *slots) put(id RequestID, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unknown {
		s.unknown = append(s.unknown, id)
		if len(s.unknown) <= Slots/2 {
			return
		}
		id, s.unknown = s.unknown[0], s.unknown[1:]
	}
	s.free <- id.Slot // never blocks: there is room for every slot
}

func (s *slots) settle(id RequestID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, u := range s.unknown {
		if u == id {
			s.unknown = append(s.unknown[:i:i], s.unknown[i+1:]...)
			s.free <- id.Slot
			return
		}
	}
}
