package nemesis

import (
	"fmt"
	"math/bits"
	"slices"
)

// The shapes of partitions, in Jepsen's words. Those but ShapePrimaries are
// drawn from a seed.
const (
	ShapeOne            = "one"             // one node | the others
	ShapeHalves         = "halves"          // as even as it goes
	ShapeMajority       = "majority"        // a majority | the others, at least one
	ShapeMajoritiesRing = "majorities-ring" // every node sees a majority, no two the same
	ShapeBridge         = "bridge"          // two sides, and one node that sees both
	ShapeMinorityThird  = "minority-third"  // less than a third | the others
	ShapePrimaries      = "primaries"       // every primary for itself | the others
)

var shapes = []string{ShapeOne, ShapeHalves, ShapeMajority, ShapeMajoritiesRing, ShapeBridge, ShapeMinorityThird, ShapePrimaries}

// shuffled is a copy of the hosts in an order drawn by d.
func shuffled(hosts []string, d *draw) []string {
	out := slices.Clone(hosts)
	for i := len(out) - 1; i > 0; i-- {
		j := d.below(i + 1)
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// inOrder sorts some hosts as they come in all of them; names that are not
// there come last.
func inOrder(some, all []string) []string {
	out := slices.Clone(some)
	slices.SortStableFunc(out, func(a, b string) int {
		return index(all, a) - index(all, b)
	})
	return out
}

func index(all []string, name string) int {
	if i := slices.Index(all, name); i >= 0 {
		return i
	}
	return len(all)
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(some, name) })
}

// groupsOf is the sides of a shape. A node in none of them sees all. The ring
// has no sides: see ring.
func groupsOf(shape string, nodes, primaries []string, d *draw) ([][]string, error) {
	n := len(nodes)
	split := func(size int) [][]string {
		first := inOrder(shuffled(nodes, d)[:size], nodes)
		return [][]string{first, without(nodes, first)}
	}
	least := func(k int) error {
		if n < k {
			return fmt.Errorf("partition %s: needs %d nodes, there are %d", shape, k, n)
		}
		return nil
	}
	switch shape {
	case ShapeOne:
		if err := least(2); err != nil {
			return nil, err
		}
		return split(1), nil
	case ShapeHalves:
		if err := least(2); err != nil {
			return nil, err
		}
		return split(n / 2), nil
	case ShapeMajority:
		if err := least(3); err != nil {
			return nil, err
		}
		most := n/2 + 1
		return split(most + d.below(n-most)), nil
	case ShapeMinorityThird:
		if err := least(4); err != nil {
			return nil, err
		}
		return split((n - 1) / 3), nil
	case ShapeBridge:
		if err := least(3); err != nil {
			return nil, err
		}
		order := shuffled(nodes, d)
		side := (n - 1) / 2
		return [][]string{inOrder(order[1:1+side], nodes), inOrder(order[1+side:], nodes)}, nil
	case ShapePrimaries:
		if len(primaries) == 0 {
			return nil, fmt.Errorf("partition %s: no node takes itself for the primary now", shape)
		}
		groups := make([][]string, 0, len(primaries)+1)
		for _, p := range primaries {
			groups = append(groups, []string{p})
		}
		if rest := without(nodes, primaries); len(rest) > 0 {
			groups = append(groups, rest)
		}
		if len(groups) < 2 {
			return nil, fmt.Errorf("partition %s: needs 2 nodes, there are %d", shape, n)
		}
		return groups, nil
	}
	return nil, fmt.Errorf("partition %s: no such shape", shape)
}

// ring is the links to cut so that every node sees a majority and no two the
// same one. Nodes stand on a ring in an order that is drawn. With both ways cut,
// each sees its neighbours up to half a majority on either side; three nodes
// become a chain, the only way there is. Cut one way, each receives from exactly
// a majority that begins with itself and goes round the ring.
func ring(nodes []string, oneway bool, d *draw) ([]term, error) {
	n := len(nodes)
	if n < 3 {
		return nil, fmt.Errorf("partition %s: needs 3 nodes, there are %d", ShapeMajoritiesRing, n)
	}
	order := shuffled(nodes, d)
	majority := n/2 + 1
	var cut []term
	if oneway {
		for i := range order {
			for step := majority; step < n; step++ {
				cut = append(cut, term{from: []string{order[(i+step)%n]}, way: '>', to: []string{order[i]}})
			}
		}
		return inTermOrder(cut, nodes), nil
	}
	if n == 3 {
		return inTermOrder([]term{{from: order[:1], way: '-', to: order[2:]}}, nodes), nil
	}
	reach := majority / 2
	for i := range order {
		for j := i + 1; j < n; j++ {
			if apart := min(j-i, n-j+i); apart > reach {
				cut = append(cut, term{from: order[i : i+1], way: '-', to: order[j : j+1]})
			}
		}
	}
	return inTermOrder(cut, nodes), nil
}

// inTermOrder puts links between single nodes into the order of the nodes.
func inTermOrder(terms []term, nodes []string) []term {
	for i, t := range terms {
		if t.way == '-' && index(nodes, t.from[0]) > index(nodes, t.to[0]) {
			terms[i].from, terms[i].to = t.to, t.from
		}
	}
	slices.SortFunc(terms, func(a, b term) int {
		if c := index(nodes, a.from[0]) - index(nodes, b.from[0]); c != 0 {
			return c
		}
		return index(nodes, a.to[0]) - index(nodes, b.to[0])
	})
	return terms
}

// outsiders is the nodes that are not in the largest set of nodes which all
// reach each other both ways while the links are cut; of equal sets the one
// with the earlier nodes counts.
func outsiders(nodes []string, cut map[Link]bool) []string {
	n := min(len(nodes), 16) // labs are small; the sets are counted out
	sees := make([]uint32, n)
	for i := range n {
		for j := range n {
			if i == j || !cut[Link{nodes[i], nodes[j]}] && !cut[Link{nodes[j], nodes[i]}] {
				sees[i] |= 1 << j
			}
		}
	}
	var best uint32
	for set := uint32(1); set < 1<<n; set++ {
		if bits.OnesCount32(set) < bits.OnesCount32(best) {
			continue
		}
		whole := true
		for i := range n {
			if set&(1<<i) != 0 && sees[i]&set != set {
				whole = false
				break
			}
		}
		earlier := bits.Reverse32(set) > bits.Reverse32(best)
		if whole && (bits.OnesCount32(set) > bits.OnesCount32(best) || earlier) {
			best = set
		}
	}
	var out []string
	for i := range n {
		if best&(1<<i) == 0 {
			out = append(out, nodes[i])
		}
	}
	return out
}
