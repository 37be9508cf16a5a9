package engine

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"holdfast.dev"
)

const (
	sessionPrefix = "session/"
	epochKey      = "epoch"
)

// SessionKey is the key whose existence is the session.
func SessionKey(id SessionID) string { return sessionPrefix + id.String() }

// Alive is the guard "that session still exists".
func Alive(id SessionID) Compare { return Exists(SessionKey(id)) }

// A Session is a [Lifeline] over an engine, and what this process does in the
// quorum under it: guarded transactions resent until their outcome is known
// (Submit), and transactions that may not run twice (Once). One session per
// process is enough. Safe for concurrent use.
type Session struct {
	*Lifeline
	engine Engine
	slots  *slots
	guard  guard

	requests atomic.Uint64 // numbers given out by NextRequest
}

// OpenSession opens a session on e. It tries until ctx ends; afterwards ctx no
// longer matters, and Close ends the session.
func OpenSession(ctx context.Context, e Engine, cfg SessionConfig) (*Session, error) {
	for {
		s, err := openSession(ctx, e, cfg)
		if !errors.Is(err, holdfast.ErrLost) || ctx.Err() != nil {
			return s, err
		}
		// It was so slow that the session ran out before it was complete.
		if cfg.ID != 0 {
			cfg.ID += 1000 // past those that were tried
		}
	}
}

func openSession(ctx context.Context, e Engine, cfg SessionConfig) (*Session, error) {
	l, err := StartLifeline(ctx, Leases(e), cfg)
	if err != nil {
		return nil, err
	}
	s := &Session{Lifeline: l, engine: e, slots: newSlots()}
	s.guard.turn = make(chan struct{}, 1)
	if err := s.retire(ctx); err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return s, nil
}

// Engine is the engine the session was opened on.
func (s *Session) Engine() Engine { return s.engine }

// NextRequest names a claim made under the session; no name is given twice.
func (s *Session) NextRequest() string { return strconv.FormatUint(s.requests.Add(1), 36) }

// Alive is the guard "this session still exists".
func (s *Session) Alive() Compare { return Alive(s.cfg.ID) }

// Attempt is how long one request may take before it is sent again.
func (s *Session) Attempt() time.Duration { return s.cfg.Attempt }

// Submit is the function [Submit] on the session's engine.
func (s *Session) Submit(ctx context.Context, t Txn) (TxnResult, error) {
	return Submit(ctx, s.engine, s.cfg.Attempt, t)
}

// Leases keeps sessions as leased keys of e.
func Leases(e Engine) Leaser { return leases{e} }

type leases struct{ engine Engine }

func (l leases) OpenSession(ctx context.Context, rec SessionRecord) (SessionInfo, error) {
	id, key := LeaseID(rec.ID), SessionKey(rec.ID)
	ttl, err := l.engine.Grant(ctx, id, rec.TTL)
	if errors.Is(err, holdfast.ErrConflict) { // an earlier attempt of ours: count its TTL from now
		if ttl, err = l.engine.Renew(ctx, id); errors.Is(err, holdfast.ErrNotFound) {
			err = &holdfast.Error{Key: key, Op: "open", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: err} // it just ran out
		}
	}
	if err != nil {
		return SessionInfo{}, err
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return SessionInfo{}, &holdfast.Error{Key: key, Op: "encode", Code: holdfast.CodeInternal, Outcome: holdfast.NotApplied, Err: err}
	}
	for {
		res, err := l.engine.Txn(ctx, Txn{
			If:   []Compare{Missing(key), Exists(epochKey)},
			Then: []Op{Get(epochKey), PutLeased(key, value, id)},
			Else: []Op{Get(epochKey)},
		})
		switch {
		case errors.Is(err, holdfast.ErrNotFound): // the lease ran out in between: try again from the start
			return SessionInfo{}, &holdfast.Error{Key: key, Op: "open", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: err}
		case err != nil:
			return SessionInfo{}, err
		}
		if kvs := res.Results[0].Range.KVs; len(kvs) == 1 {
			epoch, err := parseEpoch(kvs[0].Value)
			return SessionInfo{TTL: ttl, Epoch: epoch}, err
		}
		if _, err := Epoch(ctx, l.engine); err != nil {
			return SessionInfo{}, err
		}
	}
}

func (l leases) RenewSession(ctx context.Context, id SessionID) (time.Duration, error) {
	ttl, err := l.engine.Renew(ctx, LeaseID(id))
	return ttl, lostSession(id, err)
}

func (l leases) CloseSession(ctx context.Context, id SessionID) error {
	return lostSession(id, l.engine.Revoke(ctx, LeaseID(id)))
}

