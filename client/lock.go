package client

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/lock"
)

// Acquire waits for a lock, with the meaning, options and promises of
// lock.Manager.Acquire. When it returns an error nothing stays held: what may
// have been granted meanwhile is given back in the background, and
// [Client.Close] waits for that.
func (s *Session) Acquire(ctx context.Context, name string, opts ...lock.Option) (*lock.Held, error) {
	r := lock.NewRequest(opts...)
	if err := r.Check(name); err != nil {
		return nil, err
	}
	if err := lock.CheckReentry(ctx, name); err != nil {
		return nil, err
	}
	req := &v1.AcquireRequest{
		Session: s.ID().String(), Name: name, Shared: r.Mode == lock.ModeShared, Note: r.Note, RequestId: s.request(),
	}
	if r.Mode == lock.ModePermits {
		req.Permits, req.Of = uint32(r.Permits), uint32(r.Capacity)
	}
	if r.Delay > 0 {
		req.Delay = durationpb.New(r.Delay)
	}
	deadline := time.Now().Add(r.Wait)
	release := func(ctx context.Context) error {
		_, err := call(ctx, s.c, "release", "lock "+name, safe, func(ctx context.Context, e *endpoint) (*v1.ReleaseResponse, error) {
			return e.lock.Release(ctx, &v1.ReleaseRequest{Session: req.GetSession(), Name: name, RequestId: req.GetRequestId()})
		})
		return err
	}
	wctx, stop := s.waitUnder(ctx)
	defer stop()
	if r.Wait > 0 { // also when no node is there to say that the wait is over
		var cancel context.CancelFunc
		wctx, cancel = context.WithTimeout(wctx, r.Wait+2*s.c.cfg.Attempt)
		defer cancel()
	}
	tries := 0
	res, err := call(wctx, s.c, "acquire", "lock "+name, waiting, func(ctx context.Context, e *endpoint) (*v1.AcquireResponse, error) {
		tries++
		switch {
		case r.NoWait:
			req.Wait = durationpb.New(0)
		case r.Wait > 0:
			req.Wait = durationpb.New(max(0, time.Until(deadline))) // what is left of it, if this is a repeat
		}
		return e.lock.Acquire(ctx, req)
	})
	if err != nil {
		s.abandon(ctx, err, tries, release)
		return nil, s.orLost("acquire", "lock "+name, err)
	}
	g := lock.Grant{Name: name, Token: holdfast.Token(res.GetToken()), Mode: modeOf(res.GetMode()), Permits: int(res.GetPermits())}
	return lock.NewHeld(ctx, s.Lifeline, g, s.untilDone("release", "lock "+name, release)), nil
}

// AcquireAll takes several locks in an order that cannot deadlock; see
// lock.Manager.AcquireAll.
func (s *Session) AcquireAll(ctx context.Context, names []string, opts ...lock.Option) (lock.Set, error) {
	return lock.AcquireAll(ctx, names, func(ctx context.Context, name string) (*lock.Held, error) { return s.Acquire(ctx, name, opts...) })
}

// request is an id for one grant of the session, never used again.
func (s *Session) request() string { return strconv.FormatUint(s.requests.Add(1), 36) }

// waitUnder is a context that ends with ctx and with the session.
func (s *Session) waitUnder(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// orLost is the session's end, if that is why a wait ended.
func (s *Session) orLost(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if cause := s.Err(); cause != nil {
		return &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeOf(cause), Outcome: holdfast.NotApplied, Err: cause}
	}
	return err
}

// giveBack is how long a grant that came too late is tried to be given back
// before that is left to the end of the session.
const giveBack = 10 * time.Second

// abandon gives back what an attempt without an answer may have been granted:
// the last of so many tries, or one before it at another node.
func (s *Session) abandon(ctx context.Context, err error, tries int, release func(context.Context) error) {
	if tries <= 1 && holdfast.OutcomeOf(err) == holdfast.NotApplied || s.Err() != nil {
		return
	}
	s.later(ctx, release)
}

