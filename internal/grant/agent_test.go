package grant

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/engine"
)

// TestAgent_HolderThatDiedBefore: the last write of a record may be younger than
// the death of its holder, and than all that the feed has heard of sessions.
func TestAgent_HolderThatDiedBefore(t *testing.T) {
	for _, c := range []struct {
		name    string
		granted int64 // revision in the record; 0: that of its last write
		within  time.Duration
	}{
		{"granted when the feed looked", 1, 100 * time.Millisecond},
		{"granted nobody knows when", 0, 3 * time.Second}, // the feed has to hear of progress
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewMemory(engine.MemoryConfig{})
				open := func() *engine.Session {
					s, err := engine.OpenSession(t.Context(), e, engine.SessionConfig{})
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				gone, s := open(), open()
				if err := gone.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				a := NewAgent(s, Config{Kind: "lock", Sweep: true})
				synctest.Wait()
				r := Record{Holders: []Claim{{Session: gone.ID(), Agent: gone.ID(), Request: "1", Mode: Exclusive, Granted: c.granted, Ready: true}}}
				value, err := r.encode()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := e.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put(a.key("x"), value)}}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.within)
				defer cancel()
				if _, err := a.Acquire(ctx, Ask{Owner: Owner{Session: s.ID(), Request: "1"}, Name: "x", Mode: Exclusive}); err != nil {
					t.Error(err)
				}
				a.Close()
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
