package lock_test

import (
	"context"
	"testing"
	"testing/synctest"

	"holdfast.dev/engine"
)

func TestInspect_ShowsWaitersOfTheHoldersProcess(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a := open(e)
		h := acquire(t, a, "x")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			if w, err := a.Acquire(ctx, "x"); err == nil {
				t.Errorf("granted %v while held", w.Token())
			}
		}()
		synctest.Wait()
		info, err := a.Inspect(t.Context(), "x")
		if err != nil || len(info.Holders) != 1 || len(info.Waiters) != 1 || info.Waiters[0].Session != a.session.ID() {
			t.Errorf("inspect: %+v, %v", info, err)
		}
		infos, err := a.List(t.Context(), "", "", 10)
		if err != nil || len(infos) != 1 || len(infos[0].Waiters) != 1 {
			t.Errorf("list: %+v, %v", infos, err)
		}
		cancel()
		synctest.Wait()
		release(t, h)
	})
}
