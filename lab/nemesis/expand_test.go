package nemesis

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast.dev/lab/netem"
)

func TestSelectors(t *testing.T) {
	sizes := map[string]func(n int) (low, high int){
		"all":            func(n int) (int, int) { return n, n },
		"one":            func(int) (int, int) { return 1, 1 },
		"some":           func(n int) (int, int) { return 1, n },
		"minority":       func(n int) (int, int) { return (n+1)/2 - 1, (n+1)/2 - 1 },
		"majority":       func(n int) (int, int) { return n/2 + 1, n/2 + 1 },
		"minority-third": func(n int) (int, int) { return (n+2)/3 - 1, (n+2)/3 - 1 },
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(4, 12).Draw(t, "nodes")
		nodes := nodesOf(n)
		for selector, size := range sizes {
			f, err := Expand(MustParse("proc kill "+selector), nodes, nil, rapid.Uint64().Draw(t, "seed"))
			if err != nil {
				t.Fatal(err)
			}
			hosts := f.spec.targets()
			low, high := size(n)
			if len(hosts) < low || len(hosts) > high || !slices.Equal(hosts, inOrder(hosts, nodes)) {
				t.Fatalf("%s of %d: %v", selector, n, hosts)
			}
			for i, h := range hosts {
				if !slices.Contains(nodes, h) || slices.Contains(hosts[:i], h) {
					t.Fatalf("%s: %v", selector, hosts)
				}
			}
		}
	})
}

// TestEverybodyIsChosen: no node is left out by all seeds, and seeds differ.
func TestEverybodyIsChosen(t *testing.T) {
	count := make(map[string]int)
	const draws = 3000
	for seed := range uint64(draws) {
		f, err := Expand(MustParse("proc kill one"), nodesOf(5), nil, seed)
		if err != nil {
			t.Fatal(err)
		}
		count[f.String()]++
	}
	for _, node := range nodesOf(5) {
		if n := count["proc kill "+node]; math.Abs(float64(n)-draws/5) > 120 {
			t.Errorf("%s was chosen %d times of %d", node, n, draws)
		}
	}
}

func TestSameSeedSameHosts(t *testing.T) {
	for _, text := range []string{"net cut majority", "proc kill some,client", "net delay one>minority 5ms", "net cut majorities-ring"} {
		a, err := Expand(MustParse(text), nodesOf(5), []string{"c1", "c2"}, 42)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := Expand(MustParse(text), nodesOf(5), []string{"c1", "c2"}, 42)
		if a.String() != b.String() {
			t.Errorf("%s is once %s and once %s", text, a, b)
		}
		again, err := Expand(a, nodesOf(5), []string{"c1", "c2"}, 43)
		if err != nil || again.String() != a.String() {
			t.Errorf("%s changes to %s, %v", a, again, err)
		}
	}
}

func TestTheRunningSystemIsAskedLater(t *testing.T) {
	for _, text := range []string{
		"proc kill primary", "net cut primaries", "net cut primary|followers", "clock jump follower +1s", "act promote follower", "net delay primary>followers 5ms",
	} {
		f, err := Expand(MustParse(text), nodesOf(3), nil, 1)
		if err != nil || f.String() != text || !f.Dynamic() {
			t.Errorf("%s becomes %s, dynamic %t, %v", text, f, f.Dynamic(), err)
		}
	}
	if f := MustParse("proc kill one"); f.Dynamic() {
		t.Errorf("%s is dynamic", f)
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(4, 1)
	w.primaries = []string{"n3"}
	for text, want := range map[string]string{
		"proc kill primary":               "proc kill n3",
		"proc kill followers":             "proc kill n1,n2,n4",
		"net cut primaries oneway":        "net cut n3|n1,n2,n4 oneway",
		"net cut primary|followers":       "net cut n3|n1,n2,n4",
		"net cut primary|clients":         "net cut n3|c1",
		"net delay primary>followers 5ms": "net delay n3>n1,n2,n4 5ms",
		"act promote followers force":     "act promote n1,n2,n4 force",
		"net clog primary,n3":             "net clog n3",
	} {
		f, err := resolve(t.Context(), MustParse(text), w, 1)
		if err != nil || f.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", text, f, err, want)
		}
	}
	w.primaries = []string{"n4", "n2", "stranger"}
	for text, want := range map[string]string{
		"proc kill primaries": "proc kill n2,n4",
		"net cut primaries":   "net cut n2|n4|n1,n3",
	} {
		f, err := resolve(t.Context(), MustParse(text), w, 1)
		if err != nil || f.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", text, f, err, want)
		}
	}
	w.primaries = nil
	if _, err := resolve(t.Context(), MustParse("proc kill primary"), w, 1); err == nil || !strings.Contains(err.Error(), "primary") {
		t.Errorf("no primary: %v", err)
	}
	w.primErr = errors.New("connection refused")
	if _, err := resolve(t.Context(), MustParse("net cut primaries"), w, 1); !errors.Is(err, w.primErr) {
		t.Errorf("no answer: %v", err)
	}
}

