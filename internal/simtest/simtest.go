// Package simtest runs one simulation under many seeds and says how to repeat
// the one that failed.
//
//	func TestSimulation_Lock(t *testing.T) {
//		simtest.Run(t, 100, func(t *testing.T, seed uint64) {
//			rng := rand.New(rand.NewPCG(seed, 0))
//			…
//		})
//	}
package simtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Run calls f with the seeds 1 to n, with -short a tenth of them, each in a
// parallel subtest of its own. f must be a pure function of its seed, and must
// take no longer than a few seconds.
//
// The environment overrules n: HOLDFAST_SEEDS is how many seeds to run,
// HOLDFAST_SEED the only one to run (`make sim` sets both). A seed that fails
// prints the command that repeats it. The test's name must contain
// "Simulation", because that is how `make sim` finds it.
func Run(t *testing.T, n int, f func(t *testing.T, seed uint64)) {
	t.Helper()
	if !strings.Contains(t.Name(), "Simulation") {
		t.Fatalf("%s: a simulation's name must contain \"Simulation\", or make sim does not find it", t.Name())
	}
	if testing.Short() {
		n = (n + 9) / 10
	}
	seeds, err := choose(n, os.Getenv("HOLDFAST_SEEDS"), os.Getenv("HOLDFAST_SEED"))
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := pkgPath()
	if err != nil {
		t.Fatal(err)
	}
	top, _, _ := strings.Cut(t.Name(), "/")
	for seed := seeds.first; seed <= seeds.last; seed++ {
		t.Run("seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("again: make sim SEED=%d PKG=%s RUN=%s", seed, pkg, top)
				}
			})
			f(t, seed)
		})
	}
}

// span is the seeds to run, both ends included.
type span struct{ first, last uint64 }

// choose applies the two variables' values to n; one overrules many.
func choose(n int, many, one string) (span, error) {
	if one != "" {
		seed, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			return span{}, fmt.Errorf("HOLDFAST_SEED: %w", err)
		}
		return span{seed, seed}, nil
	}
	last := uint64(max(n, 0))
	if many != "" {
		var err error
		if last, err = strconv.ParseUint(many, 10, 64); err != nil {
			return span{}, fmt.Errorf("HOLDFAST_SEEDS: %w", err)
		}
	}
	return span{1, last}, nil
}

// pkgPath is the package under test as `go test` takes it at the module's
// root: go test runs each package in its own directory.
func pkgPath() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for root := dir; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			rel, err := filepath.Rel(root, dir)
			return "./" + filepath.ToSlash(rel), err
		}
		if root == filepath.Dir(root) {
			return "", fmt.Errorf("%s: no go.mod at or above it", dir)
		}
	}
}
