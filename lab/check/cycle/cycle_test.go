package cycle_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast.dev/lab/check/cycle"
)

var every = cycle.Of(cycle.WW, cycle.WR, cycle.RW, cycle.Process, cycle.Realtime)

// random is a graph of n nodes, of which the last few are auxiliary: those lead
// upwards only among themselves.
func random(rnd *rand.Rand, n, proper, edges int) (*cycle.Graph, []cycle.Edge) {
	var b cycle.Builder
	var all []cycle.Edge
	for i := range edges {
		e := cycle.Edge{From: rnd.Int32N(int32(n)), To: rnd.Int32N(int32(n)), Kind: cycle.Kind(rnd.IntN(5)), About: int32(i)}
		if int(e.From) >= proper {
			if e.Kind = cycle.Pass; int(e.To) >= proper && e.To <= e.From {
				continue
			}
		}
		b.Add(e)
		if e.From != e.To {
			all = append(all, e)
		}
	}
	return b.Build(n, proper), all
}

// walks says from which nodes a walk under the rule leads back, and over which
// nodes. It is the closure of states, the slow way.
func walks(n int, edges []cycle.Edge, r cycle.Rule) (on []bool, common func(a, b int) bool) {
	m := 2 * n
	reach := make([][]bool, m)
	for i := range reach {
		reach[i] = make([]bool, m)
	}
	has := func(k cycle.Kind) bool { return r.Kinds>>k&1 == 1 }
	for _, e := range edges {
		if !has(e.Kind) {
			continue
		}
		for s := range 2 {
			to := 0
			switch {
			case !r.Apart:
			case e.Kind == cycle.RW && s == 1:
				continue
			case e.Kind == cycle.RW:
				to = 1
			case e.Kind == cycle.Pass:
				to = s
			}
			if !r.Apart && s == 1 {
				continue
			}
			reach[2*int(e.From)+s][2*int(e.To)+to] = true
		}
	}
	for k := range m {
		for i := range m {
			for j := range m {
				reach[i][j] = reach[i][j] || reach[i][k] && reach[k][j]
			}
		}
	}
	on = make([]bool, n)
	for i := range m {
		on[i/2] = on[i/2] || reach[i][i]
	}
	return on, func(a, b int) bool {
		for s := range 4 {
			if x, y := 2*a+s&1, 2*b+s>>1; reach[x][y] && reach[y][x] {
				return true
			}
		}
		return false
	}
}

func TestComponents(t *testing.T) {
	cyclic := 0
	for seed := range uint64(4000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n := 2 + rnd.IntN(9)
		proper := max(1, n-rnd.IntN(4))
		g, edges := random(rnd, n, proper, rnd.IntN(2*n+1))
		if g.Nodes() != n || g.Edges() != len(edges) {
			t.Fatal(g.Nodes(), g.Edges())
		}
		s := cycle.NewSearch(g)
		for _, r := range []cycle.Rule{{Kinds: every}, {Kinds: cycle.Of(cycle.WW, cycle.WR)}, {Kinds: every, Apart: true}, {Kinds: cycle.Of(cycle.RW)}} {
			parts, err := s.Components(t.Context(), r, nil)
			if err != nil {
				t.Fatal(err)
			}
			on, common := walks(n, edges, r)
			got := make([]bool, n)
			for _, p := range parts {
				if !slices.IsSorted(p) {
					t.Fatal(p)
				}
				for _, a := range p {
					got[a] = true
					if !r.Apart && !common(int(a), int(p[0])) {
						t.Fatalf("seed %d: %v is no component of %v", seed, p, edges)
					}
				}
			}
			if !slices.Equal(got, on) {
				t.Fatalf("seed %d, %+v: on cycles are %v, want %v\n%v", seed, r, got, on, edges)
			}
			if len(parts) > 0 {
				cyclic++
			}
			for _, p := range parts {
				again, err := s.Components(t.Context(), r, p)
				if err != nil || len(again) == 0 || !r.Apart && (len(again) != 1 || !slices.Equal(again[0], p)) {
					t.Fatalf("seed %d: within %v: %v, %v", seed, p, again, err)
				}
			}
		}
	}
	if cyclic < 1000 {
		t.Errorf("only %d graphs with cycles", cyclic)
	}
}

