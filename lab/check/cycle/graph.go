package cycle

// Kind says why one node must come before another.
type Kind uint8

// The kinds of edges: dependencies in Adya's sense, orders that clients saw, and
// the inner steps of a path through auxiliary nodes.
const (
	WW       Kind = iota // it overwrote what the other wrote
	WR                   // it read what the other wrote
	RW                   // the other overwrote what it read: an anti-dependency
	Process              // the same process did one after the other
	Realtime             // one had ended when the other began
	Pass                 // goes on with the kind of the edge that led to it
)

// Kinds is a set of kinds.
type Kinds uint8

// Of is the set of some kinds. Pass always belongs to it.
func Of(kinds ...Kind) Kinds {
	s := Kinds(1 << Pass)
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

// With is the set and all of another.
func (s Kinds) With(other Kinds) Kinds { return s | other }

func (s Kinds) has(k Kind) bool { return s>>k&1 == 1 }

// Edge leads from a node to another.
type Edge struct {
	From, To int32
	Kind     Kind
	About    int32 // the caller's: what the edge is about
}

// Builder collects edges. The zero value is empty.
type Builder struct {
	from, to, about []int32
	kind            []Kind
}

// Add adds an edge. An edge from a node to itself is left out.
func (b *Builder) Add(e Edge) {
	if e.From == e.To {
		return
	}
	b.from = append(b.from, e.From)
	b.to = append(b.to, e.To)
	b.kind = append(b.kind, e.Kind)
	b.about = append(b.about, e.About)
}

// Grow makes room for n further edges.
func (b *Builder) Grow(n int) {
	grow := func(s []int32) []int32 { return append(make([]int32, 0, len(s)+n), s...) }
	b.from, b.to, b.about = grow(b.from), grow(b.to), grow(b.about)
	b.kind = append(make([]Kind, 0, len(b.kind)+n), b.kind...)
}

// Build makes the graph. Nodes are the numbers from 0 below nodes; those from
// proper on are auxiliary: steps to them cost something, steps from them nothing.
func (b *Builder) Build(nodes, proper int) *Graph {
	g := &Graph{
		proper: int32(proper),
		start:  make([]int32, nodes+1),
		to:     make([]int32, len(b.to)),
		about:  make([]int32, len(b.to)),
		kind:   make([]Kind, len(b.to)),
	}
	for _, f := range b.from {
		g.start[f+1]++
	}
	for i := range nodes {
		g.start[i+1] += g.start[i]
	}
	next := make([]int32, nodes)
	copy(next, g.start)
	for i, f := range b.from {
		at := next[f]
		next[f]++
		g.to[at], g.kind[at], g.about[at] = b.to[i], b.kind[i], b.about[i]
	}
	return g
}

// Graph is a directed graph, immutable. The edges of a node keep the order in
// which they were added, so that everything found in it is the same each time.
type Graph struct {
	proper    int32
	start     []int32 // node → its first edge
	to, about []int32
	kind      []Kind
}

// Nodes and Edges are how many there are.
func (g *Graph) Nodes() int { return len(g.start) - 1 }

// Edges is how many edges there are.
func (g *Graph) Edges() int { return len(g.to) }

// Rule says which walks count: those over edges of some kinds, and with Apart
// only those in which no RW follows an RW, not even from the last to the first.
type Rule struct {
	Kinds Kinds
	Apart bool
}

// Under Apart the search is for cycles over states: a node, and whether the last edge
// that led there was an RW. State 2n is node n after another edge, 2n+1 after an RW.

// step is the state that an edge leads to.
func (r Rule) step(state int32, k Kind, to int32) (int32, bool) {
	switch {
	case !r.Kinds.has(k):
		return 0, false
	case !r.Apart:
		return to, true
	case k == RW:
		return 2*to + 1, state&1 == 0
	case k == Pass:
		return 2*to + state&1, true
	default:
		return 2 * to, true
	}
}

func (r Rule) node(state int32) int32 {
	if r.Apart {
		return state >> 1
	}
	return state
}

func (r Rule) states(nodes int) int {
	if r.Apart {
		return 2 * nodes
	}
	return nodes
}
