package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
)

// timed is one step with how long it took.
type timed struct {
	name string
	took time.Duration
	err  error
}

// samples is how many writes are timed: one slow one is no finding.
const samples = 5

// The names of the steps that judge looks at.
const (
	stepOpen  = "open session"
	stepWrite = "write"
	stepRead  = "read"
)

// transaction does once what clients do, each step under its own deadline. It
// ends at the first step that fails, but closes its session in any case.
func transaction(ctx context.Context, hc *http.Client, at string, cfg Config) (steps []timed) {
	var (
		sessions = holdfastv1connect.NewSessionServiceClient(hc, at)
		locks    = holdfastv1connect.NewLockServiceClient(hc, at)
		keys     = holdfastv1connect.NewKVServiceClient(hc, at)
		name     = cfg.Prefix + rand.Text()[:8]
		session  string
		token    uint64
		revision int64
	)
	step := func(ctx context.Context, name string, f func(context.Context) error) bool {
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
		start := time.Now()
		err := f(ctx)
		steps = append(steps, timed{name, time.Since(start), err})
		return err == nil
	}
	if !step(ctx, stepOpen, func(ctx context.Context) error {
		resp, err := sessions.Open(ctx, &v1.OpenRequest{Ttl: durationpb.New(2 * cfg.Timeout), Name: "holdfast doctor"})
		session = resp.GetSession()
		return err
	}) {
		return steps
	}
	defer func() { // also when ctx has ended: what the session holds goes with it
		step(context.WithoutCancel(ctx), "close session", func(ctx context.Context) error {
			_, err := sessions.Close(ctx, &v1.CloseRequest{Session: session})
			return err
		})
	}()
	if !step(ctx, "acquire lock", func(ctx context.Context) error {
		resp, err := locks.Acquire(ctx, &v1.AcquireRequest{Session: session, Name: name, Wait: durationpb.New(cfg.Timeout), Note: "holdfast doctor"})
		token = resp.GetToken()
		return err
	}) {
		return steps
	}
	put := func(ctx context.Context) error {
		resp, err := keys.Put(ctx, &v1.PutRequest{
			Key: name, Content: &v1.PutRequest_Text{Text: "1"}, Session: session,
		})
		revision = resp.GetRevision()
		return err
	}
	for range samples {
		if !step(ctx, stepWrite, put) {
			return steps
		}
	}
	if !step(ctx, stepRead, func(ctx context.Context) error {
		resp, err := keys.Get(ctx, &v1.KVServiceGetRequest{Key: name})
		if err == nil && (resp.GetEntry().GetRevision() != revision || resp.GetEntry().GetText() != "1") {
			return fmt.Errorf("read revision %d after revision %d was written: it is not linearizable", resp.GetEntry().GetRevision(), revision)
		}
		return err
	}) {
		return steps
	}
	if !step(ctx, "compare and set", func(ctx context.Context) error {
		resp, err := keys.CompareAndSet(ctx, &v1.CompareAndSetRequest{
			Key: name, Expect: revision, Content: &v1.CompareAndSetRequest_Text{Text: "2"}, Session: session,
		})
		if err == nil && resp.GetRevision() <= revision {
			return fmt.Errorf("revision %d after revision %d", resp.GetRevision(), revision)
		}
		return err
	}) {
		return steps
	}
	if !step(ctx, "watch", func(ctx context.Context) error { return watch(ctx, keys, name, revision) }) {
		return steps
	}
	if !step(ctx, "delete", func(ctx context.Context) error {
		resp, err := keys.Delete(ctx, &v1.DeleteRequest{Key: name})
		if err == nil && !resp.GetExisted() {
			return errors.New("the key is gone already")
		}
		return err
	}) {
		return steps
	}
	step(ctx, "release lock", func(ctx context.Context) error {
		resp, err := locks.Get(ctx, &v1.LockServiceGetRequest{Name: name})
		if err != nil {
			return err
		}
		mine := func(h *v1.LockHolder) bool { return h.GetSession() == session && h.GetToken() == token }
		if !slices.ContainsFunc(resp.GetLock().GetHolders(), mine) {
			return errors.New("the lock was lost on the way")
		}
		_, err = locks.Release(ctx, &v1.ReleaseRequest{Session: session, Name: name})
		return err
	})
	return steps
}

// watch waits for the change that was made after revision.
func watch(ctx context.Context, keys holdfastv1connect.KVServiceClient, name string, revision int64) error {
	stream, err := keys.Watch(ctx, &v1.KVServiceWatchRequest{Key: name, From: revision + 1})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		if evs := stream.Msg().GetEvents(); len(evs) > 0 {
			if got := evs[0].GetEntry().GetText(); got != "2" {
				return fmt.Errorf("told of %q instead of the change that was made", got)
			}
			return nil
		}
	}
	return stream.Err()
}
