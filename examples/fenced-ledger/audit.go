package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"holdfast.dev"
)

// Report is what an audit found. All counts but Entries are of violations.
type Report struct {
	Valid      bool   `json:"valid"`
	Entries    int    `json:"entries"`
	Balance    int64  `json:"balance"`      // of the last entry
	Sum        int64  `json:"sum"`          // of all amounts; without violations the same
	Doubled    int    `json:"doubled"`      // entries whose number an earlier one has
	Lost       int    `json:"lost"`         // entries that the last one does not build on
	OutOfOrder int    `json:"out_of_order"` // entries written under a token lower than an earlier one's
	Missing    int    `json:"missing"`      // acknowledged to a worker, and not there
	First      string `json:"first_violation,omitempty"`
}

// examine checks the entries, in the order in which they were written, and
// that every acknowledged request is among them.
func examine(entries []Entry, acknowledged []string) Report {
	r := Report{Entries: len(entries)}
	violation := func(count *int, format string, args ...any) {
		*count++
		if r.First == "" {
			r.First = fmt.Sprintf(format, args...)
		}
	}
	seen := map[int64]bool{}
	requests := map[string]bool{}
	var highest holdfast.Token
	for _, e := range entries {
		if seen[e.Seq] {
			violation(&r.Doubled, "%s wrote entry %d a second time, under token %s", e.Worker, e.Seq, e.Token)
		}
		if e.Token < highest {
			violation(&r.OutOfOrder, "%s wrote entry %d under token %s after %s", e.Worker, e.Seq, e.Token, highest)
		}
		seen[e.Seq], requests[e.Request] = true, true
		highest = max(highest, e.Token)
		r.Sum += e.Amount
	}
	if n := len(entries); n > 0 {
		last := entries[n-1]
		r.Balance = last.Balance
		r.Lost = max(0, n-int(last.Seq)) // numbers count from 1: the last is how many it builds on
	}
	for _, request := range acknowledged {
		if !requests[request] {
			violation(&r.Missing, "request %s was acknowledged and is not there", request)
		}
	}
	r.Valid = r.First == "" && r.Lost == 0 && r.Balance == r.Sum
	return r
}

func audit(ctx context.Context, l *Ledger, acks string, stdout *json.Encoder) error {
	entries, err := l.Entries(ctx)
	if err != nil {
		return err
	}
	var acknowledged []string
	if acks != "" {
		text, err := os.ReadFile(acks)
		if err != nil {
			return err
		}
		if acknowledged, err = acknowledgements(text); err != nil {
			return fmt.Errorf("%s: %w", acks, err)
		}
	}
	r := examine(entries, acknowledged)
	if err := stdout.Encode(r); err != nil {
		return err
	}
	if !r.Valid {
		return errWrong
	}
	return nil
}

// acknowledgements are the requests that workers said were appended. A last
// line that a killed worker did not finish is none.
func acknowledgements(text []byte) ([]string, error) {
	var requests []string
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("not a worker's line: %q: %w", line, err)
		}
		if e.Event == "appended" {
			requests = append(requests, e.Request)
		}
	}
	return requests, nil
}
