package election_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// state is one election at some revision. The zero token is nobody.
type state struct {
	revision int64
	session  engine.SessionID
	token    holdfast.Token
	value    string
	at       time.Duration // when it was noted
}

// same says whether two states say the same of who leads.
func (a state) same(b state) bool {
	return a.revision == b.revision && a.session == b.session && a.token == b.token && a.value == b.value
}

func (a state) String() string {
	if a.token == 0 {
		return fmt.Sprintf("nobody at %d", a.revision)
	}
	return fmt.Sprintf("session %v, token %v, %q at %d", a.session, a.token, a.value, a.revision)
}

// sight is what one observer saw of one election.
type sight struct {
	who, name string
	states    []state
}

// watch notes the truth, and what observers are told.
func (s *simulation) watch(ctx context.Context) {
	s.storm, s.calm = context.WithCancel(ctx)
	defer s.calm()
	var wg sync.WaitGroup
	wg.Go(func() { s.record(ctx) })
	for i := range uint64(2) {
		wg.Go(func() { s.observe(ctx, i) })
	}
	wg.Wait()
}

// record notes every state of every election, and when sessions end, from the
// engine itself.
func (s *simulation) record(ctx context.Context) {
	sessions, _ := engine.SessionRange()
	for b := range s.Store.Watch(ctx, engine.WatchRequest{Key: "\x00", End: engine.PrefixEnd(""), Revision: 1}) {
		if b.Err != nil {
			s.Failf("the recorder's watch: %v", b.Err)
		}
		s.mu.Lock()
		for _, ev := range b.Events {
			if id, err := engine.ParseSessionID(strings.TrimPrefix(ev.KV.Key, sessions)); err == nil && ev.Deleted {
				s.ends[id] = ev.KV.ModRevision
			}
			if name, ok := strings.CutPrefix(ev.KV.Key, "election/r/"); ok {
				st := stateOf(ev)
				st.at = s.Now()
				s.truth[name] = append(s.truth[name], st)
			}
		}
		s.mu.Unlock()
	}
}

// stateOf reads what is stored without the code that stores it.
func stateOf(ev engine.Event) state {
	st := state{revision: ev.KV.ModRevision}
	var rec struct {
		Holders []struct {
			Session string `json:"session"`
			Value   []byte `json:"value"`
			Granted int64  `json:"rev"`
			Waits   bool   `json:"waits"`
		} `json:"holders"`
	}
	if ev.Deleted || json.Unmarshal(ev.KV.Value, &rec) != nil || len(rec.Holders) == 0 || rec.Holders[0].Waits {
		return st
	}
	h := rec.Holders[0]
	st.session, _ = engine.ParseSessionID(h.Session)
	if st.value = string(h.Value); h.Granted == 0 {
		h.Granted = ev.KV.ModRevision
	}
	st.token = holdfast.NewToken(1, h.Granted)
	return st
}

// observe is one observer of both elections over a network that is cut now and
// then, but never for as long as an observation has to start over.
func (s *simulation) observe(ctx context.Context, i uint64) {
	rng := rand.New(rand.NewPCG(s.Seed, 500+i))
	net := engine.Faulty(s.Store, engine.FaultConfig{Seed: rng.Uint64(), LoseRequest: 0.02, LoseResponse: 0.03, DelayP: 0.2, Delay: 500 * time.Millisecond})
	var e engine.Engine = net
	if s.blind != nil {
		e = s.blind(e)
	}
	session, err := engine.OpenSession(ctx, e, engine.SessionConfig{TTL: simtest.SessionTTL})
	if err != nil {
		s.Failf("observer %d: %v", i, err)
		return
	}
	m := election.New(session, election.Config{})
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			seen := sight{who: fmt.Sprint("observer ", i), name: name}
			for v := range m.Observe(ctx, name) {
				st := state{revision: v.Revision, at: s.Now()}
				if v.Leader != nil {
					st.session, st.token, st.value = v.Leader.Session, v.Leader.Token, string(v.Leader.Value)
				}
				seen.states = append(seen.states, st)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen = append(s.seen, seen)
		})
	}
	for simtest.Doze(s.storm, time.Second+simtest.UpTo(rng, 8*time.Second)) { //nolint:contextcheck // the storm is over before ctx is
		net.Cut(true)
		simtest.Doze(s.storm, simtest.UpTo(rng, 3*time.Second)) //nolint:contextcheck // the storm is over before ctx is
		net.Cut(false)
	}
	wg.Wait()
	m.Close()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := errors.Join(session.Close(bye), net.Close()); err != nil && holdfast.CodeOf(err) != holdfast.CodeLost {
		s.Failf("observer %d: %v", i, err)
	}
}
