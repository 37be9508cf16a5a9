package nemesis

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lab is a nemesis in a fake world, with its journal.
type lab struct {
	*Nemesis
	world *fakeWorld

	mu     sync.Mutex
	events []Event
}

func newLab(nodes, clients int) *lab {
	l := &lab{world: newWorld(nodes, clients)}
	l.Nemesis = New(l.world, Config{Seed: 7, Journal: func(e Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
	}})
	return l
}

func (l *lab) journal() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := make([]string, len(l.events))
	for i, e := range l.events {
		lines[i] = strings.TrimSpace(fmt.Sprintf("%v #%d %s %s", e.At, e.ID, e.Phase, e.Detail))
	}
	return lines
}

func (l *lab) inject(t *testing.T, text string) *Active {
	t.Helper()
	a, err := l.Inject(t.Context(), MustParse(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestLifeOfAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(3, 0)
		a := l.inject(t, "net cut n1|n2,n3 for 5s")
		if len(l.Active()) != 1 {
			t.Errorf("%d faults are active", len(l.Active()))
		}
		<-a.Done()
		equal(t, "journal", l.journal(), []string{
			"0s #1 inject",
			"200ms #1 verified touched 10 frames",
			"5s #1 recover",
			"5s #1 recovered touched 10 frames",
		})
		r := a.Record()
		if r.From != 0 || r.To != 5*time.Second || !r.Recovered || r.Err != "" || r.Effect.Count != 10 || !slices.Equal(r.Hosts, []string{"n1"}) {
			t.Errorf("record %+v", r)
		}
		if len(l.Active()) != 0 || len(l.Records()) != 1 {
			t.Errorf("active %v, records %v", l.Active(), l.Records())
		}
		if err := a.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		l.world.whole(t)
	})
}