func TestUnknownHosts(t *testing.T) {
	for _, text := range []string{
		"proc kill n9", "proc kill lab", "net cut n1|n9", "net delay n1>n9 5ms", "net cut n1|all", "net reset n1|all",
	} {
		if f, err := Expand(MustParse(text), nodesOf(3), nil, 1); err == nil {
			t.Errorf("%s becomes %s", text, f)
		}
	}
	if _, err := Expand(Fault{}, nodesOf(3), nil, 1); err == nil {
		t.Error("an empty fault was expanded")
	}
	_, err := Expand(MustParse("proc kill n9"), nodesOf(2), nil, 1)
	if err == nil || err.Error() != `proc kill n9: no host "n9": there are n1, n2` {
		t.Errorf("error %v", err)
	}
}

func TestLinks(t *testing.T) {
	everyone := []string{"n1", "n2", "c1", Lab}
	for text, want := range map[string]string{
		"n1>n2":       "n1>n2",
		"n1-n2":       "n1>n2 n2>n1",
		"n1,c1>n2":    "c1>n2 n1>n2",
		"n1":          "c1>n1 lab>n1 n1>c1 n1>lab n1>n2 n2>n1",
		"n1>n2+n1-n2": "n1>n2 n2>n1",
		"n1,n2-n1,n2": "n1>n2 n2>n1",
		"lab>n1":      "lab>n1",
	} {
		f := MustParse("net delay " + text + " 5ms").spec.(linkSpec)
		if got := linkText(linksOf(f.links, everyone)); got != want {
			t.Errorf("%s is %s, not %s", text, got, want)
		}
	}
}

func TestImpairment(t *testing.T) {
	f := MustParse("net link n1 delay 50ms jitter 10ms corr 25% normal loss 7% burst 5 dup 1% corrupt 2% fix-checksum reorder 3% gap 4 rate 1mbit queue 100 mtu 1200")
	im := f.spec.(linkSpec).impairment()
	g := im.Gilbert
	im.Gilbert = nil
	want := netem.Impairment{
		Delay: 50 * time.Millisecond, Jitter: 10 * time.Millisecond, Correlation: 0.25, Distribution: netem.Normal,
		Duplicate: 0.01, Corrupt: 0.02, FixChecksum: true, Reorder: 0.03, Gap: 4, Rate: 1e6, Limit: 100, MTU: 1200,
	}
	if im != want {
		t.Errorf("impairment %+v", im)
	}
	if loss := g.P / (g.P + g.R) * g.LossBad; g == nil || math.Abs(loss-0.07) > 1e-9 || math.Abs(1/g.R-5) > 1e-9 || g.LossGood != 0 {
		t.Errorf("bursts %+v", g)
	}
	if im := MustParse("net loss n1 5% corr 25%").spec.(linkSpec).impairment(); im.Loss != 0.05 || im.LossCorrelation != 0.25 || im.Gilbert != nil {
		t.Errorf("loss %+v", im)
	}
}
