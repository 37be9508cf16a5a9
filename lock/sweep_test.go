package lock_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/engine"
	"holdfast.dev/lock"
)

func TestSweep_FreesTheLocksOfDeadSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		defer func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}()
		server, err := engine.OpenSession(t.Context(), e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := server.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		locks := lock.New(server, lock.Config{Sweep: true})
		defer locks.Close()
		dying, err := engine.OpenSession(t.Context(), e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := lock.New(dying, lock.Config{})
		for i := range 600 {
			acquire(t, client{elsewhere, dying}, fmt.Sprintf("job/%d", i))
		}
		acquire(t, client{locks, server}, "mine")
		elsewhere.Close()
		if err := dying.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.NewTimer(10 * time.Second).C
		infos, err := locks.List(t.Context(), "", "", 1000)
		if err != nil || len(infos) != 1 || infos[0].Name != "mine" {
			t.Errorf("%d locks are left, %v", len(infos), err)
		}
	})
}
