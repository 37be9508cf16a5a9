package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/grant"
)

// Config is how a Manager works. The zero value works.
type Config struct {
	// Sweep frees the locks of dead sessions within seconds, also where nobody
	// waits for them, so that listings show no dead holders for long. It costs a
	// watch on all locks, and reading them all after a session ended: for
	// servers. Default off.
	Sweep bool
}

// Manager acquires locks under one session. One per process is enough; a second
// one waits like another process. Safe for concurrent use.
type Manager struct {
	session *engine.Session
	agent   *grant.Agent
}

// New is a manager under session s. It starts nothing until it is used, and is
// to be closed before the session.
func New(s *engine.Session, cfg Config) *Manager {
	return &Manager{session: s, agent: grant.NewAgent(s, grant.Config{Kind: "lock", Sweep: cfg.Sweep})}
}

// Close ends all waits with ErrClosed. Locks stay held until their session ends.
func (m *Manager) Close() { m.agent.Close() }

// Acquire waits for a lock: until it is granted, ctx ends, the wait that the
// options allow is over (ErrBusy), or the session is lost (ErrLost). When it
// returns an error nothing is held, and nothing will be. The Held outlives ctx.
func (m *Manager) Acquire(ctx context.Context, name string, opts ...Option) (*Held, error) {
	r := NewRequest(opts...)
	if err := CheckReentry(ctx, name); err != nil {
		return nil, err
	}
	o := Owner{Session: m.session.ID(), Request: m.session.NextRequest()}
	g, err := m.acquire(ctx, o, name, r, false)
	if err != nil {
		return nil, err
	}
	return NewHeld(ctx, m.session.Lifeline, g, func(ctx context.Context) error { return m.agent.Release(ctx, o, name) }), nil
}

// AcquireAll takes several locks, all with the same options, in the order of
// their names: callers that use it do not deadlock with one another. A name
// given twice is taken once. On error none is held.
func (m *Manager) AcquireAll(ctx context.Context, names []string, opts ...Option) (Set, error) {
	return AcquireAll(ctx, names, func(ctx context.Context, name string) (*Held, error) { return m.Acquire(ctx, name, opts...) })
}

// giveBack is how long AcquireAll waits for the quorum to take back what it
// does not need.
const giveBack = time.Second

// AcquireAll is Manager.AcquireAll over any way to acquire one name.
func AcquireAll(ctx context.Context, names []string, acquire func(context.Context, string) (*Held, error)) (Set, error) {
	if len(names) > maxAllNames {
		return nil, &holdfast.Error{
			Op: "acquire all", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied,
			Err: fmt.Errorf("%d locks: want at most %d", len(names), maxAllNames),
		}
	}
	names = slices.Clone(names)
	slices.Sort(names)
	var set Set
	for _, name := range slices.Compact(names) {
		h, err := acquire(ctx, name)
		if err != nil {
			// What is not given back by then goes on being given back.
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBack)
			defer cancel()
			return nil, errors.Join(err, set.Release(rctx))
		}
		set = append(set, h)
	}
	return set, nil
}

// Owner names a claim on a lock: a session, and a request id that is never used
// again within it.
type Owner = grant.Owner

// Grant is a lock as it was granted, without the lifeline it hangs on.
type Grant struct {
	Name    string
	Token   holdfast.Token
	Mode    Mode
	Permits int
}

// AcquireFor acquires on behalf of another session, for servers. Asked again
// with the same owner, also through another process, it answers with the same
// grant. When ctx ends, what still waits is withdrawn; what was granted stays
// granted to its owner, who may ask again or release it.
func (m *Manager) AcquireFor(ctx context.Context, o Owner, name string, r Request) (Grant, error) {
	return m.acquire(ctx, o, name, r, true)
}

// ReleaseFor gives back what AcquireFor acquired, or withdraws the wish.
func (m *Manager) ReleaseFor(ctx context.Context, o Owner, name string) error {
	return m.agent.Release(ctx, o, name)
}

// errWaited is the cause of a wait that was allowed no more time.
var errWaited = &holdfast.Error{Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied}

func (m *Manager) acquire(ctx context.Context, o Owner, name string, r Request, keep bool) (Grant, error) {
	if err := r.Check(name); err != nil {
		return Grant{}, err
	}
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.Wait, errWaited)
		defer cancel()
	}
	g, err := m.agent.Acquire(ctx, grant.Ask{
		Owner: o, Name: name, Mode: r.Mode, Permits: r.Permits, Capacity: r.Capacity,
		NoWait: r.NoWait, Delay: r.Delay, Note: r.Note, Keep: keep,
	})
	if err != nil {
		return Grant{}, err
	}
	return Grant{Name: name, Token: holdfast.NewToken(m.session.Epoch(), g.Revision), Mode: g.Mode, Permits: g.Permits}, nil
}

// Claim is one holder of a lock, or one waiter.
type Claim struct {
	Session engine.SessionID
	Request string
	Token   holdfast.Token // 0 for a waiter
	Mode    Mode
	Permits int
	Since   time.Time // of the grant or the wish, by the wall clock of who asked: for people
	Note    string
}

// Info is a lock as the quorum knows it. Waiters are those in the quorum's queue
// and those of this process; another process that hands over among its own
// waiters keeps them to itself.
type Info struct {
	Name     string
	Capacity int // permits there are, of a semaphore
	Holders  []Claim
	Waiters  []Claim
	Delayed  bool  // a lock-delay may be running
	Revision int64 // of the last change; 0: nobody holds it or waits
}

// Inspect reads who holds a lock and who waits for it, linearizably. A lock that
// nobody uses has no holders; that is not an error.
func (m *Manager) Inspect(ctx context.Context, name string) (Info, error) {
	s, err := m.agent.Read(ctx, name)
	return m.info(s), err
}

// List reads up to limit locks that are in use, in the order of their names,
// whose names begin with prefix and come after the name after.
func (m *Manager) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	snaps, err := m.agent.List(ctx, prefix, after, limit)
	infos := make([]Info, 0, len(snaps))
	for _, s := range snaps {
		infos = append(infos, m.info(s))
	}
	return infos, err
}

func (m *Manager) info(s grant.Snapshot) Info {
	return Info{
		Name: s.Name, Capacity: s.Capacity, Delayed: s.Delayed, Revision: s.Revision,
		Holders: m.claims(s.Holders), Waiters: m.claims(s.Queue),
	}
}

func (m *Manager) claims(list []grant.Claim) []Claim {
	var cs []Claim
	for _, c := range list {
		claim := Claim{Session: c.Session, Request: c.Request, Mode: c.Mode, Permits: c.Permits, Since: c.Since, Note: c.Note}
		if c.Granted > 0 {
			claim.Token = holdfast.NewToken(m.session.Epoch(), c.Granted)
		}
		cs = append(cs, claim)
	}
	return cs
}
