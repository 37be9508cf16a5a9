package access

import (
	"context"
	"errors"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/internal/cert"
	"holdfast.dev/kv"
	"holdfast.dev/lock"
	"holdfast.dev/membership"
)

// Config says where the primitives are. The zero value is the API of a node on
// this machine.
type Config struct {
	Engine    string     // "etcd://…": no node, but this etcd cluster; default none
	Endpoints []string   // of nodes' API
	Token     string     // bearer token for the API
	TLS       cert.Files // own certificate and the authority to trust; default none

	Session engine.SessionConfig // of the session that grants hang on
}

// Backend is the primitives under one session. It is safe for concurrent use.
type Backend interface {
	// Life is the session that grants hang on.
	Life(ctx context.Context) (*engine.Lifeline, error)

	Acquire(ctx context.Context, name string, opts ...lock.Option) (*lock.Held, error)
	Inspect(ctx context.Context, name string) (client.LockInfo, error)
	Locks(ctx context.Context, prefix, after string, limit int) ([]client.LockInfo, error)

	Campaign(ctx context.Context, name string, value []byte, opts ...election.Option) (*election.Leadership, error)
	Elections(ctx context.Context, prefix, after string, limit int) ([]client.ElectionInfo, error)
	Leader(ctx context.Context, name string) (election.Leader, error)
	Observe(ctx context.Context, name string) (<-chan election.View, error)

	Register(ctx context.Context, group string, m membership.Member) (Registration, error)
	Roster(ctx context.Context, group string) (membership.Roster, error)
	Groups(ctx context.Context, prefix string) ([]string, error)
	WatchMembers(ctx context.Context, group string) <-chan membership.Event

	// Reader is the store for reads; Writer that of the session.
	Reader() Reader
	Writer(ctx context.Context) (Writer, error)

	// Close ends the session, if there is one, and everything else.
	Close(ctx context.Context) error
}

// Registration is a member of the session.
type Registration interface {
	ID() string
	Leave(ctx context.Context) error
}

// Reader reads keys.
type Reader interface {
	Get(ctx context.Context, key string, opts ...kv.ReadOption) (kv.Entry, error)
	List(ctx context.Context, prefix string, opts ...kv.ListOption) (kv.Page, error)
	Watch(ctx context.Context, req kv.WatchRequest) <-chan kv.Batch
}

// Writer writes keys exactly once.
type Writer interface {
	Put(ctx context.Context, key string, value []byte, opts ...kv.WriteOption) (int64, error)
	CompareAndSet(ctx context.Context, key string, expect int64, value []byte, opts ...kv.WriteOption) (int64, error)
	Delete(ctx context.Context, key string, opts ...kv.WriteOption) (kv.Deleted, error)
}

// Open connects.
func Open(ctx context.Context, cfg Config) (Backend, error) {
	if cfg.Engine != "" {
		return openDirect(ctx, cfg)
	}
	c, err := Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &remote{c: c, cfg: cfg}, nil
}

// Dial connects to nodes only, for what an etcd cluster alone does not have.
func Dial(ctx context.Context, cfg Config) (*client.Client, error) {
	cc := client.Config{Endpoints: cfg.Endpoints, Token: cfg.Token}
	if cfg.TLS != (cert.Files{}) {
		t, err := cfg.TLS.Client()
		if err != nil {
			return nil, &holdfast.Error{Op: "dial", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
		}
		cc.TLS = t
	}
	return client.Dial(ctx, cc)
}

// unopened is the error of a session that could not be opened: what was asked
// for has not been begun, even if nobody can tell what became of the session.
func unopened(err error) error {
	return &holdfast.Error{Op: "open session", Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: inner(err)}
}

// inner takes off the outer words of an error that has others now.
func inner(err error) error {
	if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Key == "" && e.Err != nil {
		return e.Err
	}
	return err
}

// closing bounds how long Close tries to tell the quorum.
const closing = 2 * time.Second
