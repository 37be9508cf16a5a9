package workload

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// Check judges what locks protect by the resource's own log, whatever clients
// heard: no write may take away an element that another had written, and with
// fencing tokens may not go back. It is Unknown where nothing was written. The
// history is not needed.
func (r *Resource) Check(context.Context, history.History) check.Result {
	const most = 10
	type wrote struct {
		at    time.Duration
		token int64
	}
	var (
		res      = check.Result{Checker: "resource"}
		by       = map[string]map[int64]wrote{}
		newest   = map[string]wrote{}
		accepted int64
		refused  int64
		lost     int64
		back     int64
	)
	witness := func(format string, args ...any) {
		if len(res.Witness) < most {
			res.Witness = append(res.Witness, fmt.Sprintf(format, args...))
		}
	}
	for _, e := range r.Effects() {
		if e.Refused {
			refused++
			continue
		}
		if e.Method != http.MethodPut {
			continue
		}
		accepted++
		if by[e.Lock] == nil {
			by[e.Lock] = map[int64]wrote{}
		}
		for _, v := range e.Added {
			by[e.Lock][v] = wrote{e.At, e.Token}
		}
		for _, v := range e.Lost {
			lost++
			w := by[e.Lock][v]
			witness("%s: element %d, written at %v%s, was gone after the write at %v%s", e.Lock, v, w.at, under(w.token), e.At, under(e.Token))
		}
		if n := newest[e.Lock]; r.fencing && e.Token < n.token {
			back++
			witness("%s: a write%s was accepted at %v, after one%s at %v", e.Lock, under(e.Token), e.At, under(n.token), n.at)
		} else {
			newest[e.Lock] = wrote{e.At, e.Token}
		}
	}
	res.Stats = map[string]any{"accepted": accepted, "refused": refused, "lost": lost}
	switch {
	case accepted == 0:
		res.Verdict, res.Summary = check.Unknown, "nothing was written under a lock, so nothing is shown"
	case lost > 0 || back > 0:
		res.Verdict = check.Invalid
		res.Summary = fmt.Sprintf("of %d writes under locks some took away %d elements that other holders had written, and %d had old tokens", accepted, lost, back)
	default:
		res.Verdict = check.Valid
		res.Summary = fmt.Sprintf("%d writes under locks, none lost; %d accesses with old tokens refused", accepted, refused)
	}
	return res
}

func under(token int64) string {
	if token == 0 {
		return ""
	}
	return fmt.Sprintf(" with token %d", token)
}
