package kv

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Store reads and writes keys. It has no state of its own and is safe for
// concurrent use. Errors are *holdfast.Error with Key "kv <key>".
type Store struct {
	engine  engine.Engine
	attempt time.Duration
	lease   engine.SessionID
	request *engine.RequestID // of whom it writes for, or nil
	once    func(context.Context, engine.Txn) (engine.OnceResult, error)
	resolve func(context.Context, engine.RequestID) (holdfast.Outcome, int64, error)
}

// New is the store as a session sees it: writes happen exactly once, and keys
// can hang on the session.
func New(s *engine.Session) *Store {
	return &Store{engine: s.Engine(), attempt: s.Attempt(), lease: s.ID(), once: s.Once, resolve: s.Resolve}
}

// NewFor is the store without a session of its own: for readers, and for nodes
// that write for others, see [Store.For]. A write on it is sent once; when its
// answer is lost, the outcome is Unknown and nobody can tell. Attempt is how
// long one request may take before it is sent again, where that is safe; 0 is
// engine.DefaultAttempt.
func NewFor(e engine.Engine, attempt time.Duration) *Store {
	if attempt <= 0 {
		attempt = engine.DefaultAttempt
	}
	st := &Store{engine: e, attempt: attempt}
	st.resolve = func(ctx context.Context, id engine.RequestID) (holdfast.Outcome, int64, error) {
		return engine.Resolve(ctx, e, attempt, id)
	}
	return st.For(Caller{})
}

// Caller is the one for whom a node writes.
type Caller struct {
	// Session is what Leased keys hang on; writes fail with holdfast.ErrLost
	// when it is gone. 0: none.
	Session engine.SessionID
	// Request makes one write happen once however often it is sent, to
	// whatever node; it belongs to one write, with the same arguments each
	// time, and to Session. Nil: the write is sent once.
	Request *engine.RequestID
}

// For is the store as another process' session sees it. With c.Request set it
// is good for one write.
func (st *Store) For(c Caller) *Store {
	of := *st
	of.lease, of.request = c.Session, nil
	of.once = func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
		return single(ctx, st.engine, c.Session, t)
	}
	if c.Request != nil {
		id := *c.Request
		of.lease, of.request = id.Session, &id
		of.once = func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
			if c.Session != 0 && c.Session != id.Session {
				return engine.OnceResult{}, faults{errors.New("the request is of another session than the caller's")}.err("", "")
			}
			res, err := engine.Once(ctx, st.engine, st.attempt, id, t)
			return res, sentBefore(id, err)
		}
	}
	return &of
}

// sentBefore makes the outcome of a request that failed unknown: this node may
// know that it has not applied it, but not what came of it where it was sent
// before. Only what cancelled it for good, and what no node accepts, is known.
func sentBefore(id engine.RequestID, err error) error {
	if err == nil || holdfast.OutcomeOf(err) != holdfast.NotApplied || holdfast.CodeOf(err) == holdfast.CodeInvalid ||
		holdfast.CodeOf(err) == holdfast.CodeCanceled && requestOf(err) != "" {
		return err
	}
	return &holdfast.Error{Code: holdfast.CodeOf(err), Outcome: holdfast.Unknown, Request: id.String(), Err: err}
}

// single sends an unconditional transaction once, under the guard that the
// session, if there is one, exists.
func single(ctx context.Context, e engine.Engine, session engine.SessionID, t engine.Txn) (engine.OnceResult, error) {
	if session != 0 {
		t.If = []engine.Compare{engine.Alive(session)}
	}
	res, err := e.Txn(ctx, t)
	if err == nil && !res.Succeeded {
		err = &holdfast.Error{Key: "session " + session.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}
	}
	return engine.OnceResult{TxnResult: res}, err
}

// Entry is a key with its value at some revision.
type Entry struct {
	Key            string
	Value          []byte           // not to be modified
	Revision       int64            // of the last write: what CompareAndSet expects
	CreateRevision int64            // of the write that created it
	Version        int64            // number of writes since its creation
	Session        engine.SessionID // on which it hangs, or 0
	ReadRevision   int64            // of the store when it was read; 0 in a watch
}

