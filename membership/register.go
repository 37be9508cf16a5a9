package membership

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Registration is this process' member of a group. It lasts until Leave or the
// end of the session, whose context tells of that. Safe for concurrent use.
type Registration struct {
	registry *Registry
	group    string
	member   Member // ID and registration matter
	left     atomic.Bool
}

// Register enters a member into a group, under the registry's session: when
// the session ends, the member is lost. An id that another live session has is
// holdfast.ErrBusy; one of the same session is taken over, and the Registration
// that had it is over. It panics on a registry without a session.
//
// When the outcome is Unknown, engine.Session.Resolve with the request id in
// the error makes it final; then the roster tells whether the member is in.
func (r *Registry) Register(ctx context.Context, group string, m Member) (*Registration, error) {
	if r.session == nil {
		panic("membership: Register without a session; use RegisterFor")
	}
	if m.ID == "" {
		m.ID = randomName(8)
	}
	m.registration = randomName(16)
	_, err := r.register(ctx, r.session.ID(), r.session.Once, group, m)
	if err != nil {
		return nil, err
	}
	return &Registration{registry: r, group: group, member: m}, nil
}

// Group is the group's name.
func (g *Registration) Group() string { return g.group }

// ID is the member's id.
func (g *Registration) ID() string { return g.member.ID }

// Update replaces address and metadata; m.ID must be empty or the same. It is
// holdfast.ErrLost when the registration is over.
func (g *Registration) Update(ctx context.Context, m Member) error {
	if m.ID != "" && m.ID != g.member.ID {
		return invalid("update", g.group, []error{fmt.Errorf("id %q: it is %q and stays so", m.ID, g.member.ID)})
	}
	m.ID, m.registration = g.member.ID, g.member.registration
	s := g.registry.session
	return g.registry.update(ctx, s.ID(), s.Once, g.group, m, thisRecord(recordKey(g.group, m.ID), s.ID(), m.registration))
}

// Leave takes the member out of the group; watchers are told Left. That it has
// left already is no error; that its session was lost before is
// holdfast.ErrLost.
func (g *Registration) Leave(ctx context.Context) error {
	if g.left.Load() {
		return nil
	}
	s := g.registry.session
	err := g.registry.leave(ctx, s.ID(), s.Once, g.group, g.member, thisRecord(recordKey(g.group, g.member.ID), s.ID(), g.member.registration))
	if err == nil {
		g.left.Store(true)
	}
	return err
}

// Owner is the one for whom a node registers.
type Owner struct {
	// Session is what the member hangs on.
	Session engine.SessionID
	// Request, one of Session's, makes one call have its effect once, however
	// often it is sent, to whatever node. Nil: it is sent once, and an unknown
	// outcome is reported; to repeat it is harmless as long as no later call
	// for that member has been made.
	Request *engine.RequestID
}

// once is how a transaction for the owner is sent.
func (r *Registry) once(o Owner) func(context.Context, engine.Txn) (engine.OnceResult, error) {
	return func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
		if o.Request != nil {
			if o.Request.Session != o.Session {
				return engine.OnceResult{}, &holdfast.Error{
					Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.New("the request is of another session than the owner's"),
				}
			}
			res, err := engine.Once(ctx, r.engine, r.attempt, *o.Request, t)
			if errors.Is(err, holdfast.ErrLost) { // this node has not applied it, but one to which it was sent before may have
				err = &holdfast.Error{Code: holdfast.CodeLost, Outcome: holdfast.Unknown, Request: o.Request.String(), Err: err}
			}
			return res, err
		}
		t.If = append(t.If, engine.Alive(o.Session))
		res, err := r.engine.Txn(ctx, t)
		if err == nil && !res.Succeeded {
			err = &holdfast.Error{Key: "session " + o.Session.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}
		}
		return engine.OnceResult{TxnResult: res}, err
	}
}

// RegisterFor is [Registry.Register] for another process' session, and an
// update when that session has the id already. It returns the id, which is
// drawn when m.ID is empty, and the revision.
func (r *Registry) RegisterFor(ctx context.Context, o Owner, group string, m Member) (id string, revision int64, err error) {
	if m.ID == "" {
		m.ID = randomName(8)
	}
	m.registration = ""
	revision, err = r.register(ctx, o.Session, r.once(o), group, m)
	return m.ID, revision, err
}

// UpdateFor is [Registration.Update] for another process' session;
// holdfast.ErrNotFound when that has no such member.
func (r *Registry) UpdateFor(ctx context.Context, o Owner, group string, m Member) error {
	m.registration = ""
	return notFound(r.update(ctx, o.Session, r.once(o), group, m, ownRecord(recordKey(group, m.ID), o.Session)))
}

// LeaveFor is [Registration.Leave] for another process' session;
// holdfast.ErrNotFound when the id is another's.
func (r *Registry) LeaveFor(ctx context.Context, o Owner, group, id string) error {
	return notFound(r.leave(ctx, o.Session, r.once(o), group, Member{ID: id}, ownRecord(recordKey(group, id), o.Session)))
}

// errNotOurs: the record there is not the one that was to be changed.
var errNotOurs = errors.New("the registration is over")

// notFound is what errNotOurs means to a caller without a Registration.
func notFound(err error) error {
	e, ok := errors.AsType[*holdfast.Error](err)
	if !ok || !errors.Is(err, errNotOurs) {
		return err
	}
	return &holdfast.Error{Op: e.Op, Key: e.Key, Code: holdfast.CodeNotFound, Outcome: e.Outcome}
}

// sender sends a transaction so that it happens once.
type sender func(context.Context, engine.Txn) (engine.OnceResult, error)

