package check_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// A call as tests make them up: times in milliseconds.
type call struct {
	process    int
	f, key     string
	in, out    any // the values of invocation and completion
	start, end int64
	outcome    history.Type // "" is a call that never completes
	err        string
}

// recorded is the history of calls. Of what happens at the same time,
// invocations come first.
func recorded(calls []call) history.History {
	type event struct {
		op   history.Op
		call int
	}
	var events []event
	for i, c := range calls {
		op := history.Op{Process: c.process, F: c.f, Key: c.key, Node: "n" + strconv.Itoa(1+c.process%3)}
		op.Type, op.Time, op.Value = history.Invoke, time.Duration(c.start)*time.Millisecond, c.in
		events = append(events, event{op, i})
		if c.outcome != "" {
			op.Type, op.Time, op.Value, op.Error = c.outcome, time.Duration(c.end)*time.Millisecond, c.out, c.err
			events = append(events, event{op, i})
		}
	}
	kind := func(t history.Type) int {
		if t == history.Invoke {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.op.Time, b.op.Time), cmp.Compare(kind(a.op.Type), kind(b.op.Type)), cmp.Compare(a.call, b.call))
	})
	h := make(history.History, len(events))
	for i, e := range events {
		h[i] = e.op
		h[i].Index = i
	}
	return h
}

// parse reads calls as text, one per line:
//
//	PROCESS F KEY VALUE START-END [OUTCOME]
//
// KEY is - for none. VALUE is JSON without spaces, IN>OUT where invocation and completion
// differ; a read has only OUT. OUTCOME is ok (the default), fail or info;
// END is ? for a call that never completes.
func parse(t *testing.T, text string) history.History {
	t.Helper()
	var calls []call
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) < 5 || len(w) > 6 {
			t.Fatalf("%q: want PROCESS F KEY VALUE START-END [OUTCOME]", line)
		}
		c := call{f: w[1], key: strings.TrimPrefix(w[2], "-"), outcome: history.OK}
		var err error
		if c.process, err = strconv.Atoi(w[0]); err != nil {
			t.Fatal(err)
		}
		in, out, two := strings.Cut(w[3], ">")
		if !two {
			out = in
		}
		c.in, c.out = value(t, in), value(t, out)
		if !two && strings.HasPrefix(c.f, "read") {
			c.in = nil
		}
		start, end, _ := strings.Cut(w[4], "-")
		if c.start, err = strconv.ParseInt(start, 10, 64); err != nil {
			t.Fatal(err)
		}
		if len(w) == 6 {
			c.outcome = history.Type(w[5])
		}
		if end == "?" {
			c.outcome = ""
		} else if c.end, err = strconv.ParseInt(end, 10, 64); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	h := recorded(calls)
	if _, err := h.Calls(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return h
}

func value(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	v, err := history.Normalize(v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// expect is a history and what a checker must say of it.
type expect struct {
	name    string
	verdict check.Verdict
	words   string // part of the summary or the witness
	text    string
}

func expectAll(t *testing.T, checker check.Func, tests []expect) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := parse(t, tt.text)
			r := checker(t.Context(), h)
			sound(t, h, r)
			all := r.Summary + "\n" + strings.Join(r.Witness, "\n")
			if r.Verdict != tt.verdict || !strings.Contains(all, tt.words) {
				t.Errorf("%s, want %s with %q\n%s", r.Verdict, tt.verdict, tt.words, all)
			}
			again := checker(t.Context(), h)
			if fmt.Sprint(r) != fmt.Sprint(again) {
				t.Errorf("two results:\n%v\n%v", r, again)
			}
		})
	}
}

// sound checks what holds of every result.
func sound(t *testing.T, h history.History, r check.Result) {
	t.Helper()
	indices := map[int]bool{}
	for _, op := range h {
		indices[op.Index] = true
	}
	for i, op := range r.Ops {
		if !indices[op] || i > 0 && r.Ops[i-1] >= op {
			t.Errorf("operations %v: not ascending indices of the history", r.Ops)
		}
	}
	if r.Checker == "" || r.Summary == "" || len(r.Witness) > 10 {
		t.Errorf("%+v", r)
	}
	if r.Verdict == check.Invalid && len(r.Witness) == 0 || r.Verdict == check.Valid && len(r.Witness) > 0 {
		t.Errorf("verdict %s with %d lines of witness", r.Verdict, len(r.Witness))
	}
	for _, line := range append(r.Witness, r.Summary) {
		if strings.Contains(line, "\n") || strings.Contains(line, "%!") || len(line) > 600 {
			t.Errorf("line %q", line)
		}
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	if r.Verdict != check.Valid && r.Verdict != check.Invalid && r.Verdict != check.Unknown {
		t.Errorf("verdict %q", r.Verdict)
	}
}

// stops checks that a checker ends when its context does.
func stops(t *testing.T, checker check.Func, h history.History) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := checker(ctx, h); r.Verdict != check.Unknown || !strings.Contains(r.Summary, "interrupted") {
		t.Errorf("%s: %s", r.Verdict, r.Summary)
	}
}