// shortest is the length of a shortest closed walk that begins with a kind and
// goes on under the rule: by trying all walks, one step longer at a time.
func shortest(proper int, edges []cycle.Edge, first cycle.Kind, r cycle.Rule) int {
	has := func(k cycle.Kind) bool { return r.Kinds>>k&1 == 1 }
	type state struct {
		node int32
		rw   bool
	}
	best := 1 << 30
	for _, e := range edges {
		if e.Kind != first || int(e.From) >= proper {
			continue
		}
		dist := map[state]int{{e.To, r.Apart && first == cycle.RW}: 1}
		for changed := true; changed; {
			changed = false
			for _, e := range edges {
				if !has(e.Kind) {
					continue
				}
				for _, rw := range []bool{false, true} {
					d, ok := dist[state{e.From, rw}]
					if !ok {
						continue
					}
					next := state{e.To, false}
					if r.Apart {
						if e.Kind == cycle.RW && rw {
							continue
						}
						next.rw = e.Kind == cycle.RW || e.Kind == cycle.Pass && rw
					}
					if int(e.From) < proper {
						d++
					}
					if old, ok := dist[next]; !ok || d < old {
						dist[next], changed = d, true
					}
				}
			}
		}
		if d, ok := dist[state{e.From, false}]; ok {
			best = min(best, d)
		}
	}
	return best
}

func TestCycle(t *testing.T) {
	found := 0
	for seed := range uint64(4000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		n := 2 + rnd.IntN(9)
		proper := max(1, n-rnd.IntN(4))
		g, edges := random(rnd, n, proper, rnd.IntN(3*n+1))
		s := cycle.NewSearch(g)
		var all []int32
		for i := range int32(n) {
			all = append(all, i)
		}
		for _, try := range []struct {
			first cycle.Kind
			rule  cycle.Rule
		}{
			{cycle.WW, cycle.Rule{Kinds: every}},
			{cycle.RW, cycle.Rule{Kinds: cycle.Of(cycle.WW, cycle.WR)}},
			{cycle.RW, cycle.Rule{Kinds: every, Apart: true}},
		} {
			want := shortest(proper, edges, try.first, try.rule)
			if want == 1 {
				continue // through auxiliary nodes back to itself: such graphs are not made
			}
			c, ok := s.Cycle(t.Context(), try.first, try.rule, all)
			if ok != (want < 1<<30) {
				t.Fatalf("seed %d: found %v of length %d in %v", seed, c, want, edges)
			}
			if !ok {
				continue
			}
			found++
			got := 0
			for i, e := range c {
				if !slices.Contains(edges, e) || c[(i+1)%len(c)].From != e.To {
					t.Fatalf("seed %d: %v is no walk in %v", seed, c, edges)
				}
				if int(e.From) < proper {
					got++
				}
			}
			if c[0].Kind != try.first || got != want {
				t.Fatalf("seed %d: %v has the length %d, want %d in %v", seed, c, got, want, edges)
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d cycles", found)
	}
}

func TestStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b cycle.Builder
	const n = 100_000
	b.Grow(n)
	for i := range int32(n) {
		b.Add(cycle.Edge{From: i, To: (i + 1) % n, Kind: cycle.WW})
	}
	s := cycle.NewSearch(b.Build(n, n))
	if _, err := s.Components(ctx, cycle.Rule{Kinds: every}, nil); err == nil {
		t.Error("it went on")
	}
	parts, err := s.Components(t.Context(), cycle.Rule{Kinds: every}, nil)
	if err != nil || len(parts) != 1 || len(parts[0]) != n {
		t.Fatal(len(parts), err)
	}
}

func ExampleSearch_Cycle() {
	var b cycle.Builder
	b.Add(cycle.Edge{From: 0, To: 1, Kind: cycle.WR})
	b.Add(cycle.Edge{From: 1, To: 0, Kind: cycle.RW})
	s := cycle.NewSearch(b.Build(2, 2))
	parts, _ := s.Components(context.Background(), cycle.Rule{Kinds: cycle.Of(cycle.WR, cycle.RW)}, nil)
	c, _ := s.Cycle(context.Background(), cycle.RW, cycle.Rule{Kinds: cycle.Of(cycle.WR)}, parts[0])
	fmt.Println(c)
	// Output: [{1 0 2 0} {0 1 1 0}]
}
