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
		defer func() { _ = m.Close() }()
		var states []SessionState
		s, err := OpenSession(t.Context(), m, SessionConfig{TTL: 2 * time.Second, OnState: func(st SessionState) {
			if st == Jeopardy {
				<-time.NewTimer(time.Second).C // as a slow process would
			}
			states = append(states, st)
		}})
		if err != nil {
			t.Fatal(err)
		}
		m.Outage(true)
		for s.Err() == nil {
			<-time.NewTimer(10 * time.Millisecond).C
		}
		<-time.NewTimer(2 * time.Second).C
		m.Outage(false)
		_ = s.Close(t.Context())
		if !slices.Equal(states, []SessionState{Jeopardy, Lost}) {
			t.Error(states)
		}
	})
}
