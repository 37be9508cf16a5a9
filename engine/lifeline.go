package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"holdfast.dev"
)

// SessionID names a session and the lease it rides on. Ids are random, never
// reused, and not secret.
type SessionID int64

// String is the id as 16 hexadecimal digits.
func (id SessionID) String() string {
	const digits = "0123456789abcdef"
	var b [16]byte // by hand, because it is part of every key
	for i := range b {
		b[i] = digits[uint64(id)>>(60-4*i)&15]
	}
	return string(b[:])
}

// ParseSessionID reads what String writes.
func ParseSessionID(s string) (SessionID, error) {
	n, err := strconv.ParseUint(s, 16, 63)
	if err != nil || n == 0 || len(s) != 16 {
		return 0, &holdfast.Error{
			Op: "parse session id", Key: strconv.Quote(s), Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied,
			Err: errors.New("want 16 hexadecimal digits"),
		}
	}
	return SessionID(n), nil
}

// NewSessionID draws a random id.
func NewSessionID() SessionID {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails, by its documentation
		if id := SessionID(binary.BigEndian.Uint64(b[:]) >> 1); id != 0 {
			return id
		}
	}
}

// Bounds of a session's TTL.
const (
	DefaultTTL = 10 * time.Second
	MinTTL     = time.Second
	MaxTTL     = 24 * time.Hour
)

// SessionConfig is how a session is kept. The zero value works.
type SessionConfig struct {
	// TTL is how long after the last renewal the quorum gives up the session
	// and all that hangs on it. Default 10 s, at least 1 s, at most 24 h; the
	// engine may round it up. Shorter finds dead holders sooner and loses
	// sessions in shorter hiccups.
	TTL time.Duration
	// Name is for people who look at holders: a host, a pod. Default none.
	Name string
	// Metadata is for people and programs that list sessions. Default none.
	Metadata map[string]string
	// Attempt is how long one request may take before it is sent again.
	// Default 600 ms; renewals never take more than a quarter of the TTL.
	Attempt time.Duration
	// OnState is called with every change of state, in order and one at a time,
	// from the session's own goroutine or from a caller of Err or Close that
	// was the first to see it; it must not block and must not close the session.
	// Default none.
	OnState func(SessionState)
	// ID is the session's id; further attempts to open it count on from there.
	// Default a random one; fix it only in tests.
	ID SessionID
}

func (c SessionConfig) withDefaults() SessionConfig {
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Attempt == 0 {
		c.Attempt = DefaultAttempt
	}
	if c.ID == 0 {
		c.ID = NewSessionID()
	}
	return c
}

func (c SessionConfig) validate() error {
	var faults []error
	if c.TTL < MinTTL || c.TTL > MaxTTL {
		faults = append(faults, fmt.Errorf("ttl %v: want %v to %v", c.TTL, MinTTL, MaxTTL))
	}
	if c.Attempt < 0 {
		faults = append(faults, fmt.Errorf("attempt %v: want a positive duration", c.Attempt))
	}
	if len(c.Name) > 256 {
		faults = append(faults, fmt.Errorf("name of %d bytes: want at most 256", len(c.Name)))
	}
	if len(faults) == 0 {
		return nil
	}
	return &holdfast.Error{Op: "open session", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.Join(faults...)}
}

// SessionState is how sure a session's owner may be that it still has it.
type SessionState uint8

const (
	// Safe means that renewals are acknowledged.
	Safe SessionState = iota + 1
	// Jeopardy means that no renewal was acknowledged for half the TTL. The session may
	// be lost soon; finish or pause what depends on it. (The word is Chubby's.)
	Jeopardy
	// Lost means that the quorum may have given the session up. It never comes back.
	Lost
	// Closed means that its owner closed it.
	Closed
)

// String is the state in lower case.
func (s SessionState) String() string {
	switch s {
	case Safe:
		return "safe"
	case Jeopardy:
		return "jeopardy"
	case Lost:
		return "lost"
	case Closed:
		return "closed"
	}
	return "none"
}

