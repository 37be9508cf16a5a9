package nemesis

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func nodesOf(n int) []string {
	nodes := make([]string, n)
	for i := range nodes {
		nodes[i] = fmt.Sprintf("n%d", i+1)
	}
	return nodes
}

// cutOf is the links that a text cuts among n nodes.
func cutOf(t interface{ Fatal(...any) }, text string, n int, primaries []string, seed uint64) map[Link]bool {
	s := &scope{nodes: nodesOf(n), seed: seed, text: text, now: true, ask: func() ([]string, error) { return primaries, nil }}
	spec, err := MustParse(text).spec.expand(s)
	if err != nil {
		t.Fatal(err)
	}
	// The text of what was drawn means the same.
	again := MustParse(Fault{spec: spec}.String()).spec.(cutSpec)
	links := make(map[Link]bool)
	for _, l := range again.cutLinks(append(nodesOf(n), Lab)) {
		links[l] = true
	}
	return links
}

// hears is whom a node receives frames from, itself included.
func hears(node string, nodes []string, cut map[Link]bool) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(other string) bool { return cut[Link{other, node}] })
}

func symmetric(cut map[Link]bool) bool {
	for l := range cut {
		if !cut[Link{l.To, l.From}] {
			return false
		}
	}
	return true
}

// sides are the sets of nodes that talk both ways, if the cut parts the nodes
// into such sets.
func sides(t *rapid.T, nodes []string, cut map[Link]bool) [][]string {
	var out [][]string
	for _, node := range nodes {
		side := hears(node, nodes, cut)
		for _, other := range side {
			if !slices.Equal(hears(other, nodes, cut), side) {
				t.Fatalf("%s hears %v, and %s of them hears others", node, side, other)
			}
		}
		if side[0] == node {
			out = append(out, side)
		}
	}
	return out
}

func TestShapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 11).Draw(t, "nodes")
		seed := rapid.Uint64().Draw(t, "seed")
		nodes := nodesOf(n)
		majority := n/2 + 1
		two := func(text string) (small, large int) {
			cut := cutOf(t, text, n, nil, seed)
			got := sides(t, nodes, cut)
			if len(got) != 2 || !symmetric(cut) {
				t.Fatalf("%s: sides %v", text, got)
			}
			return min(len(got[0]), len(got[1])), max(len(got[0]), len(got[1]))
		}
		if small, _ := two("net cut one"); small != 1 {
			t.Fatalf("one: the small side has %d", small)
		}
		if small, large := two("net cut halves"); large-small != n%2 {
			t.Fatalf("halves: %d and %d", small, large)
		}
		if small, large := two("net cut majority"); large < majority || small < 1 {
			t.Fatalf("majority: %d and %d", small, large)
		}
		if n >= 4 {
			if small, _ := two("net cut minority-third"); 3*small >= n || 3*(small+1) < n {
				t.Fatalf("minority-third: %d of %d", small, n)
			}
		}

		bridge := cutOf(t, "net cut bridge", n, nil, seed)
		var seesAll, left []string
		for _, node := range nodes {
			if len(hears(node, nodes, bridge)) == n {
				seesAll = append(seesAll, node)
			} else {
				left = append(left, node)
			}
		}
		if len(seesAll) != 1 || !symmetric(bridge) {
			t.Fatalf("bridge: %v see all", seesAll)
		}
		if got := sides(t, left, bridge); len(got) != 2 || max(len(got[0]), len(got[1]))-min(len(got[0]), len(got[1])) != (n-1)%2 {
			t.Fatalf("bridge: sides %v", got)
		}

		for _, text := range []string{"net cut majorities-ring", "net cut majorities-ring oneway"} {
			cut := cutOf(t, text, n, nil, seed)
			seen := make(map[string]string)
			for _, node := range nodes {
				h := hears(node, nodes, cut)
				if len(h) < majority || strings.HasSuffix(text, "oneway") && len(h) != majority {
					t.Fatalf("%s: %s hears %d of %d", text, node, len(h), n)
				}
				key := strings.Join(h, " ")
				if other := seen[key]; other != "" {
					t.Fatalf("%s: %s and %s hear the same: %s", text, node, other, key)
				}
				seen[key] = node
			}
			if symmetric(cut) == strings.HasSuffix(text, "oneway") {
				t.Fatalf("%s: both ways is %t", text, symmetric(cut))
			}
		}

		primaries := shuffled(nodes, newDraw(seed, "primaries"))[:rapid.IntRange(1, 2).Draw(t, "primaries")]
		for _, side := range sides(t, nodes, cutOf(t, "net cut primaries", n, primaries, seed)) {
			primary := slices.ContainsFunc(side, func(s string) bool { return slices.Contains(primaries, s) })
			if primary && len(side) != 1 || !primary && len(side) != n-len(primaries) {
				t.Fatalf("primaries %v: a side is %v", primaries, side)
			}
		}
	})
}

