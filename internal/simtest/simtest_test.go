package simtest

import (
	"sync"
	"testing"
)

func TestSimulation_RunsEachSeedOnce(t *testing.T) {
	t.Setenv("HOLDFAST_SEED", "")
	t.Setenv("HOLDFAST_SEEDS", "")
	var mu sync.Mutex
	seen := map[uint64]int{}
	t.Run("all", func(t *testing.T) {
		Run(t, 5, func(_ *testing.T, seed uint64) {
			mu.Lock()
			defer mu.Unlock()
			seen[seed]++
		})
	})
	want := 5
	if testing.Short() {
		want = 1
	}
	for seed := uint64(1); seed <= uint64(want); seed++ {
		if seen[seed] != 1 {
			t.Errorf("seed %d ran %d times, want 1", seed, seen[seed])
		}
	}
	if len(seen) != want {
		t.Errorf("%d seeds ran, want %d", len(seen), want)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		n         int
		many, one string
		want      span
		fails     bool
	}{
		{n: 10, want: span{1, 10}},
		{n: 10, many: "3", want: span{1, 3}},
		{n: 10, many: "3", one: "18446744073709551614", want: span{18446744073709551614, 18446744073709551614}},
		{n: 10, many: "many", fails: true},
		{n: 10, one: "-1", fails: true},
	} {
		got, err := choose(c.n, c.many, c.one)
		if (err != nil) != c.fails || got != c.want {
			t.Errorf("choose(%d, %q, %q) = %v, %v; want %v, fails %v", c.n, c.many, c.one, got, err, c.want, c.fails)
		}
	}
}

func TestPkgPath(t *testing.T) {
	got, err := pkgPath()
	if err != nil || got != "./internal/simtest" {
		t.Errorf("pkgPath() = %q, %v; want ./internal/simtest", got, err)
	}
}
