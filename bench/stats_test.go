package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{7}, 7},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v", got)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[99-i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.01, 1}, {0.5, 50}, {0.505, 51}, {0.99, 99}, {1, 100}} {
		if got := quantile(hundred, c.q); got != c.want {
			t.Errorf("quantile %v = %v, want %v", c.q, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("quantile sorted its argument")
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
}

func TestRatios(t *testing.T) {
	if got, want := ratios([]float64{4, 9, 5, 1}, []float64{2, 3, 0}), []float64{2, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := spreadOf([]float64{2, 3, 1}), (spread{Median: 2, Least: 1, Most: 3}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLongestGap(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, i := range n {
			out = append(out, time.Duration(i)*time.Millisecond)
		}
		return out
	}
	for _, c := range []struct {
		name      string
		successes []time.Duration
		at        int
		want      int
		ok        bool
	}{
		{"across the kill", ms(10, 20, 120, 130), 25, 100, true},
		{"later than the kill", ms(10, 20, 30, 200, 210), 25, 170, true},
		{"before it does not count", ms(10, 500, 510, 530), 505, 20, true},
		{"never again", ms(10, 20), 25, 0, false},
		{"nothing before", ms(90), 25, 90, true},
	} {
		got, ok := longestGap(c.successes, time.Duration(c.at)*time.Millisecond)
		if got != time.Duration(c.want)*time.Millisecond || ok != c.ok {
			t.Errorf("%s: %v, %v", c.name, got, ok)
		}
	}
}

func TestRow_Judge(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name string
		row  row
		want *bool
	}{
		{"no target", row{Ratio: &spread{Median: 9}}, nil},
		{"no peer", row{Target: &bound{Of: "ratio", Value: 2}}, nil},
		{"at least", row{Ratio: &spread{Median: 2}, Target: &bound{Of: "ratio", Value: 2}}, &yes},
		{"less", row{Ratio: &spread{Median: 1.9}, Target: &bound{Of: "ratio", Value: 2}}, &no},
		{"at most", row{Ratio: &spread{Median: 1.2}, Target: &bound{Of: "ratio", AtMost: true, Value: 1.15}}, &no},
		{"ours", row{Ours: figure{Value: 1.5}, Target: &bound{Of: "ours", AtMost: true, Value: 1.5}}, &yes},
	} {
		c.row.judge()
		if got := c.row.Met; (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: met %v", c.name, got)
		}
	}
}
