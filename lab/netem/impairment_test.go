package netem

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	if err := (Impairment{}).Validate(); err != nil {
		t.Error(err)
	}
	for want, im := range map[string]Impairment{
		"delay -1ns":                   {Delay: -1},
		"jitter -1ns":                  {Jitter: -1},
		`distribution "flat"`:          {Distribution: "flat"},
		"loss 1.5":                     {Loss: 1.5},
		"loss NaN":                     {Loss: math.NaN()},
		"loss correlation 1":           {Loss: 0.1, LossCorrelation: 1},
		"correlation without":          {Correlation: 0.5},
		"duplicate -1":                 {Duplicate: -1},
		"corrupt 2":                    {Corrupt: 2},
		"fixed checksum without":       {FixChecksum: true},
		"reorder without delay":        {Reorder: 0.5},
		"gap without reorder":          {Gap: 3},
		"gap -1":                       {Gap: -1},
		"rate -5":                      {Rate: -5},
		"limit without rate":           {Limit: 5},
		"mtu -1":                       {MTU: -1},
		`cut "open"`:                   {Cut: "open"},
		"gilbert r 0":                  {Gilbert: &Gilbert{P: 0.1}},
		"gilbert p 3":                  {Gilbert: &Gilbert{P: 3, R: 1}},
		"unordered without jitter":     {Unordered: true},
		"reorder correlation without":  {ReorderCorrelation: 0.1},
		"duplicate correlation withou": {DuplicateCorrelation: 0.1},
	} {
		if err := im.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", im, err, want)
		}
	}
	if err := (Impairment{Delay: -1, Loss: 2}).Validate(); !strings.Contains(err.Error(), "delay") || !strings.Contains(err.Error(), "loss") {
		t.Errorf("error %v does not have both faults", err)
	}
}

func TestCombine(t *testing.T) {
	got := Combine(
		Impairment{Delay: 10 * ms, Jitter: 3 * ms, Loss: 0.1, Rate: 1e6, Limit: 7, MTU: 1400, Cut: Slowed, Corrupt: 0.5, FixChecksum: true},
		Impairment{},
		Impairment{
			Delay: 5 * ms, Jitter: 4 * ms, Distribution: Normal, Correlation: 0.5, Loss: 0.2, LossCorrelation: 0.3, Rate: 2e6, Limit: 9, MTU: 1300,
			Cut: Jammed, Duplicate: 0.1, Unordered: true,
		},
	)
	want := Impairment{
		Delay: 15 * ms, Jitter: 5 * ms, Distribution: Normal, Correlation: 0.5, Loss: 0.28, LossCorrelation: 0.3, Rate: 1e6, Limit: 7, MTU: 1300,
		Cut: Jammed, Duplicate: 0.1, Unordered: true, Corrupt: 0.5, FixChecksum: true,
	}
	if math.Abs(got.Loss-want.Loss) < 1e-12 {
		got.Loss = want.Loss
	}
	if math.Abs(got.Duplicate-want.Duplicate) < 1e-12 {
		got.Duplicate = want.Duplicate
	}
	if got != want {
		t.Errorf("combined\n%+v, want\n%+v", got, want)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if c := Combine(Impairment{Cut: Jammed}, Impairment{Cut: Stopped}, Impairment{Cut: Slowed}); c.Cut != Stopped {
		t.Errorf("cut %q", c.Cut)
	}
	if c := Combine(); c != (Impairment{}) {
		t.Errorf("of none: %+v", c)
	}
}

// TestCombine_Loss: what is said of several rules is what a pipeline with them
// does.
func TestCombine_Loss(t *testing.T) {
	ims := []Impairment{
		{Loss: 0.05}, {Gilbert: &Gilbert{P: 0.05, R: 0.5}}, {Gilbert: &Gilbert{P: 0.1, R: 0.3, LossBad: 0.5}}, {Loss: 0.1, LossCorrelation: 0.3},
	}
	c := Combine(ims...)
	l, _ := newLine(t, Config{Seed: 1})
	for i, im := range ims {
		l.add(string(rune('a'+i)), im)
	}
	lost := 0
	var out []Out
	f := Frame{Data: make([]byte, 60)}
	for range many {
		out = l.p.Push(0, f, l.all, out[:0])
		if out[0].Fate == DropLoss {
			lost++
		}
	}
	p := c.MeanLoss()
	near(t, "losses", p, float64(lost), p*many, 3*math.Sqrt(p*(1-p)*many))
	if c.Gilbert == nil || *c.Gilbert != *ims[2].Gilbert {
		t.Errorf("gilbert %+v, want the one that loses most", c.Gilbert)
	}
}

func TestString(t *testing.T) {
	for want, im := range map[string]Impairment{
		"nothing":    {},
		"loss 7%":    {Loss: 0.07},
		"stopped":    {Cut: Stopped},
		"delay 10ms": {Delay: 10 * time.Millisecond},
		"gemodel 1% 25% loss 0% 100% rate 1000bit/s": {Gilbert: &Gilbert{P: 0.01, R: 0.25, LossBad: 1}, Rate: 1000},
	} {
		if got := im.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
