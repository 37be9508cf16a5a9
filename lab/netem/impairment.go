package netem

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Impairment is what one directed link does to frames, in the words of Linux'
// netem. The zero value does nothing. Probabilities are in [0, 1], correlations
// in [0, 1). Probabilities stay what they are whatever the correlation (netem's
// do not: its loss of 20 % with a correlation of 75 % loses 0.1 %).
type Impairment struct {
	Delay        time.Duration // of every frame
	Jitter       time.Duration // spread around Delay: half-width if uniform, else standard deviation; delays below 0 are 0
	Distribution Distribution  // of the jitter; default uniform
	Correlation  float64       // of successive jitters
	Unordered    bool          // jitter lets frames overtake, as netem's does; else a frame waits for those before it

	Loss            float64 // independent loss
	LossCorrelation float64 // makes losses come in runs, and keeps their rate
	Gilbert         *Gilbert

	Duplicate            float64
	DuplicateCorrelation float64
	Corrupt              float64 // one random bit after the Ethernet header is flipped
	CorruptCorrelation   float64
	FixChecksum          bool // flip application data only and make the checksum fit, so that the application sees it

	Reorder            float64 // the frame goes at once while the others are delayed; needs Delay
	ReorderCorrelation float64
	Gap                int // frames after one that was reordered until the next may be; default 1

	Rate  int64 // bits per second, Ethernet header included; 0 is unlimited
	Limit int   // frames that wait for Rate, delayed ones not among them; default 1000. More are dropped
	MTU   int   // longer IP packets are dropped silently; 0 is no bound

	Cut Cut // partition
}

// Gilbert is the Gilbert–Elliott model of bursts of loss: P from good to bad, R
// from bad to good, and the loss in each state; where both are 0, LossBad is 1.
// It loses (R·LossGood + P·LossBad)/(P+R) of all frames, and stays bad for 1/R
// frames in the mean.
type Gilbert struct {
	P, R              float64
	LossGood, LossBad float64
}

// Distribution of the jitter.
type Distribution string

// The distributions of netem. Pareto has shape 3 and is not cut off: one frame
// in a million is a hundred standard deviations late.
const (
	Uniform      Distribution = "uniform"
	Normal       Distribution = "normal"
	Pareto       Distribution = "pareto"
	ParetoNormal Distribution = "paretonormal"
)

// Cut says how a partitioned link behaves.
type Cut string

// The kinds of partition (Antithesis' words).
const (
	None    Cut = ""
	Stopped Cut = "stopped" // frames are dropped
	Slowed  Cut = "slowed"  // they take two seconds, and are not lost
	Jammed  Cut = "jammed"  // they are held, and all arrive when the link heals
)

// slowness is the delay of a slowed link.
const slowness = 2 * time.Second

// strength orders cuts.
func (c Cut) strength() int {
	switch c {
	case Stopped:
		return 3
	case Jammed:
		return 2
	case Slowed:
		return 1
	case None:
	}
	return 0
}

// MeanLoss is the part of all frames that is lost in the long run, cuts and
// queues aside.
func (im Impairment) MeanLoss() float64 {
	kept := 1 - im.Loss
	if im.Gilbert != nil {
		kept *= 1 - im.Gilbert.MeanLoss()
	}
	return 1 - kept
}

// MeanLoss is the part of all frames that is lost in the long run.
func (g Gilbert) MeanLoss() float64 {
	g = g.normal()
	if g.P+g.R == 0 {
		return g.LossGood
	}
	return (g.R*g.LossGood + g.P*g.LossBad) / (g.P + g.R)
}

func (g Gilbert) normal() Gilbert {
	if g.LossGood == 0 && g.LossBad == 0 {
		g.LossBad = 1
	}
	return g
}

// Validate reports all that is wrong with im.
func (im Impairment) Validate() error {
	var errs []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	probability := func(name string, p float64) {
		fault(math.IsNaN(p) || p < 0 || p > 1, "%s %v: not in [0, 1]", name, p)
	}
	correlation := func(name string, c float64, of bool) {
		fault(math.IsNaN(c) || c < 0 || c >= 1, "%s %v: not in [0, 1)", name, c)
		fault(c != 0 && !of, "%s without what it is of", name)
	}
	fault(im.Delay < 0, "delay %v: negative", im.Delay)
	fault(im.Jitter < 0, "jitter %v: negative", im.Jitter)
	switch im.Distribution {
	case "", Uniform, Normal, Pareto, ParetoNormal:
	default:
		fault(true, "distribution %q: want uniform, normal, pareto or paretonormal", im.Distribution)
	}
	correlation("correlation", im.Correlation, im.Jitter > 0)
	fault(im.Unordered && im.Jitter == 0, "unordered without jitter")
	probability("loss", im.Loss)
	correlation("loss correlation", im.LossCorrelation, im.Loss > 0)
	if g := im.Gilbert; g != nil {
		probability("gilbert p", g.P)
		probability("gilbert r", g.R)
		probability("gilbert loss in good", g.LossGood)
		probability("gilbert loss in bad", g.LossBad)
		fault(g.R == 0, "gilbert r 0: a burst would never end; use a cut")
	}
	probability("duplicate", im.Duplicate)
	correlation("duplicate correlation", im.DuplicateCorrelation, im.Duplicate > 0)
	probability("corrupt", im.Corrupt)
	correlation("corrupt correlation", im.CorruptCorrelation, im.Corrupt > 0)
	fault(im.FixChecksum && im.Corrupt == 0, "fixed checksum without corruption")
	probability("reorder", im.Reorder)
	correlation("reorder correlation", im.ReorderCorrelation, im.Reorder > 0)
	fault(im.Reorder > 0 && im.Delay == 0, "reorder without delay: the others would have to be later")
	fault(im.Gap < 0, "gap %d: negative", im.Gap)
	fault(im.Gap > 0 && im.Reorder == 0, "gap without reorder")
	fault(im.Rate < 0, "rate %d: negative", im.Rate)
	fault(im.Limit < 0, "limit %d: negative", im.Limit)
	fault(im.Limit > 0 && im.Rate == 0, "limit without rate")
	fault(im.MTU < 0, "mtu %d: negative", im.MTU)
	switch im.Cut {
	case None, Stopped, Slowed, Jammed:
	default:
		fault(true, "cut %q: want stopped, slowed or jammed", im.Cut)
	}
	return errors.Join(errs...)
}

