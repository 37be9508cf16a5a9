package netem

import (
	"math"
	"testing"
	"time"
)

const (
	many = 1 << 20
	some = 1 << 18
)

// TestChain: the rate of a chance is what was asked whatever the correlation,
// and runs are as long as they should be. (A blend of random numbers, as netem
// has it, fails this by a factor of 160.)
func TestChain(t *testing.T) {
	for _, c := range []struct{ p, correlation float64 }{
		{0.07, 0}, {0.07, 0.25}, {0.2, 0.75}, {0.5, 0.9}, {0.001, 0.5}, {0.999, 0.3}, {1, 0.5}, {0, 0},
	} {
		l, _ := newLine(t, Config{Seed: 3}, Impairment{Loss: c.p, LossCorrelation: c.correlation})
		lost, runs, last := 0, 0, false
		var out []Out
		f := Frame{Data: make([]byte, 60)}
		for range many {
			out = l.p.Push(0, f, l.all, out[:0])
			is := out[0].Fate == DropLoss
			if is {
				lost++
				if !last {
					runs++
				}
			}
			last = is
		}
		// The variance of the mean of such a chain has the factor (1+ρ)/(1-ρ).
		deviation := math.Sqrt(c.p * (1 - c.p) * many * (1 + c.correlation) / (1 - c.correlation))
		near(t, "losses", c.p, float64(lost), c.p*many, deviation)
		if c.p > 0 && c.p < 1 {
			want := 1 / ((1 - c.p) * (1 - c.correlation))
			near(t, "mean run", c.p, float64(lost)/float64(runs), want, want*2/math.Sqrt(float64(runs)))
		}
	}
}

// near fails when a figure is 5 deviations away: one seed in a million is.
func near(t *testing.T, what string, of any, got, want, deviation float64) {
	t.Helper()
	if math.Abs(got-want) > 5*deviation {
		t.Errorf("%s of %v: %v, want %v ± %v", what, of, got, want, deviation)
	}
}

// TestBurst: the stationary loss and the mean burst of a Gilbert–Elliott
// channel are what the formulas say.
func TestBurst(t *testing.T) {
	for _, g := range []Gilbert{
		{P: 0.01, R: 0.25},
		{P: 0.001, R: 0.01},
		{P: 0.3, R: 0.7},
		{P: 0.05, R: 0.1, LossGood: 0.01, LossBad: 0.5},
		{P: 1, R: 1},
		{P: 0, R: 1, LossGood: 0.1, LossBad: 1},
	} {
		l, _ := newLine(t, Config{Seed: 4}, Impairment{Gilbert: &g})
		lost, bursts, last := 0, 0, false
		var out []Out
		f := Frame{Data: make([]byte, 60)}
		for range many {
			out = l.p.Push(0, f, l.all, out[:0])
			is := out[0].Fate == DropLoss
			if is {
				lost++
				if !last {
					bursts++
				}
			}
			last = is
		}
		mean := g.MeanLoss()
		memory := 1 - g.P - g.R // of the state, from one frame to the next
		deviation := math.Sqrt(mean * (1 - mean) * many * max(1, (1+memory)/(1-memory)))
		near(t, "losses", g, float64(lost), mean*many, deviation)
		if g.LossGood == 0 && g.LossBad == 0 && g.R < 1 {
			near(t, "mean burst", g, float64(lost)/float64(bursts), 1/g.R, 2/g.R/math.Sqrt(float64(bursts)))
		}
	}
}

