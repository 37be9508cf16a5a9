package engine

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestLifeline_StatesInOrder: who asks just when the session is lost does not
// tell of the loss before what came before it is told.
func TestLifeline_StatesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryConfig{})
		defer m.Close()
		var states []SessionState
		s, err := OpenSession(t.Context(), m, SessionConfig{TTL: 2 * time.Second, OnState: func(st SessionState) {
			if st == Jeopardy {
				<-time.After(time.Second) // as a slow process would
			}
			states = append(states, st)
		}})
		if err != nil {
			t.Fatal(err)
		}
		m.Outage(true)
		for s.Err() == nil {
			<-time.After(10 * time.Millisecond)
		}
		<-time.After(2 * time.Second)
		m.Outage(false)
		_ = s.Close(t.Context())
		if !slices.Equal(states, []SessionState{Jeopardy, Lost}) {
			t.Error(states)
		}
	})
}