// String is im in netem's words, without what is not set.
func (im Impairment) String() string {
	var words []string
	say := func(on bool, format string, args ...any) {
		if on {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	percent := func(name string, p, correlation float64) {
		say(p > 0, "%s %.6g%%", name, p*100)
		say(correlation > 0, "correlation %.6g%%", correlation*100)
	}
	say(im.Cut != None, "%s", im.Cut)
	say(im.MTU > 0, "mtu %d", im.MTU)
	percent("duplicate", im.Duplicate, im.DuplicateCorrelation)
	percent("loss", im.Loss, im.LossCorrelation)
	if g := im.Gilbert; g != nil {
		say(true, "gemodel %.6g%% %.6g%% loss %.6g%% %.6g%%", g.P*100, g.R*100, g.LossGood*100, g.LossBad*100)
	}
	percent("corrupt", im.Corrupt, im.CorruptCorrelation)
	say(im.FixChecksum, "fixed checksum")
	say(im.Delay > 0 || im.Jitter > 0, "delay %v", im.Delay)
	say(im.Jitter > 0, "jitter %v", im.Jitter)
	say(im.Correlation > 0, "correlation %.6g%%", im.Correlation*100)
	say(im.Distribution != "", "distribution %s", im.Distribution)
	say(im.Unordered, "unordered")
	percent("reorder", im.Reorder, im.ReorderCorrelation)
	say(im.Gap > 0, "gap %d", im.Gap)
	say(im.Rate > 0, "rate %dbit/s", im.Rate)
	say(im.Limit > 0, "limit %d", im.Limit)
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " ")
}

// Combine is the one impairment that comes nearest to several at once: the
// strongest cut, the sum of delays, jitters added as independent deviations,
// independent losses, the lowest rate with its queue, the least MTU. Losses in
// bursts of more than one are given by the worst of them, and by their mean
// otherwise. It is for saying what holds on a link; a Pipeline applies each rule
// for itself.
func Combine(ims ...Impairment) Impairment {
	var c Impairment
	either := func(p, q float64) float64 { return 1 - (1-p)*(1-q) }
	kept := 1.0 // by the Gilbert that is not kept as such
	for i := range ims {
		im := &ims[i]
		if im.Jitter > 0 && im.Jitter >= c.Jitter {
			c.Distribution, c.Correlation = im.Distribution, im.Correlation
		}
		c.Delay += im.Delay
		c.Jitter = time.Duration(math.Round(math.Hypot(float64(c.Jitter), float64(im.Jitter))))
		c.Unordered = c.Unordered || im.Unordered
		blend(&c.Loss, &c.LossCorrelation, im.Loss, im.LossCorrelation)
		blend(&c.Duplicate, &c.DuplicateCorrelation, im.Duplicate, im.DuplicateCorrelation)
		c.FixChecksum = im.Corrupt > 0 && im.FixChecksum && (c.Corrupt == 0 || c.FixChecksum) || im.Corrupt == 0 && c.FixChecksum
		blend(&c.Corrupt, &c.CorruptCorrelation, im.Corrupt, im.CorruptCorrelation)
		if im.Reorder > c.Reorder {
			c.Gap = im.Gap
		}
		blend(&c.Reorder, &c.ReorderCorrelation, im.Reorder, im.ReorderCorrelation)
		switch {
		case im.Gilbert == nil:
		case c.Gilbert == nil:
			g := *im.Gilbert
			c.Gilbert = &g
		case im.Gilbert.MeanLoss() > c.Gilbert.MeanLoss():
			kept *= 1 - c.Gilbert.MeanLoss()
			g := *im.Gilbert
			c.Gilbert = &g
		default:
			kept *= 1 - im.Gilbert.MeanLoss()
		}
		if im.Rate > 0 && (c.Rate == 0 || im.Rate < c.Rate) {
			c.Rate, c.Limit = im.Rate, im.Limit
		}
		if im.MTU > 0 && (c.MTU == 0 || im.MTU < c.MTU) {
			c.MTU = im.MTU
		}
		if im.Cut.strength() > c.Cut.strength() {
			c.Cut = im.Cut
		}
	}
	c.Loss = either(c.Loss, 1-kept)
	return c
}

// blend adds an independent probability; the greater one's correlation stays.
func blend(p, correlation *float64, q, its float64) {
	if q > *p {
		*correlation = its
	}
	*p = 1 - (1-*p)*(1-q)
}
