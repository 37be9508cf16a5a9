package server

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
	"holdfast.dev/kv"
)

// kvService is holdfast.v1.KVService.
type kvService struct{ *Server }

// write is the part that all writes share.
type write struct {
	op      string
	key     string // for errors
	names   []string
	request string
	session string
	fence   *v1.Fence
	opts    []kv.WriteOption
	leased  bool
}

// writer is what makes one write for the caller.
type writer struct {
	*kv.Store
	opts []kv.WriteOption
	own  bool // under the node's own session
}

// writer finds who makes a write, after the checks.
func (s *Server) writer(ctx context.Context, w write) (writer, error) {
	fail := func(err error) (writer, error) { return writer{}, named("kv", w.key, w.op, err) }
	if w.fence != nil {
		w.names = append(w.names, w.fence.GetResource())
		w.opts = append(w.opts, kv.Fenced(w.fence.GetResource(), holdfast.Token(w.fence.GetToken())))
	}
	if err := callerOf(ctx).May(auth.Write, w.names...); err != nil {
		return fail(err)
	}
	var c kv.Caller
	if w.session != "" {
		id, err := s.session(ctx, w.session)
		if err != nil {
			return fail(err)
		}
		c.Session = id
		if w.leased {
			w.opts = append(w.opts, kv.Leased())
		}
	}
	switch {
	case w.request != "":
		id, err := engine.ParseRequestID(w.request)
		if err == nil && c.Session != 0 && c.Session != id.Session {
			err = invalid(errors.New("the request id is of another session"))
		}
		if err == nil {
			_, err = s.session(ctx, id.Session.String())
		}
		if err != nil {
			return fail(err)
		}
		c.Request = &id
		return writer{Store: s.store.For(c), opts: w.opts}, nil
	case w.session != "":
		return writer{Store: s.store.For(c), opts: w.opts}, nil
	}
	// Without either, the node's own session sees to it that the write happens
	// once while it tries.
	p, err := s.own.parts()
	if err != nil {
		return fail(err)
	}
	return writer{Store: p.store, opts: w.opts, own: true}, nil
}

// mend turns an error of the node's own session into what it means to the
// caller: the session that is lost is not his, and its request ids are none
// that he could resolve.
func (w writer) mend(err error) error {
	e, ok := errors.AsType[*holdfast.Error](err)
	if !ok || !w.own {
		return err
	}
	m := &holdfast.Error{Op: e.Op, Key: e.Key, Code: e.Code, Outcome: e.Outcome, Err: e.Err}
	if m.Code == holdfast.CodeLost || m.Code == holdfast.CodeClosed {
		m.Code, m.Err = holdfast.CodeNoQuorum, plainError{e.Err}
	}
	if m.Outcome == holdfast.Unknown {
		m.Err = plainError{e.Err}
	}
	return m
}

// plainError is an error without what it wraps.
type plainError struct{ error }

func (p plainError) Error() string {
	if p.error == nil {
		return "outcome unknown"
	}
	return p.error.Error()
}

func conditions(rev int64, missing bool) []kv.WriteOption {
	var opts []kv.WriteOption
	if missing {
		opts = append(opts, kv.IfMissing())
	}
	if rev != 0 {
		opts = append(opts, kv.IfRevision(rev))
	}
	return opts
}

func (s kvService) Put(ctx context.Context, req *v1.PutRequest) (*v1.PutResponse, error) {
	st, err := s.writer(ctx, write{
		op: "put", key: req.GetKey(), names: []string{req.GetKey()}, request: req.GetRequestId(), session: req.GetSession(),
		leased: true, fence: req.GetFence(), opts: conditions(req.GetIfRevision(), req.GetIfMissing()),
	})
	if err != nil {
		return nil, err
	}
	rev, err := st.Put(ctx, req.GetKey(), wire.Bytes(req), st.opts...)
	if err != nil {
		return nil, st.mend(err)
	}
	return &v1.PutResponse{Revision: rev}, nil
}

func (s kvService) Delete(ctx context.Context, req *v1.DeleteRequest) (*v1.DeleteResponse, error) {
	st, err := s.writer(ctx, write{
		op: "delete", key: req.GetKey(), names: []string{req.GetKey()}, request: req.GetRequestId(),
		fence: req.GetFence(), opts: conditions(req.GetIfRevision(), false),
	})
	if err != nil {
		return nil, err
	}
	d, err := st.Delete(ctx, req.GetKey(), st.opts...)
	if err != nil {
		return nil, st.mend(err)
	}
	return &v1.DeleteResponse{Revision: d.Revision, Existed: d.Existed}, nil
}

