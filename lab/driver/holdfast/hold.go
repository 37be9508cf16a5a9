package holdfast

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/internal/call"
	"holdfast.dev/kv"
	"holdfast.dev/lab/history"
	"holdfast.dev/lock"
)

// openSoon opens a session if there is none, within the timeout.
func (c *connection) openSoon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.open(ctx)
}

var (
	errHeld = errors.New("this client holds it already")
	errNot  = errors.New("this client does not hold it")
)

// ended is how a call of a primitive ended.
func ended(op history.Op, value any, err error) history.Op {
	return call.End(op, value, err, holdfast.OutcomeOf(err) == holdfast.NotApplied)
}

// Lease implements driver.Lessee.
func (c *connection) Lease(name string) context.Context {
	if held := c.held[name]; c.obey && held != nil {
		return held.Context()
	}
	return nil
}

func locks(ctx context.Context, c *connection, op history.Op) history.Op {
	held := c.held[op.Key]
	switch op.F {
	case "acquire":
		if held != nil && held.Err() == nil {
			return call.Fail(op, errHeld)
		}
		if err := c.openSoon(ctx); err != nil {
			return call.Fail(op, err) // no lock was asked for
		}
		ctx, cancel := context.WithTimeout(ctx, c.wait+c.timeout)
		defer cancel()
		opts := []lock.Option{lock.WaitAtMost(c.wait)}
		if c.shared {
			opts = append(opts, lock.Shared())
		}
		h, err := c.session.Acquire(ctx, op.Key, opts...)
		if err != nil {
			return ended(op, nil, err)
		}
		c.held[op.Key] = h
		return call.OK(op, int64(h.Token()))
	case "release":
		if held == nil {
			return call.Fail(op, errNot)
		}
		delete(c.held, op.Key)
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return ended(op, op.Value, held.Release(ctx))
	}
	return call.Unknown(op)
}

func elections(ctx context.Context, c *connection, op history.Op) history.Op {
	term := c.terms[op.Key]
	switch op.F {
	case "campaign":
		if term != nil && term.Err() == nil {
			return call.Fail(op, errHeld)
		}
		if err := c.openSoon(ctx); err != nil {
			return call.Fail(op, err) // nobody stood for election
		}
		ctx, cancel := context.WithTimeout(ctx, c.wait)
		defer cancel()
		l, err := c.session.Campaign(ctx, op.Key, []byte(c.urls[0]))
		if err != nil {
			return ended(op, nil, err)
		}
		c.terms[op.Key] = l
		return call.OK(op, int64(l.Token()))
	case "resign":
		if term == nil {
			return call.Fail(op, errNot)
		}
		delete(c.terms, op.Key)
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return ended(op, op.Value, term.Resign(ctx))
	case "observe":
		return c.read(ctx, op, func(ctx context.Context, _ *client.KV) (any, error) {
			l, err := c.client.Leader(ctx, op.Key)
			if errors.Is(err, holdfast.ErrNotFound) {
				return nil, nil
			}
			return int64(l.Token), err
		})
	}
	return call.Unknown(op)
}

// watch writes keys and watches all of them.
func watch(ctx context.Context, c *connection, op history.Op) history.Op {
	const prefix = "watch/"
	switch op.F {
	case "put", "delete":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		rev, done := c.writeAt(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			if op.F == "put" {
				return s.Put(ctx, prefix+op.Key, []byte(text))
			}
			d, err := s.Delete(ctx, prefix+op.Key)
			return d.Revision, err
		})
		if done.Type == history.OK {
			done.Value = map[string]any{"rev": rev}
		}
		return done
	case "watch":
		from, length, err := window(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		ctx, cancel := context.WithTimeout(ctx, length)
		defer cancel()
		if err := c.dial(ctx); err != nil {
			return call.Fail(op, err)
		}
		events, err := events(c.client.KV().Watch(ctx, kv.WatchRequest{Prefix: prefix, From: from}), prefix)
		if err != nil && len(events) == 0 {
			return call.Fail(op, err)
		}
		return call.OK(op, events) // also when the watch ended behind them: they are what was seen
	}
	return call.Unknown(op)
}

// window reads {"from": revision, "for_ms": n}.
func window(v any) (from int64, length time.Duration, err error) {
	m, ok := v.(map[string]any)
	if !ok {
		return 0, 0, fmt.Errorf("value %v: want from and for_ms", v)
	}
	from, err = call.Int(m["from"])
	if err != nil {
		return 0, 0, err
	}
	ms, err := call.Int(m["for_ms"])
	return from, time.Duration(ms) * time.Millisecond, err
}

// events collects what a watch delivers until it ends.
func events(batches <-chan kv.Batch, prefix string) ([]any, error) {
	out := []any{} // none is not nil
	var failed error
	for b := range batches {
		if b.Err != nil {
			failed = b.Err
		}
		for _, ev := range b.Events {
			e := map[string]any{"rev": ev.Entry.Revision, "key": strings.TrimPrefix(ev.Entry.Key, prefix), "type": "put", "value": nil}
			if ev.Deleted {
				e["type"] = "delete"
			} else {
				v, err := call.Decode(string(ev.Entry.Value))
				if err != nil && failed == nil {
					failed = err
				}
				e["value"] = v
			}
			out = append(out, e)
		}
	}
	return out, failed
}
