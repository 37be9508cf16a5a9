package election

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/grant"
)

// Bounds.
const (
	MaxName  = 512     // bytes of a name
	MaxValue = 4 << 10 // bytes of a value: candidates' stand in one record
)

// Manager campaigns and observes under one session. One per process is enough.
// Safe for concurrent use.
type Manager struct {
	session *engine.Session
	agent   *grant.Agent

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	observing sync.WaitGroup
}

// Config is how a Manager works. The zero value works.
type Config struct {
	// Sweep notices dead leaders within seconds, also where nobody campaigns. It
	// costs a watch on all elections, and reading them all after a session
	// ended: for servers. Default off.
	Sweep bool
}

// New is a manager under session s. It starts nothing until it is used, and is
// to be closed before the session.
func New(s *engine.Session, cfg Config) *Manager {
	m := &Manager{session: s, agent: grant.NewAgent(s, grant.Config{Kind: "election", KeepVanished: true, Sweep: cfg.Sweep})}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Close ends all campaigns with ErrClosed and all observations. Leaderships
// last until their session ends.
func (m *Manager) Close() {
	m.cancel()
	m.agent.Close()
	m.observing.Wait()
}

// An Option changes one campaign.
type Option interface{ apply(*Options) }

// Options is what the options say together.
type Options struct {
	// Fence is called before taking over from a leader that vanished.
	Fence func(ctx context.Context, vanished Leader) error
}

type option func(*Options)

func (o option) apply(r *Options) { o(r) }

// Fence calls hook before this process takes over from a leader that vanished:
// it is to make sure that the old leader cannot act any more, by switching its
// machine off, say, or by taking its access away. As long as it has not
// succeeded, nobody leads. Its error ends the campaign. ctx ends when the
// campaign's does or the session is lost. (STONITH.)
func Fence(hook func(ctx context.Context, vanished Leader) error) Option {
	return option(func(o *Options) { o.Fence = hook })
}

// NewOptions is what the options say together.
func NewOptions(opts ...Option) Options {
	var r Options
	for _, o := range opts {
		o.apply(&r)
	}
	return r
}

// Leader is who leads.
type Leader struct {
	Session  engine.SessionID
	Token    holdfast.Token
	Value    []byte
	Since    time.Time // of its election, by its own wall clock: for people
	Revision int64     // at which it or its value last changed
}

// Campaign waits until this process leads, ctx ends, or the session is lost
// (ErrLost). When it returns an error this process does not lead, and will not.
// The Leadership outlives ctx.
func (m *Manager) Campaign(ctx context.Context, name string, value []byte, opts ...Option) (*Leadership, error) {
	o := Owner{Session: m.session.ID(), Request: m.session.NextRequest()}
	fence := NewOptions(opts...).Fence
	g, err := m.campaign(ctx, o, name, value, FenceRequest{Ask: fence != nil}, false)
	if v, ok := errors.AsType[*VanishedError](err); ok {
		err = m.fenced(ctx, o, name, v.Leader, fence)
		g = Grant{Name: name, Token: v.token}
	}
	if err != nil {
		return nil, err
	}
	return NewLeadership(m.session.Lifeline, g, Remote{
		Proclaim: func(ctx context.Context, value []byte) error { return m.ProclaimFor(ctx, o, name, value) },
		Resign:   func(ctx context.Context) error { return m.ResignFor(ctx, o, name) },
	}), nil
}

// fenced calls the hook and takes the lead, or leaves it to the next one.
func (m *Manager) fenced(ctx context.Context, o Owner, name string, vanished Leader, hook func(context.Context, Leader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(m.session.Context(), func() { cancel(context.Cause(m.session.Context())) }) //nolint:contextcheck // it joins the two
	defer stop()
	err := hook(ctx, vanished)
	if err != nil {
		err = &holdfast.Error{Key: "election " + name, Op: "fence the vanished leader off", Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: err}
	} else {
		err = m.agent.Change(ctx, o, name, nil, true)
	}
	if err == nil {
		return nil
	}
	return m.giveUp(ctx, o, name, err)
}

// Leader reads who leads, linearizably; ErrNotFound says that nobody does.
func (m *Manager) Leader(ctx context.Context, name string) (Leader, error) {
	s, err := m.agent.Read(ctx, name)
	if err != nil {
		return Leader{}, err
	}
	if l := m.leader(s); l != nil {
		return *l, nil
	}
	return Leader{}, &holdfast.Error{
		Key: "election " + name, Code: holdfast.CodeNotFound, Outcome: holdfast.NotApplied, Err: errors.New("nobody leads"),
	}
}

// View is an election at some revision.
type View struct {
	Leader   *Leader // nil: nobody leads
	Revision int64
}

// Observe tells who leads, first as it is and then with every change, in order,
// until ctx ends or the manager is closed; then the channel is closed. That
// nobody leads is told as well. The receiver sets the pace.
func (m *Manager) Observe(ctx context.Context, name string) <-chan View {
	views := make(chan View)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.ctx, cancel) //nolint:contextcheck // it joins the two
	m.observing.Go(func() {
		defer close(views)
		defer cancel()
		defer stop()
		m.agent.Follow(ctx, name, func(s grant.Snapshot) {
			select {
			case views <- View{Leader: m.leader(s), Revision: s.ReadAt}:
			case <-ctx.Done():
			}
		})
	})
	return views
}

// Info is an election with its candidates.
type Info struct {
	Name       string
	Leader     *Leader // nil: nobody leads
	Candidates int     // that wait, as far as the quorum knows
	Vanished   *Leader // a leader that vanished and that nobody has followed yet
}

// List reads up to limit elections that have a leader or candidates, in the
// order of their names, whose names begin with prefix and come after the name
// after.
func (m *Manager) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	snaps, err := m.agent.List(ctx, prefix, after, limit)
	infos := make([]Info, 0, len(snaps))
	for _, s := range snaps {
		info := Info{Name: s.Name, Leader: m.leader(s), Candidates: len(s.Queue)}
		if s.Vanished != nil {
			v := m.toLeader(*s.Vanished, s.Revision)
			info.Vanished = &v
		}
		infos = append(infos, info)
	}
	return infos, err
}

func (m *Manager) leader(s grant.Snapshot) *Leader {
	if len(s.Holders) == 0 || !s.Holders[0].Ready {
		return nil
	}
	l := m.toLeader(s.Holders[0], s.Revision)
	return &l
}

func (m *Manager) toLeader(c grant.Claim, rev int64) Leader {
	return Leader{Session: c.Session, Token: holdfast.NewToken(m.session.Epoch(), c.Granted), Value: c.Value, Since: c.Since, Revision: rev}
}

func check(name string, value []byte) error {
	var faults []error
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) {
		faults = append(faults, fmt.Errorf("name: want 1 to %d bytes of UTF-8", MaxName))
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			faults = append(faults, errors.New("name: has a control character"))
			break
		}
	}
	if len(value) > MaxValue {
		faults = append(faults, fmt.Errorf("value: %d bytes, want at most %d", len(value), MaxValue))
	}
	if err := errors.Join(faults...); err != nil {
		return &holdfast.Error{Key: "election " + name, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	return nil
}