func (s kvService) CompareAndSet(ctx context.Context, req *v1.CompareAndSetRequest) (*v1.CompareAndSetResponse, error) {
	st, err := s.writer(ctx, write{
		op: "compare and set", key: req.GetKey(), names: []string{req.GetKey()}, request: req.GetRequestId(),
		session: req.GetSession(), leased: true, fence: req.GetFence(),
	})
	if err != nil {
		return nil, err
	}
	rev, err := st.CompareAndSet(ctx, req.GetKey(), req.GetExpect(), wire.Bytes(req), st.opts...)
	if err != nil {
		return nil, st.mend(err)
	}
	return &v1.CompareAndSetResponse{Revision: rev}, nil
}

func (s kvService) Txn(ctx context.Context, req *v1.TxnRequest) (*v1.TxnResponse, error) {
	t, names, err := txnOf(req)
	if err != nil {
		return nil, named("kv", "", "transaction", err)
	}
	st, err := s.writer(ctx, write{
		op: "transaction", names: names, request: req.GetRequestId(), session: req.GetSession(), fence: req.GetFence(),
	})
	if err != nil {
		return nil, err
	}
	res, err := st.Txn(ctx, t, st.opts...)
	if err != nil {
		return nil, st.mend(err)
	}
	resp := &v1.TxnResponse{Succeeded: res.Succeeded, Revision: res.Revision}
	for _, r := range res.Results {
		m := &v1.OperationResult{Existed: r.Found}
		if r.Entry.Key != "" && r.Found {
			m.Entry = entryToProto(r.Entry)
		}
		resp.Results = append(resp.Results, m)
	}
	return resp, nil
}

// txnOf is the transaction of a message and the keys that it names.
func txnOf(req *v1.TxnRequest) (t kv.Txn, names []string, err error) {
	var faults []error
	for i, c := range req.GetIf() {
		cond, err := conditionOf(c)
		if err != nil {
			faults = append(faults, fmt.Errorf("if %d: %w", i+1, err))
		}
		t.If = append(t.If, cond)
		names = append(names, c.GetKey())
	}
	branch := func(name string, in []*v1.Operation) (out []kv.Op) {
		for i, o := range in {
			op, err := operationOf(o)
			if err == nil && op.Leased && req.GetSession() == "" {
				err = errors.New("leased, but the request has no session")
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("%s %d: %w", name, i+1, err))
			}
			out = append(out, op)
			names = append(names, op.Key)
		}
		return out
	}
	t.Then, t.Else = branch("then", req.GetThen()), branch("else", req.GetElse())
	if len(faults) > 0 {
		return t, nil, invalid(errors.Join(faults...))
	}
	return t, names, nil
}

func conditionOf(c *v1.Condition) (kv.Cond, error) {
	switch is := c.GetIs().(type) {
	case *v1.Condition_Exists:
		if is.Exists {
			return kv.Exists(c.GetKey()), nil
		}
		return kv.Missing(c.GetKey()), nil
	case *v1.Condition_Revision:
		return kv.RevisionIs(c.GetKey(), is.Revision), nil
	case *v1.Condition_Value, *v1.Condition_Text:
		return kv.ValueIs(c.GetKey(), wire.Bytes(c)), nil
	}
	return kv.Cond{}, errors.New("want one of exists, revision, value and text")
}

func operationOf(o *v1.Operation) (kv.Op, error) {
	switch do := o.GetDo().(type) {
	case *v1.Operation_Get:
		return kv.Get(do.Get), nil
	case *v1.Operation_Delete:
		return kv.Delete(do.Delete), nil
	case *v1.Operation_Put:
		op := kv.Put(do.Put.GetKey(), wire.Bytes(do.Put))
		op.Leased = do.Put.GetLeased()
		return op, nil
	}
	return kv.Op{}, errors.New("want one of get, put and delete")
}

func (s kvService) Get(ctx context.Context, req *v1.KVServiceGetRequest) (*v1.KVServiceGetResponse, error) {
	if err := callerOf(ctx).May(auth.Read, req.GetKey()); err != nil {
		return nil, named("kv", req.GetKey(), "get", err)
	}
	opts := []kv.ReadOption{kv.At(req.GetRevision())}
	if req.GetStale() {
		opts = append(opts, kv.Stale())
	}
	e, err := s.store.Get(ctx, req.GetKey(), opts...)
	if err != nil {
		return nil, err
	}
	return &v1.KVServiceGetResponse{Entry: entryToProto(e), Revision: e.ReadRevision}, nil
}

