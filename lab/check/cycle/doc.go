// Package cycle finds cycles in large graphs of transactions: nodes that each
// must come before the next, all the way round.
//
// # Use
//
//	var b cycle.Builder
//	b.Add(cycle.Edge{From: 0, To: 1, Kind: cycle.WR})
//	b.Add(cycle.Edge{From: 1, To: 0, Kind: cycle.RW})
//	g := b.Build(2, 2)
//	s := cycle.NewSearch(g)
//	parts, err := s.Components(ctx, cycle.Rule{Kinds: cycle.Of(cycle.WR, cycle.RW)}, nil)
//	c, found := s.Cycle(ctx, rule, cycle.RW, parts[0])
//
// # Promises
//
// Components are the strongly connected ones, by Tarjan's algorithm ("Depth-first
// search and linear graph algorithms", 1972), without recursion: time and memory
// are linear in nodes and edges, some 40 bytes for a node and 13 for an edge.
// There is a cycle under a rule if and only if there is a component. Everything
// is the same each time.
//
// # What you must do
//
// Use a Search from one goroutine. Auxiliary nodes stand for what many edges have
// in common; they must not lie on cycles of their own.
//
// # When it goes wrong
//
// Nothing but the context ends a search for components. That for a short cycle
// looks at so many edges and no more: in large components the cycle may not be the
// shortest.
//
// # Testing
//
// Against the transitive closure of small random graphs.
package cycle