// untilDone is release as a Held or a Leadership needs it: it ends with the
// session, and goes on in the background when its caller waits no longer.
func (s *Session) untilDone(op, key string, release func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		rctx, stop := s.waitUnder(ctx)
		defer stop()
		err := release(rctx)
		if err == nil || s.Err() != nil {
			return s.orLost(op, key, err)
		}
		if ctx.Err() != nil {
			s.later(ctx, release)
			err = &holdfast.Error{Code: holdfast.CodeOf(err), Outcome: holdfast.Unknown, Err: err}
		}
		return err
	}
}

// later releases in the background.
func (s *Session) later(ctx context.Context, release func(context.Context) error) {
	s.c.spawn(&s.c.cleanups, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBack)
		defer cancel()
		ctx, stop := s.waitUnder(ctx)
		defer stop()
		_ = release(ctx) // not held, or gone with the session: both are what is wanted
	})
}

// LockInfo is a lock as the quorum knows it.
type LockInfo struct {
	lock.Info
	SessionNames map[engine.SessionID]string // of holders that have one
}

// Inspect reads who holds a lock and who waits for it; see lock.Manager.Inspect.
func (c *Client) Inspect(ctx context.Context, name string) (LockInfo, error) {
	res, err := call(ctx, c, "inspect", "lock "+name, reading, func(ctx context.Context, e *endpoint) (*v1.LockServiceGetResponse, error) {
		return e.lock.Get(ctx, &v1.LockServiceGetRequest{Name: name})
	})
	if err != nil {
		return LockInfo{}, err
	}
	info, err := lockInfo(res.GetLock())
	info.Name = name
	return info, err
}

// Locks lists up to limit locks that are in use, by name, whose names begin
// with prefix and come after the name after; 0 is the server's limit.
func (c *Client) Locks(ctx context.Context, prefix, after string, limit int) ([]LockInfo, error) {
	res, err := call(ctx, c, "list", "locks", reading, func(ctx context.Context, e *endpoint) (*v1.LockServiceListResponse, error) {
		return e.lock.List(ctx, &v1.LockServiceListRequest{Prefix: prefix, After: after, Limit: uint32(max(limit, 0))})
	})
	if err != nil {
		return nil, err
	}
	out := make([]LockInfo, len(res.GetLocks()))
	for i, l := range res.GetLocks() {
		if out[i], err = lockInfo(l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func lockInfo(m *v1.Lock) (LockInfo, error) {
	info := LockInfo{Info: lock.Info{Name: m.GetName(), Capacity: int(m.GetPermits())}, SessionNames: map[engine.SessionID]string{}}
	for _, h := range m.GetHolders() {
		id, err := engine.ParseSessionID(h.GetSession())
		if err != nil {
			return info, err
		}
		if h.GetSessionName() != "" {
			info.SessionNames[id] = h.GetSessionName()
		}
		info.Holders = append(info.Holders, lock.Claim{
			Session: id, Request: h.GetRequestId(), Token: holdfast.Token(h.GetToken()), Mode: modeOf(m.GetMode()),
			Permits: int(h.GetPermits()), Since: h.GetSince().AsTime(), Note: h.GetNote(),
		})
	}
	for _, w := range m.GetWaiters() {
		id, err := engine.ParseSessionID(w.GetSession())
		if err != nil {
			return info, err
		}
		info.Waiters = append(info.Waiters, lock.Claim{
			Session: id, Request: w.GetRequestId(), Mode: modeOf(w.GetMode()), Since: w.GetSince().AsTime(),
		})
	}
	return info, nil
}

// modeOf is a mode by the API's word for it.
func modeOf(word string) lock.Mode {
	if word == "semaphore" {
		return lock.ModePermits
	}
	return lock.Mode(word)
}