func (s kvService) List(ctx context.Context, req *v1.KVServiceListRequest) (*v1.KVServiceListResponse, error) {
	if err := callerOf(ctx).May(auth.Read, req.GetPrefix()); err != nil {
		return nil, named("kv", req.GetPrefix(), "list", err)
	}
	opts := []kv.ListOption{kv.Limit(page(req.GetLimit())), kv.After(req.GetAfter()), kv.At(req.GetRevision())}
	if req.GetKeysOnly() {
		opts = append(opts, kv.KeysOnly())
	}
	if req.GetStale() {
		opts = append(opts, kv.Stale())
	}
	p, err := s.store.List(ctx, req.GetPrefix(), opts...)
	if err != nil {
		return nil, err
	}
	resp := &v1.KVServiceListResponse{More: p.More, Revision: p.Revision}
	for _, e := range p.Entries {
		resp.Entries = append(resp.Entries, entryToProto(e))
	}
	return resp, nil
}

func (s kvService) Resolve(ctx context.Context, req *v1.ResolveRequest) (*v1.ResolveResponse, error) {
	id, err := engine.ParseRequestID(req.GetRequestId())
	if err == nil {
		err = callerOf(ctx).May(auth.Write)
	}
	if err == nil {
		_, err = s.session(ctx, id.Session.String())
	}
	if err != nil {
		return nil, named("request", req.GetRequestId(), "resolve", unsettled(err))
	}
	outcome, rev, err := s.store.ResolveRequest(ctx, id)
	if err != nil {
		return nil, err
	}
	return &v1.ResolveResponse{Outcome: wire.OutcomeToProto(outcome), Revision: rev}, nil
}

// unsettled says of a request whose session is gone that its outcome stays
// unknown.
func unsettled(err error) error {
	if !errors.Is(err, holdfast.ErrLost) {
		return err
	}
	return &holdfast.Error{Code: holdfast.CodeLost, Outcome: holdfast.Unknown, Err: err}
}

func (s kvService) Watch(ctx context.Context, req *v1.KVServiceWatchRequest, stream *connect.ServerStream[v1.KVServiceWatchResponse]) error {
	subject := req.GetKey() + req.GetPrefix()
	if err := callerOf(ctx).May(auth.Read, subject); err != nil {
		return named("kv", subject, "watch", err)
	}
	ctx, done, err := s.stream(ctx)
	if err != nil {
		return named("kv", subject, "watch", err)
	}
	defer done()
	batches := s.store.Watch(ctx, kv.WatchRequest{
		Key: req.GetKey(), Prefix: req.GetPrefix(), From: req.GetFrom(), Prev: req.GetPrevious(), Progress: true,
	})
	defer drain(batches, done)
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	var rev int64
	if req.GetFrom() > 0 { // say at once that the watch is there; without from, the store does
		rev = req.GetFrom() - 1
		if err := stream.Send(&v1.KVServiceWatchResponse{Revision: rev}); err != nil {
			return err
		}
	}
	for {
		m := &v1.KVServiceWatchResponse{}
		select {
		case <-beat.C:
			if rev == 0 {
				continue // not begun yet
			}
			m.Revision = rev
		case b, ok := <-batches:
			if !ok {
				return s.ended(ctx)
			}
			if b.Err != nil {
				return b.Err
			}
			rev = b.Revision
			m.Revision = rev
			for _, ev := range b.Events {
				m.Events = append(m.Events, eventToProto(ev))
			}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func eventToProto(ev kv.Event) *v1.KVEvent {
	m := &v1.KVEvent{Deleted: ev.Deleted, Entry: entryToProto(ev.Entry)}
	if ev.Prev != nil {
		m.Previous = entryToProto(*ev.Prev)
	}
	return m
}

func entryToProto(e kv.Entry) *v1.Entry {
	m := &v1.Entry{Key: e.Key, Revision: e.Revision, CreateRevision: e.CreateRevision, Version: e.Version}
	switch {
	case len(e.Value) == 0:
	case utf8.Valid(e.Value):
		m.Content = &v1.Entry_Text{Text: string(e.Value)}
	default:
		m.Content = &v1.Entry_Value{Value: e.Value}
	}
	if e.Session != 0 {
		m.Session = e.Session.String()
	}
	return m
}