// lostSession says of a lease that is gone that the session is lost.
func lostSession(id SessionID, err error) error {
	if !errors.Is(err, holdfast.ErrNotFound) {
		return err
	}
	return &holdfast.Error{Key: "session " + id.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied, Err: err}
}

// Epoch is the epoch of e's store: 1 in a new store, raised by every restore.
// Reading it creates it.
func Epoch(ctx context.Context, e Engine) (uint16, error) {
	res, err := e.Txn(ctx, Txn{
		If:   []Compare{Missing(epochKey)},
		Then: []Op{Put(epochKey, []byte("1"))},
		Else: []Op{Get(epochKey)},
	})
	if err != nil {
		return 0, err
	}
	if res.Succeeded {
		return 1, nil
	}
	return parseEpoch(res.Results[0].Range.KVs[0].Value)
}

func parseEpoch(b []byte) (uint16, error) {
	n, err := strconv.ParseUint(string(b), 10, 15)
	if err == nil && n == 0 {
		err = errors.New("epoch 0")
	}
	if err != nil {
		return 0, &holdfast.Error{Key: "epoch", Op: "parse", Code: holdfast.CodeInternal, Outcome: holdfast.NotApplied, Err: err}
	}
	return uint16(n), nil
}

// LookupSession reads one session's record; ErrNotFound when there is none.
func LookupSession(ctx context.Context, e Engine, id SessionID) (SessionRecord, error) {
	res, err := e.Range(ctx, RangeRequest{Key: SessionKey(id)})
	if err != nil {
		return SessionRecord{}, err
	}
	if len(res.KVs) == 0 {
		return SessionRecord{}, &holdfast.Error{Key: "session " + id.String(), Code: holdfast.CodeNotFound, Outcome: holdfast.NotApplied}
	}
	return decodeSession(res.KVs[0])
}

// Sessions lists the sessions that exist, by id.
func Sessions(ctx context.Context, e Engine) ([]SessionRecord, error) {
	res, err := e.Range(ctx, RangeRequest{Key: sessionPrefix, End: PrefixEnd(sessionPrefix)})
	if err != nil {
		return nil, err
	}
	recs := make([]SessionRecord, 0, len(res.KVs))
	for _, kv := range res.KVs {
		rec, err := decodeSession(kv)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

func decodeSession(kv KV) (SessionRecord, error) {
	var rec SessionRecord
	id, err := ParseSessionID(strings.TrimPrefix(kv.Key, sessionPrefix))
	if err == nil {
		err = json.Unmarshal(kv.Value, &rec)
	}
	if err != nil {
		return rec, &holdfast.Error{Key: kv.Key, Op: "decode", Code: holdfast.CodeInternal, Outcome: holdfast.NotApplied, Err: err}
	}
	rec.ID, rec.Revision = id, kv.CreateRevision
	return rec, nil
}

// Liveness is which sessions exist, as a feed keeps it. It is not safe for
// concurrent use: its owner feeds it from [Follow] and asks it under its own
// lock.
type Liveness struct {
	revision int64
	alive    map[SessionID]struct{}
}

// SessionRange is the range of keys to [Follow] for a Liveness.
func SessionRange() (key, end string) { return sessionPrefix, PrefixEnd(sessionPrefix) }

// Apply takes in an update and returns the sessions that ended.
func (l *Liveness) Apply(u Update) (dead []SessionID) {
	l.revision = u.Revision
	if u.Snapshot {
		before := l.alive
		l.alive = make(map[SessionID]struct{}, len(u.KVs))
		for _, kv := range u.KVs {
			if id, err := ParseSessionID(strings.TrimPrefix(kv.Key, sessionPrefix)); err == nil {
				l.alive[id] = struct{}{}
				delete(before, id)
			}
		}
		for id := range before {
			dead = append(dead, id)
		}
		return dead
	}
	for _, ev := range u.Events {
		id, err := ParseSessionID(strings.TrimPrefix(ev.KV.Key, sessionPrefix))
		if err != nil {
			continue
		}
		if ev.Deleted {
			delete(l.alive, id)
			dead = append(dead, id)
		} else {
			l.alive[id] = struct{}{}
		}
	}
	return dead
}

// Revision is how far the feed has come.
func (l *Liveness) Revision() int64 { return l.revision }

// Knows says whether the feed has come as far as revision rev.
func (l *Liveness) Knows(rev int64) bool { return l.alive != nil && l.revision >= rev }

// Dead says whether a session which existed at revision rev is known to have
// ended. No is also the answer when that is not known yet.
func (l *Liveness) Dead(id SessionID, rev int64) bool {
	_, ok := l.alive[id]
	return !ok && l.Knows(rev)
}
