package drivertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

// Count is how calls ended.
type Count struct{ OK, Fail, Info int }

// Audit adds elements to a set, by two clients at each node, while disturb does
// its worst, and reads the set at the end. What was acknowledged must be there,
// and what certainly did not happen must not: a driver that calls an unknown
// outcome a Fail is found out here.
func Audit(t *testing.T, s driver.System, env *Env, disturb func()) Count {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		mu    sync.Mutex
		ended = map[int64]history.Type{}
		next  int64
		all   sync.WaitGroup
	)
	for _, node := range env.Nodes() {
		for range 2 {
			all.Go(func() {
				pace := time.NewTicker(2 * time.Millisecond)
				defer pace.Stop()
				var c driver.Client
				for ctx.Err() == nil {
					<-pace.C
					if c == nil {
						var err error
						if c, err = s.Client(ctx, env, node, "set"); err != nil {
							t.Error(err)
							return
						}
					}
					mu.Lock()
					next++
					v := next
					mu.Unlock()
					op := c.Invoke(context.WithoutCancel(ctx), history.Op{Type: history.Invoke, F: "add", Value: v}) // it ends by its own timeout
					mu.Lock()
					ended[v] = op.Type
					mu.Unlock()
					if op.Type == history.Info { // as the lab does: who knows what its client is up to
						_ = c.Close()
						c = nil
					}
				}
				if c != nil {
					_ = c.Close()
				}
			})
		}
	}
	disturb()
	stop()
	all.Wait()

	there := map[int64]bool{}
	Until(t, "a final read", func() bool {
		nodes := env.Nodes()
		if f, ok := s.(driver.Finals); ok {
			var err error
			if nodes, err = f.FinalNodes(t.Context(), env); err != nil {
				return false
			}
		}
		c, err := s.Client(t.Context(), env, nodes[0], "set")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // it was only a read
		op := Invoke(t, c, "read", "", nil)
		list, ok := op.Value.([]any)
		if op.Type != history.OK || !ok {
			return false
		}
		for _, v := range list {
			n, _ := v.(int64) // anything else is missed below
			there[n] = true
		}
		return true
	})
	var count Count
	for v, how := range ended {
		switch how {
		case history.OK:
			count.OK++
			if !there[v] {
				t.Errorf("%d was acknowledged and is lost", v)
			}
		case history.Fail:
			count.Fail++
			if there[v] {
				t.Errorf("%d certainly did not happen and is there", v)
			}
		case history.Info:
			count.Info++
		case history.Invoke:
			t.Errorf("%d has not ended", v)
		}
	}
	if count.OK == 0 {
		t.Error("nothing was acknowledged")
	}
	return count
}

// For is how long a disturbance lasts.
func For(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}
