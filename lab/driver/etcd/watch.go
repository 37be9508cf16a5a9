package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

type keyValue = mvccpb.KeyValue

// watch writes keys and watches all of them.
func watch(ctx context.Context, m *member, op history.Op) history.Op {
	const prefix = "watch/"
	switch op.F {
	case "put":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, rev, err := m.put(ctx, prefix+op.Key, text)
		return call.End(op, map[string]any{"rev": rev}, err, certain)
	case "delete":
		certain, rev, err := m.remove(ctx, prefix+op.Key)
		return call.End(op, map[string]any{"rev": rev}, err, certain)
	case "watch":
		from, length, err := window(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		ctx, cancel := context.WithTimeout(ctx, length)
		defer cancel()
		events, why := m.events(ctx, prefix, from)
		if len(events) == 0 && ctx.Err() == nil {
			return call.Fail(op, why)
		}
		return call.OK(op, events) // also when the stream broke behind them: they are what was seen
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

// events collects what a watch delivers until ctx ends or the stream does, and
// says why it ended.
func (m *member) events(ctx context.Context, prefix string, from int64) (events []any, why error) {
	out := []any{} // none is not nil
	stream, err := m.watcher.Watch(ctx)
	if err != nil {
		return out, err
	}
	create := &etcdserverpb.WatchCreateRequest{StartRevision: from}
	create.Key, create.RangeEnd = span(prefix)
	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}})
	if err != nil && !errors.Is(err, io.EOF) { // after EOF, Recv has the reason
		return out, err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return out, err
		}
		if r.GetCanceled() || r.GetCompactRevision() != 0 {
			return out, fmt.Errorf("watch was cancelled (compacted at %d): %s", r.GetCompactRevision(), r.GetCancelReason())
		}
		for _, ev := range r.GetEvents() {
			e := map[string]any{
				"rev": ev.GetKv().GetModRevision(), "key": strings.TrimPrefix(string(ev.GetKv().GetKey()), prefix),
				"type": "put", "value": nil,
			}
			if ev.GetType() == mvccpb.Event_DELETE {
				e["type"] = "delete"
			} else if e["value"], err = call.Decode(string(ev.GetKv().GetValue())); err != nil {
				return out, err
			}
			out = append(out, e)
		}
	}
}
