package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is what one contestant showed.
type figure struct {
	Who    string    `json:"who"`
	Value  float64   `json:"value"` // the median of the rounds
	Unit   string    `json:"unit"`
	Rounds []float64 `json:"rounds,omitempty"`
	P50ms  float64   `json:"p50_ms,omitempty"` // of all rounds together
	P99ms  float64   `json:"p99_ms,omitempty"`
	Maxms  float64   `json:"max_ms,omitempty"`
	CPUus  float64   `json:"cpu_us,omitempty"` // of this process for each pair, with the nodes in it; without servers of their own
}

// bound is a target: what must be at most or at least how much.
type bound struct {
	Of     string  `json:"of"` // "ratio" or "ours"
	AtMost bool    `json:"at_most"`
	Value  float64 `json:"value"`
}

func (b *bound) String() string {
	if b == nil {
		return "–"
	}
	sign, unit := "≥", "×"
	if b.AtMost {
		sign = "≤"
	}
	if b.Of != "ratio" {
		unit = ""
	}
	return fmt.Sprintf("%s %g%s", sign, b.Value, unit)
}

// row is one line of the table: ours against one peer.
type row struct {
	Benchmark string  `json:"benchmark"`
	What      string  `json:"what"`
	Ours      figure  `json:"ours"`
	Peer      figure  `json:"peer"`
	Missing   string  `json:"missing,omitempty"` // why there is no peer
	Ratio     *spread `json:"ratio,omitempty"`   // ours to the peer's, round by round
	Target    *bound  `json:"target,omitempty"`
	Met       *bool   `json:"met,omitempty"`
	Note      string  `json:"note,omitempty"`
}

// judge fills in whether the target was met.
func (r *row) judge() {
	if r.Target == nil || r.Target.Of == "ratio" && r.Ratio == nil {
		return
	}
	v := r.Ours.Value
	if r.Target.Of == "ratio" {
		v = r.Ratio.Median
	}
	met := v >= r.Target.Value
	if r.Target.AtMost {
		met = v <= r.Target.Value
	}
	r.Met = &met
}

// report is all that a run gives.
type report struct {
	Machine  machine   `json:"machine"`
	Started  time.Time `json:"started"`
	Rounds   int       `json:"rounds"`
	Time     string    `json:"time_per_arm_and_round"`
	Sessions int       `json:"sessions"`
	Rows     []row     `json:"rows"`
	Failed   []string  `json:"failed,omitempty"`
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeTable writes for people. Figures are medians of the rounds, ratios the
// median of the rounds' ratios with the least and the greatest.
func (r *report) writeTable(w io.Writer) error {
	var out, cells strings.Builder
	fmt.Fprintf(&out, "%s\n%d rounds of %s, arms in turn; ratio: ours to the peer's, median of the rounds [least–greatest]\n\n",
		r.Machine, r.Rounds, r.Time)
	cells.WriteString("what\tours\tpeer\tratio\ttarget\tmet\n")
	for i := range r.Rows {
		cells.WriteString(strings.Join(r.Rows[i].cells(), "\t") + "\n")
	}
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(t, cells.String()); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range r.Rows {
		if n := r.Rows[i].Note; n != "" {
			fmt.Fprintf(&out, "\n%s: %s", r.Rows[i].What, n)
		}
	}
	for _, f := range r.Failed {
		fmt.Fprintf(&out, "\nFAILED %s", f)
	}
	_, err := io.WriteString(w, out.String()+"\n")
	return err
}

func (r *row) cells() []string {
	peer, ratio, met := r.Peer.String(), "–", "–"
	if r.Missing != "" {
		peer, met = r.Missing, "peer missing"
	}
	if r.Ratio != nil {
		ratio = fmt.Sprintf("%.2f× [%.2f–%.2f]", r.Ratio.Median, r.Ratio.Least, r.Ratio.Most)
	}
	if r.Met != nil {
		met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
	}
	return []string{r.What, r.Ours.String(), peer, ratio, r.Target.String(), met}
}

func (f figure) String() string {
	if f.Who == "" {
		return "–"
	}
	s := fmt.Sprintf("%s %s %s", f.Who, number(f.Value), f.Unit)
	switch {
	case f.P99ms > 0 && f.Maxms > 0:
		s += fmt.Sprintf(" (p50 %s p99 %s max %s ms)", number(f.P50ms), number(f.P99ms), number(f.Maxms))
	case f.CPUus > 0:
		s += fmt.Sprintf(" (p50 %s p99 %s ms, cpu %s µs)", number(f.P50ms), number(f.P99ms), number(f.CPUus))
	case f.P99ms > 0:
		s += fmt.Sprintf(" (p50 %s p99 %s ms)", number(f.P50ms), number(f.P99ms))
	}
	return s
}

// number writes three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