// TestJitter: the delays have the distribution that was asked for, correlated
// or not: a χ² test over 50 classes of equal probability.
func TestJitter(t *testing.T) {
	normal := func(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }
	distributions := map[Distribution]func(float64) float64{
		"":      func(x float64) float64 { return (x + 1) / 2 },
		Uniform: func(x float64) float64 { return (x + 1) / 2 },
		Normal:  normal,
		Pareto:  func(x float64) float64 { return 1 - math.Pow(x*math.Sqrt(3)/2+1.5, -3) },
	}
	const jitter = time.Second
	for d, cdf := range distributions {
		for _, correlation := range []float64{0, 0.75} {
			im := Impairment{Delay: time.Hour, Jitter: jitter, Distribution: d, Correlation: correlation, Unordered: true}
			const classes = 50
			var count [classes]float64
			delays := delaysOf(t, im)
			for _, x := range delays {
				count[min(max(int(cdf(x)*classes), 0), classes-1)]++
			}
			chi := 0.0
			for _, n := range count {
				const want = some / classes
				chi += (n - want) * (n - want) / want
			}
			// 49 degrees of freedom: 105 is exceeded by one seed in a million. What is
			// correlated counts for less: at most by the factor (1+ρ)/(1-ρ).
			if limit := 105 * (1 + correlation) / (1 - correlation); chi > limit {
				t.Errorf("%q, correlation %v: χ² is %v, want at most %v", d, correlation, chi, limit)
			}
		}
	}
	for _, c := range []struct {
		d         Distribution
		deviation float64
	}{{Uniform, 1 / math.Sqrt(3)}, {Normal, 1}, {ParetoNormal, 1}, {Pareto, 1}} {
		for _, correlation := range []float64{0, 0.5} {
			delays := delaysOf(t, Impairment{
				Delay: time.Hour, Jitter: jitter, Distribution: c.d, Correlation: correlation, Unordered: true,
			})
			var sum, squares, products, last float64
			for _, x := range delays {
				sum += x
				squares += x * x
				products += x * last
				last = x
			}
			mean, variance := sum/some, squares/some-sum/some*sum/some
			near(t, "mean", c, mean, 0, c.deviation/math.Sqrt(some)*math.Sqrt((1+correlation)/(1-correlation)))
			slack := 0.01
			if c.d == Pareto || c.d == ParetoNormal {
				slack = 0.15 // its fourth moment is infinite
			}
			if got := math.Sqrt(variance) / c.deviation; math.Abs(got-1) > slack {
				t.Errorf("%s: deviation %v times the one asked for", c.d, got)
			}
			// The copula keeps the rank correlation; for the normal it is the correlation.
			if got := products / some / variance; c.d == Normal && math.Abs(got-correlation) > 0.01 {
				t.Errorf("correlation %v, want %v", got, correlation)
			}
		}
	}
}

// delaysOf is the deviations of many delays from an hour, in seconds.
func delaysOf(t *testing.T, im Impairment) []float64 {
	t.Helper()
	l, _ := newLine(t, Config{Seed: 5}, im)
	out := make([]float64, some)
	var outs []Out
	f := Frame{Data: make([]byte, 60)}
	for i := range out {
		outs = l.p.Push(0, f, l.all, outs[:0])
		out[i] = (outs[0].At - im.Delay).Seconds()
	}
	return out
}

// TestJitter_NotBeforeItCame: delays are never negative, and with order kept
// frames wait for those before them.
func TestJitter_NotBeforeItCame(t *testing.T) {
	for _, unordered := range []bool{false, true} {
		l, _ := newLine(t, Config{}, Impairment{Delay: ms, Jitter: 3 * ms, Distribution: Normal, Unordered: unordered})
		overtook, atOnce := 0, 0
		var last time.Duration
		for range 10_000 {
			l.until(l.now + ms)
			l.push(60, l.all)
			o := l.outs[len(l.outs)-1]
			if o.At < l.now {
				t.Fatalf("sent at %v, there at %v", l.now, o.At)
			}
			if o.At == l.now {
				atOnce++
			}
			if o.At < last {
				overtook++
			}
			last = o.At
		}
		if (overtook > 0) != unordered || atOnce == 0 {
			t.Errorf("unordered %v: %d overtook, %d came at once", unordered, overtook, atOnce)
		}
	}
}

// TestDice_Bits: each bit of the random numbers is set in half of them, for
// successive frames and copies alike.
func TestDice_Bits(t *testing.T) {
	var set [64]float64
	key := keyOf(7, "a→b", "x")
	for n := range int64(many) {
		x := diceFor(key, n/4, int(n%4)).bits(forLoss, 0)
		for b := range set {
			set[b] += float64(x >> b & 1)
		}
	}
	for b, n := range set {
		near(t, "bit", b, n, many/2, math.Sqrt(many)/2)
	}
	if keyOf(1, "a", "bc") == keyOf(1, "ab", "c") || keyOf(1, "a") == keyOf(2, "a") {
		t.Error("keys of different names or seeds are the same")
	}
}