// TestOneWay: outward and inward are the two halves of the cut both ways, for
// every shape that has a first side.
func TestOneWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SampledFrom([]string{"one", "halves", "majority", "bridge", "minority-third"}).Draw(t, "shape")
		n := rapid.IntRange(4, 9).Draw(t, "nodes")
		seed := rapid.Uint64().Draw(t, "seed")
		nodes := nodesOf(n)
		groups, err := groupsOf(shape, nodes, nil, newDraw(seed, "x"))
		if err != nil {
			t.Fatal(err)
		}
		links := func(way string) map[Link]bool {
			out := make(map[Link]bool)
			for _, l := range (cutSpec{groups: groups, way: way}).cutLinks(nodes) {
				out[l] = true
			}
			return out
		}
		both, out, in := links(bothWays), links(outward), links(inward)
		if len(out)+len(in) != len(both) {
			t.Fatalf("%d links, %d outward and %d inward", len(both), len(out), len(in))
		}
		for l := range out {
			if !both[l] || in[l] || !slices.Contains(groups[0], l.From) || !slices.Contains(groups[1], l.To) {
				t.Fatalf("%v is outward", l)
			}
		}
		for l := range in {
			if !both[l] || !out[Link{l.To, l.From}] {
				t.Fatalf("%v is inward", l)
			}
		}
	})
}

func TestThreeGroupsOneWay(t *testing.T) {
	cut := cutOf(t, "net cut n1|n2|n3 oneway", 3, nil, 1)
	if len(cut) != 2 || !cut[Link{"n1", "n2"}] || !cut[Link{"n1", "n3"}] {
		t.Errorf("cut %v", cut)
	}
}

func TestShapesThatNeedMoreNodes(t *testing.T) {
	for text, n := range map[string]int{
		"net cut one": 1, "net cut halves": 1, "net cut majority": 2, "net cut bridge": 2,
		"net cut majorities-ring": 2, "net cut minority-third": 3,
		"proc kill minority": 2, "proc kill minority-third": 3, "proc kill one": 0, "proc pause clients": 3,
	} {
		if f, err := Expand(MustParse(text), nodesOf(n), nil, 1); err == nil {
			t.Errorf("%s of %d nodes: %s", text, n, f)
		}
	}
}

func TestOutsiders(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"net cut n1|n2,n3", 3, "n1"},
		{"net cut n1|n2,n3 oneway", 3, "n1"},
		{"net cut n1,n2,n3|n4,n5", 5, "n4 n5"},
		{"net cut n1,n2|n4,n5", 5, "n4 n5"}, // a bridge: the larger set has n3
		{"net cut links n1-n3", 3, "n3"},
		{"net cut n1|n2|n3", 3, "n2 n3"},
		{"net cut links n2", 3, "n2"},
	} {
		if got := strings.Join(affected(MustParse(c.text), nodesOf(c.n), append(nodesOf(c.n), Lab)), " "); got != c.want {
			t.Errorf("%s: outside are %s, not %s", c.text, got, c.want)
		}
	}
}

// TestOutsidersAreFewest: those inside all reach each other, and no larger set
// does.
func TestOutsidersAreFewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "nodes")
		nodes := nodesOf(n)
		cut := make(map[Link]bool)
		for _, a := range nodes {
			for _, b := range nodes {
				if a != b && rapid.Bool().Draw(t, "cut") {
					cut[Link{a, b}] = true
				}
			}
		}
		whole := func(set []string) bool {
			for _, a := range set {
				for _, b := range set {
					if cut[Link{a, b}] {
						return false
					}
				}
			}
			return true
		}
		inside := without(nodes, outsiders(nodes, cut))
		if !whole(inside) {
			t.Fatalf("%v do not all reach each other", inside)
		}
		for bits := range 1 << n {
			var set []string
			for i, node := range nodes {
				if bits&(1<<i) != 0 {
					set = append(set, node)
				}
			}
			if len(set) > len(inside) && whole(set) {
				t.Fatalf("%v is larger than %v", set, inside)
			}
		}
	})
}
