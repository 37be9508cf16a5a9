package cycle

import (
	"context"
	"slices"
)

// Search finds cycles in a graph. It keeps memory for the next search, and is
// not for several goroutines at once.
type Search struct {
	g *Graph

	// Of Tarjan's algorithm, by state.
	index, low []int32
	stack      []int32
	calls      []frame

	// Of the walk for a cycle, by state: the edge that led there, and in which walk.
	via, seen []int32
	from      []int32
	walk      int32

	in   []int32 // node → the component that it was said to be in
	part int32

	limit int // of edges to look at for one cycle
}

type frame struct{ state, edge int32 }

// NewSearch returns a search in g.
func NewSearch(g *Graph) *Search {
	return &Search{g: g, limit: 2_000_000}
}

const (
	ctxEvery = 1 << 16
	done     = 1<<31 - 1
)

// Components are the sets of nodes that lie on common cycles under a rule, each
// in ascending order, auxiliary ones included, by their first node. Where within
// is not nil, only its nodes are looked at.
func (s *Search) Components(ctx context.Context, r Rule, within []int32) ([][]int32, error) {
	g := s.g
	states := r.states(g.Nodes())
	s.index, s.low = sized(s.index, states), sized(s.low, states)
	s.restrict(within)
	var parts [][]int32
	var next int32
	steps := 0
	visit := func(root int32) error {
		if s.index[root] != 0 {
			return nil
		}
		next++
		s.index[root], s.low[root] = next, next
		s.stack = append(s.stack[:0], root)
		s.calls = append(s.calls[:0], frame{root, g.start[r.node(root)]})
		for len(s.calls) > 0 {
			if steps++; steps%ctxEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			f := &s.calls[len(s.calls)-1]
			v := f.state
			if f.edge < g.start[r.node(v)+1] {
				e := f.edge
				f.edge++
				to := g.to[e]
				if within != nil && s.in[to] != s.part {
					continue
				}
				w, ok := r.step(v, g.kind[e], to)
				switch {
				case !ok:
				case s.index[w] == 0:
					next++
					s.index[w], s.low[w] = next, next
					s.stack = append(s.stack, w)
					s.calls = append(s.calls, frame{w, g.start[to]})
				case s.low[w] != done:
					s.low[v] = min(s.low[v], s.index[w])
				}
				continue
			}
			s.calls = s.calls[:len(s.calls)-1]
			if n := len(s.calls); n > 0 {
				if p := s.calls[n-1].state; s.low[v] < s.low[p] {
					s.low[p] = s.low[v]
				}
			}
			if s.low[v] != s.index[v] {
				continue
			}
			n := len(s.stack) - 1
			for s.stack[n] != v {
				n--
			}
			if len(s.stack)-n > 1 {
				part := make([]int32, 0, len(s.stack)-n)
				for _, w := range s.stack[n:] {
					part = append(part, r.node(w))
				}
				slices.Sort(part)
				parts = append(parts, slices.Compact(part))
			}
			for _, w := range s.stack[n:] {
				s.low[w] = done
			}
			s.stack = s.stack[:n]
		}
		return nil
	}
	each := func(node int32) error {
		if !r.Apart {
			return visit(node)
		}
		if err := visit(2 * node); err != nil {
			return err
		}
		return visit(2*node + 1)
	}
	if within != nil {
		for _, n := range within {
			if err := each(n); err != nil {
				return nil, err
			}
		}
	} else {
		for n := range int32(g.Nodes()) {
			if err := each(n); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(parts, func(a, b []int32) int { return int(a[0]) - int(b[0]) })
	return parts, nil
}

// restrict marks the nodes that may be used.
func (s *Search) restrict(within []int32) {
	if within == nil {
		return
	}
	if len(s.in) < s.g.Nodes() {
		s.in = make([]int32, s.g.Nodes())
	}
	s.part++
	for _, n := range within {
		s.in[n] = s.part
	}
}

// Cycle is a short cycle within a set of nodes that begins with an edge of the
// kind first, and goes on under the rule r. It is a shortest one, not counting
// auxiliary nodes, unless the search ended before it had tried all beginnings. A cycle
// under an Apart rule may come to a node more than once. Where the rule lets first
// be followed by everything, and within is a component under it that has such an
// edge, one is found.
func (s *Search) Cycle(ctx context.Context, first Kind, r Rule, within []int32) ([]Edge, bool) {
	g := s.g
	if len(s.seen) < 2*g.Nodes() {
		s.seen, s.via, s.from = make([]int32, 2*g.Nodes()), make([]int32, 2*g.Nodes()), make([]int32, 2*g.Nodes())
	}
	s.restrict(within)
	var best []Edge
	length := int(1) << 30
	budget := s.limit
	for _, a := range within {
		if a >= g.proper {
			continue
		}
		for e := g.start[a]; e < g.start[a+1]; e++ {
			if g.kind[e] != first || s.in[g.to[e]] != s.part {
				continue
			}
			begin, goal := g.to[e], a
			if r.Apart {
				begin, goal = 2*g.to[e], 2*a
				if first == RW {
					begin++
				}
			}
			found, steps := s.back(r, begin, goal, length-1)
			if budget -= steps; found >= 0 {
				length = found + 1
				best = s.path(r, Edge{a, g.to[e], first, g.about[e]}, begin, goal)
			}
			if length <= 2 || best != nil && budget <= 0 || ctx.Err() != nil || budget <= -50*s.limit {
				return best, best != nil
			}
		}
	}
	return best, best != nil
}

// back walks from a state to another, and returns how many steps it took, -1 if
// it did not get there in fewer than most. Steps from auxiliary nodes cost nothing.
func (s *Search) back(r Rule, begin, goal int32, most int) (length, steps int) {
	s.walk++
	g := s.g
	s.seen[begin] = s.walk
	s.via[begin] = -1
	var now, next level
	now.add(begin, r.node(begin) >= g.proper)
	for d := 0; d < most && !now.empty(); d++ {
		// All auxiliary nodes of a level go first: what they lead to belongs to it.
		for i := 0; i < len(now.auxiliary)+len(now.proper); i++ {
			var v int32
			free := i < len(now.auxiliary)
			if free {
				v = now.auxiliary[i]
			} else {
				v = now.proper[i-len(now.auxiliary)]
			}
			if v == goal {
				return d, steps
			}
			to := &next
			if free {
				to = &now
			}
			steps += s.expand(r, v, to)
		}
		now, next = next, level{now.auxiliary[:0], now.proper[:0]}
	}
	return -1, steps
}

// level is the states that are equally far from the beginning of a walk.
type level struct{ auxiliary, proper []int32 }

func (l *level) add(state int32, auxiliary bool) {
	if auxiliary {
		l.auxiliary = append(l.auxiliary, state)
	} else {
		l.proper = append(l.proper, state)
	}
}

func (l *level) empty() bool { return len(l.auxiliary)+len(l.proper) == 0 }

// expand adds the states next to one that were not seen yet.
func (s *Search) expand(r Rule, v int32, next *level) (steps int) {
	g := s.g
	node := r.node(v)
	for e := g.start[node]; e < g.start[node+1]; e++ {
		steps++
		to := g.to[e]
		if s.in[to] != s.part {
			continue
		}
		w, ok := r.step(v, g.kind[e], to)
		if !ok || s.seen[w] == s.walk {
			continue
		}
		s.seen[w], s.via[w], s.from[w] = s.walk, e, v
		next.add(w, to >= g.proper)
	}
	return steps
}

func (s *Search) path(r Rule, first Edge, begin, goal int32) []Edge {
	var back []Edge
	for v := goal; v != begin; v = s.from[v] {
		e := s.via[v]
		back = append(back, Edge{r.node(s.from[v]), s.g.to[e], s.g.kind[e], s.g.about[e]})
	}
	back = append(back, first)
	slices.Reverse(back)
	return back
}

// sized is s with n zeros.
func sized(s []int32, n int) []int32 {
	if cap(s) < n {
		return make([]int32, n)
	}
	s = s[:n]
	clear(s)
	return s
}