// Get reads one key. A key that does not exist is holdfast.ErrNotFound; the
// Entry then has Key and ReadRevision.
func (st *Store) Get(ctx context.Context, key string, opts ...ReadOption) (Entry, error) {
	const op = "get"
	o := readOptionsOf(opts)
	var f faults
	f.key("key", key)
	f.at(o)
	if err := f.err(op, subject(key)); err != nil {
		return Entry{}, err
	}
	res, err := st.read(ctx, engine.RangeRequest{Key: keyPrefix + key, Revision: o.at, Stale: o.stale})
	if err != nil {
		return Entry{}, wrap(op, key, err)
	}
	readAt := res.Revision
	if o.at != 0 {
		readAt = o.at
	}
	if len(res.KVs) == 0 {
		return Entry{Key: key, ReadRevision: readAt},
			&holdfast.Error{Op: op, Key: subject(key), Code: holdfast.CodeNotFound, Outcome: holdfast.NotApplied}
	}
	return entryOf(res.KVs[0], readAt), nil
}

// at checks the revision to read at.
func (f *faults) at(o readOptions) {
	if o.at < 0 {
		f.add("negative revision %d", o.at)
	}
}

// Page is a part of a list.
type Page struct {
	Entries  []Entry // by key, ascending in bytes
	More     bool    // there are more behind the last
	Revision int64   // of the store that the page shows
}

// List reads the keys that begin with a prefix, "" for all, a page at a time:
// go on with After the last key, and with At(Page.Revision) if all pages
// together are to be one state.
func (st *Store) List(ctx context.Context, prefix string, opts ...ListOption) (Page, error) {
	const op = "list"
	o := listOptionsOf(opts)
	var f faults
	f.text("prefix", prefix)
	f.at(o)
	if o.limit < 1 || o.limit > MaxPage {
		f.add("limit %d, want 1 to %d", o.limit, MaxPage)
	}
	req := engine.RangeRequest{
		Key: keyPrefix + prefix, End: engine.PrefixEnd(keyPrefix + prefix),
		Revision: o.at, Stale: o.stale, Limit: int64(o.limit), KeysOnly: o.keysOnly,
	}
	if o.after != "" {
		f.text("after", o.after)
		if after := keyPrefix + o.after; after >= req.Key && after < req.End {
			req.Key = after + "\x00"
		} else {
			f.add("after %q does not begin with prefix %q", o.after, prefix)
		}
	}
	if err := f.err(op, subject(prefix)); err != nil {
		return Page{}, err
	}
	res, err := st.read(ctx, req)
	if err != nil {
		return Page{}, wrap(op, prefix, err)
	}
	page := Page{More: res.More, Revision: res.Revision, Entries: make([]Entry, len(res.KVs))}
	if o.at != 0 {
		page.Revision = o.at
	}
	for i, kv := range res.KVs {
		page.Entries[i] = entryOf(kv, page.Revision)
	}
	return page, nil
}

// read repeats a read until it succeeds, fails for good, or ctx ends.
func (st *Store) read(ctx context.Context, req engine.RangeRequest) (engine.RangeResult, error) {
	return engine.Read(ctx, st.engine, st.attempt, req)
}

// subject is the key of an error: "kv colour".
func subject(key string) string {
	if key == "" {
		return "kv"
	}
	if len(key) > 128 {
		key = strings.ToValidUTF8(key[:128], "") + "…"
	}
	for _, r := range key {
		if !strconv.IsPrint(r) {
			return "kv " + strconv.Quote(key)
		}
	}
	return "kv " + key
}

// wrap gives an engine's error the words of this package.
func wrap(op, key string, err error) *holdfast.Error {
	return &holdfast.Error{
		Op: op, Key: subject(key), Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Request: requestOf(err), Err: bare(err),
	}
}

// bare is an error without outer layers that carry no words of their own.
func bare(err error) error {
	for {
		e, ok := err.(*holdfast.Error) //nolint:errorlint // one layer at a time
		if !ok || e.Op != "" || e.Key != "" {
			return err
		}
		err = e.Err
	}
}

// requestOf is the first request id in an error's chain.
func requestOf(err error) string {
	for {
		e, ok := errors.AsType[*holdfast.Error](err)
		if !ok || e.Request != "" {
			if ok {
				return e.Request
			}
			return ""
		}
		err = e.Err
	}
}