// register writes a record if there is none, one of a member that has left, or
// one of the same session: three guards, of which any will do, one within the
// other. The whole is unconditional outside, so that a refusal is as final as
// a success.
func (r *Registry) register(ctx context.Context, session engine.SessionID, send sender, group string, m Member) (int64, error) {
	key, value, err := r.encode("register", session, group, m)
	if err != nil {
		return 0, err
	}
	put := engine.PutLeased(key, value, engine.LeaseID(session))
	t := engine.Txn{If: ownRecord(key, session), Then: []engine.Op{put}, Else: []engine.Op{engine.Get(key)}}
	t = engine.Txn{If: leftRecord(key), Then: []engine.Op{put}, Else: []engine.Op{engine.Nested(t)}}
	t = engine.Txn{If: []engine.Compare{engine.Missing(key)}, Then: []engine.Op{put}, Else: []engine.Op{engine.Nested(t)}}
	a, err := r.change(ctx, "register", send, group, m.ID, t)
	switch {
	case err != nil:
		return 0, err
	case a.changed:
		return a.revision, nil
	}
	return 0, &holdfast.Error{
		Op: "register", Key: memberSubject(group, m.ID), Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied,
		Err: fmt.Errorf("%w: session %v", holdfast.ErrBusy, engine.SessionID(a.found.Lease)),
	}
}

// update writes a record over the one that the guard means.
func (r *Registry) update(ctx context.Context, session engine.SessionID, send sender, group string, m Member, guard []engine.Compare) error {
	key, value, err := r.encode("update", session, group, m)
	if err != nil {
		return err
	}
	a, err := r.change(ctx, "update", send, group, m.ID, engine.Txn{
		If:   guard,
		Then: []engine.Op{engine.PutLeased(key, value, engine.LeaseID(session))},
		Else: []engine.Op{engine.Get(key)},
	})
	if err == nil && !a.changed {
		err = over("update", group, m.ID)
	}
	return err
}

// leave writes "left" over the record that the guard means, and then deletes
// it. When the second step fails, the record is not in the roster any more, is
// in nobody's way, and goes with the session.
func (r *Registry) leave(ctx context.Context, session engine.SessionID, send sender, group string, m Member, guard []engine.Compare) error {
	if err := invalid("leave", group, append(checkName("group", group), checkName("id", m.ID)...)); err != nil {
		return err
	}
	key := recordKey(group, m.ID)
	value := record{State: left, Session: session.String(), Registration: m.registration}.encode()
	a, err := r.change(ctx, "leave", send, group, m.ID, engine.Txn{
		If:   guard,
		Then: []engine.Op{engine.PutLeased(key, value, engine.LeaseID(session))},
		Else: []engine.Op{engine.Get(key)},
	})
	switch {
	case err != nil:
		return err
	case !a.changed && a.found != nil:
		if _, gone, err := decode(group, *a.found); err != nil || !gone {
			return errors.Join(err, over("leave", group, m.ID))
		}
		value = a.found.Value
	case !a.changed:
		return nil
	}
	_, err = engine.Submit(ctx, r.engine, r.attempt, engine.Txn{
		If:   []engine.Compare{engine.ValueIs(key, value)},
		Then: []engine.Op{engine.Delete(key)},
	})
	if err != nil {
		return &holdfast.Error{
			Op: "leave", Key: memberSubject(group, m.ID), Code: holdfast.CodeOf(err), Outcome: holdfast.Applied,
			Err: fmt.Errorf("its record: %w", err),
		}
	}
	return nil
}

// over is the error of a registration that has ended.
func over(op, group, id string) error {
	return &holdfast.Error{Op: op, Key: memberSubject(group, id), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied, Err: errNotOurs}
}

// encode checks a member and gives the key and value of its record.
func (r *Registry) encode(op string, session engine.SessionID, group string, m Member) (string, []byte, error) {
	if err := m.check(group); err != nil {
		return "", nil, invalid(op, group, []error{err})
	}
	return recordKey(group, m.ID), record{
		State: present, Session: session.String(), Registration: m.registration, Address: m.Address, Metadata: m.Metadata,
	}.encode(), nil
}

// outcome is what became of a change of one record.
type outcome struct {
	revision int64
	changed  bool
	found    *engine.KV // what stood in its way; nil: nothing was there
}

// change sends a transaction that either puts a record or gets what is there
// instead, and finds out which it was even if the answer went lost.
func (r *Registry) change(ctx context.Context, op string, send sender, group, id string, t engine.Txn) (outcome, error) {
	res, err := send(ctx, engine.Txn{Then: []engine.Op{engine.Nested(t)}})
	if err != nil {
		return outcome{}, wrap(op, memberSubject(group, id), err)
	}
	out := outcome{revision: res.Revision}
	if !res.Duplicate {
		branch := res.Results[0]
		for branch.Txn != nil {
			out.changed = branch.Txn.Succeeded
			branch = branch.Txn.Results[0]
		}
		if !out.changed && len(branch.Range.KVs) > 0 {
			out.found = &branch.Range.KVs[0]
		}
		return out, nil
	}
	then, err := r.read(ctx, engine.RangeRequest{Key: recordKey(group, id), Revision: res.Revision})
	if err != nil {
		return out, &holdfast.Error{
			Op: op, Key: memberSubject(group, id), Code: holdfast.CodeOf(err), Outcome: holdfast.Applied, Err: fmt.Errorf("its result: %w", err),
		}
	}
	if len(then.KVs) > 0 {
		out.found = &then.KVs[0]
		out.changed = out.found.ModRevision == res.Revision
	}
	return out, nil
}

// randomName is n random letters and digits.
func randomName(n int) string { return strings.ToLower(rand.Text())[:n] }