// SessionRecord is what the quorum keeps of a session.
type SessionRecord struct {
	ID       SessionID         `json:"-"`
	Name     string            `json:"name,omitempty"`
	TTL      time.Duration     `json:"ttl_ns"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Epoch    uint16            `json:"-"`
	Revision int64             `json:"-"` // at which it was opened
}

// SessionInfo is what opening a session gives.
type SessionInfo struct {
	TTL   time.Duration // as the engine rounded it
	Epoch uint16        // for tokens
}

// Leaser keeps sessions: [Leases] over an engine, or a client over the network.
// A session that is gone is holdfast.ErrLost.
type Leaser interface {
	// OpenSession makes the session; repeated with the same id it gives the
	// same session and starts its TTL anew.
	OpenSession(ctx context.Context, rec SessionRecord) (SessionInfo, error)
	// RenewSession starts the TTL anew and returns it.
	RenewSession(ctx context.Context, id SessionID) (time.Duration, error)
	// CloseSession ends the session and everything that hangs on it at once.
	CloseSession(ctx context.Context, id SessionID) error
}

// A Lifeline keeps one session alive and knows until when it surely is: the
// time at which the last acknowledged renewal was sent, plus TTL, minus a
// margin of a tenth for clocks of different speed. Its context ends no later
// than that on a running process; after a pause or a suspend of the machine it
// ends as soon as the process runs again. Safe for concurrent use.
//
// Sources: Gray and Cheriton, "Leases" (1989); Chubby's jeopardy; redsync's
// deadline from the time of sending.
type Lifeline struct {
	leaser Leaser
	cfg    SessionConfig
	epoch  uint16

	ctx    context.Context // what holders of the session's things live under
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // ends the loop
	done   chan struct{}      // closed when the loop has ended

	mu      sync.Mutex // guards the fields below
	core    lifelineCore
	untold  []SessionState // changes that OnState is to be called with
	telling bool           // somebody calls it
}

// StartLifeline opens a session and begins to renew it. It tries until ctx
// ends; afterwards ctx no longer matters.
func StartLifeline(ctx context.Context, l Leaser, cfg SessionConfig) (*Lifeline, error) {
	fixed := cfg.ID != 0
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	// Each attempt has an id of its own: a late part of an earlier one may make
	// a session that nobody knows and that runs out, but must not bring one back
	// that has ended.
	next := NewSessionID
	if fixed {
		next = func() SessionID { return cfg.ID + 1 }
	}
	var (
		sent Instant
		info SessionInfo
	)
	err := resend(ctx, cfg.Attempt, func(ctx context.Context) (err error) {
		sent = Now()
		info, err = l.OpenSession(ctx, SessionRecord{ID: cfg.ID, Name: cfg.Name, TTL: cfg.TTL, Metadata: cfg.Metadata})
		if err != nil {
			cfg.ID = next()
		}
		return err
	})
	if err != nil {
		return nil, &holdfast.Error{Op: "open session", Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Err: err}
	}
	s := &Lifeline{leaser: l, cfg: cfg, epoch: info.Epoch, done: make(chan struct{})}
	s.core = newLifelineCore(sent, info.TTL)
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	var loop context.Context
	loop, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.run(loop)
	return s, nil
}

// ID is the session's id.
func (s *Lifeline) ID() SessionID { return s.cfg.ID }

// Name is the name it was opened with.
func (s *Lifeline) Name() string { return s.cfg.Name }

// Epoch is the upper part of tokens issued under this session.
func (s *Lifeline) Epoch() uint16 { return s.epoch }

// Context ends when the session is lost or closed; its cause is an error that
// matches holdfast.ErrLost or holdfast.ErrClosed.
func (s *Lifeline) Context() context.Context { return s.ctx }

// Done is closed when the session is lost or closed.
func (s *Lifeline) Done() <-chan struct{} { return s.ctx.Done() }

// Err is nil while the session is surely alive. It looks at the clock, so it
// is right also in a process that was just woken, before Done is.
func (s *Lifeline) Err() error {
	if s.ctx.Err() == nil && s.ValidUntil().Until() <= 0 {
		s.tick()
	}
	return context.Cause(s.ctx)
}

// State is how sure the owner may be of the session.
func (s *Lifeline) State() SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.state
}

// ValidUntil is the instant until which the quorum surely keeps the session.
func (s *Lifeline) ValidUntil() Instant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.validUntil()
}

// TTL is the session's time to live as the engine rounded it.
func (s *Lifeline) TTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.ttl
}

// Close ends the session: first its context, then, at the quorum, everything
// that hangs on it. When ctx ends before the quorum has confirmed, the session
// expires by itself within its TTL.
func (s *Lifeline) Close(ctx context.Context) error {
	s.stop()
	<-s.done
	s.mu.Lock()
	was := s.core.state
	s.mu.Unlock()
	s.event(func(c *lifelineCore) { c.close() })
	if was == Lost || was == Closed {
		return nil
	}
	err := resend(ctx, s.cfg.Attempt, func(ctx context.Context) error { return s.leaser.CloseSession(ctx, s.cfg.ID) })
	if err == nil || errors.Is(err, holdfast.ErrLost) {
		return nil
	}
	return &holdfast.Error{Op: "close", Key: "session " + s.cfg.ID.String(), Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Err: err}
}

// run renews, and watches the clock apart from the renewals: a renewal that
// hangs must not delay the loss.
func (s *Lifeline) run(ctx context.Context) {
	defer close(s.done)
	type answer struct {
		sent Instant
		ttl  time.Duration
		err  error
	}
	var (
		answers = make(chan answer, 1)
		flying  bool
		timer   = time.NewTimer(0)
	)
	defer timer.Stop()
	defer func() {
		if flying {
			<-answers
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			flying = false
			s.event(func(c *lifelineCore) { c.answered(Now(), a.sent, a.ttl, a.err) })
		case <-timer.C:
			s.tick()
		}
		s.mu.Lock()
		core := s.core
		s.mu.Unlock()
		if core.state == Lost {
			return
		}
		now := Now()
		if !flying && core.renewAt <= now {
			flying = true
			go func() {
				ctx, cancel := context.WithTimeout(ctx, min(s.cfg.Attempt, core.ttl/4))
				defer cancel()
				sent := Now()
				ttl, err := s.leaser.RenewSession(ctx, s.cfg.ID)
				answers <- answer{sent, ttl, err}
			}()
		}
		timer.Reset(core.next(now, flying))
	}
}

func (s *Lifeline) tick() { s.event(func(c *lifelineCore) { c.tick(Now()) }) }

// event changes the core and tells about the change.
func (s *Lifeline) event(f func(*lifelineCore)) {
	s.mu.Lock()
	before := s.core.state
	f(&s.core)
	after := s.core.state
	if before != after && s.cfg.OnState != nil {
		s.untold = append(s.untold, after)
	}
	s.mu.Unlock()
	if before == after {
		return
	}
	switch after {
	case Lost:
		s.cancel(s.ended(holdfast.CodeLost))
	case Closed:
		s.cancel(s.ended(holdfast.CodeClosed))
	case Safe, Jeopardy:
	}
	s.tell()
}

// tell calls OnState with what it was not told, unless somebody else does that.
func (s *Lifeline) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.telling {
		return
	}
	s.telling = true
	for len(s.untold) > 0 {
		state := s.untold[0]
		s.untold = s.untold[1:]
		s.mu.Unlock()
		s.cfg.OnState(state)
		s.mu.Lock()
	}
	s.telling = false
}

func (s *Lifeline) ended(c holdfast.Code) error {
	return &holdfast.Error{Key: "session " + s.cfg.ID.String(), Code: c, Outcome: holdfast.NotApplied}
}
