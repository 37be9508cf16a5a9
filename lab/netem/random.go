package netem

import (
	"math"
	"time"
)

// What is left to chance on a link is a function of the seed, the link, the
// rule, the purpose and the number of the frame, and of nothing else: the same
// frames meet the same fate in every run.
type purpose uint64

const (
	forDuplicate purpose = iota + 1
	forLoss
	forBurst
	forCorrupt
	forBit
	forJitter
	forTail
	forReorder
)

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection in
// which every bit of x moves half the bits of the result.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

const golden = 0x9e3779b97f4a7c15

// keyOf is FNV-1a over the names, mixed with the seed.
func keyOf(seed uint64, names ...string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, name := range names {
		for i := range len(name) {
			h = (h ^ uint64(name[i])) * 0x100000001b3
		}
		h = (h ^ 0xff) * 0x100000001b3 // so that "a","bc" is not "ab","c"
	}
	return mix(mix(seed+golden) ^ h)
}

// dice are the draws that one rule makes for one copy of a frame.
type dice uint64

// diceFor is the dice of the n-th frame of a rule, and of its copy.
func diceFor(key uint64, n int64, copied int) dice {
	return dice(mix(key + golden*uint64(n*128+int64(copied)))) // a frame is there at most 65 times
}

func (d dice) bits(p purpose, which uint64) uint64 {
	return mix(uint64(d) + golden*(uint64(p)*4+which))
}

// unit is uniform in the open interval from 0 to 1.
func (d dice) unit(p purpose, which uint64) float64 {
	return (float64(d.bits(p, which)>>11) + 0.5) / (1 << 53)
}

// chain is a series of yes and no that comes in runs: with probability
// correlation the answer is the one before, else it is drawn anew. So the rate
// of yes is exactly p whatever the correlation, which is the autocorrelation at
// lag one; the mean run of yes has 1/((1-p)(1-correlation)) frames.
//
// netem blends the last random number with a new one instead and compares the
// blend, which is not uniform, with p: 20 % at a correlation of 75 % become 0.1 %.
type chain struct{ begun, last bool }

func (c *chain) next(d dice, for_ purpose, p, correlation float64) bool {
	if p <= 0 {
		return false
	}
	if !c.begun || correlation <= 0 || d.unit(for_, 1) >= correlation {
		c.begun, c.last = true, d.unit(for_, 0) < p
	}
	return c.last
}

// burst is the state of a Gilbert–Elliott channel. It begins in its stationary
// distribution.
type burst struct{ begun, bad bool }

func (b *burst) next(d dice, g Gilbert) bool {
	if !b.begun {
		b.begun, b.bad = true, d.unit(forBurst, 0)*(g.P+g.R) < g.P
	}
	loss, leave := g.LossGood, g.P
	if b.bad {
		loss, leave = g.LossBad, g.R
	}
	lost := d.unit(forBurst, 1) < loss
	if d.unit(forBurst, 2) < leave {
		b.bad = !b.bad
	}
	return lost
}

// jitter draws deviations from the mean. Correlated ones are a Gaussian
// autoregression of first order that is mapped to the distribution (a Gaussian
// copula), so that the distribution stays what was asked for.
type jitter struct {
	begun [2]bool
	last  [2]float64 // normal deviates
}

// next is the deviation of one frame. Jitter is the half-width of the uniform
// distribution and the standard deviation of the others, all of which have
// mean 0 before delays below zero are cut.
func (j *jitter) next(d dice, im *Impairment) time.Duration {
	var x float64
	switch im.Distribution {
	case Normal:
		x = j.normal(d, 0, im.Correlation)
	case Pareto:
		x = pareto(j.uniform(d, 0, im.Correlation))
	case ParetoNormal: // netem's mixture of a quarter and three quarters, scaled to deviation 1
		x = (j.normal(d, 0, im.Correlation) + 3*pareto(j.uniform(d, 1, im.Correlation))) / math.Sqrt(10)
	case Uniform, "":
		x = 2*j.uniform(d, 0, im.Correlation) - 1
	}
	return time.Duration(x * float64(im.Jitter))
}

func (j *jitter) uniform(d dice, i int, correlation float64) float64 {
	if correlation <= 0 {
		return d.unit(forJitter+purpose(i), 0)
	}
	u := math.Erfc(-j.normal(d, i, correlation)/math.Sqrt2) / 2
	return min(max(u, 0x1p-54), 1-0x1p-53)
}

func (j *jitter) normal(d dice, i int, correlation float64) float64 {
	x := math.Sqrt2 * math.Erfinv(2*d.unit(forJitter+purpose(i), 0)-1)
	if correlation > 0 {
		if j.begun[i] {
			x = correlation*j.last[i] + math.Sqrt(1-correlation*correlation)*x
		}
		j.begun[i], j.last[i] = true, x
	}
	return x
}

// pareto maps a uniform number to the Pareto distribution of shape 3, moved to
// mean 0 and scaled to deviation 1: its tail is long above and none below.
func pareto(u float64) float64 { return (1/math.Cbrt(u) - 1.5) / (math.Sqrt(3) / 2) }
