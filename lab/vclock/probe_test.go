package vclock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestProbe is a probe whose process answers too late, for other questions, in
// pieces, and not at all.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProbe()
		type result struct {
			s   Sample
			err error
		}
		results := make(chan result)
		ask := func(timeout time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			s, err := p.Sample(ctx)
			results <- result{s, err}
		}
		questions := bufio.NewReader(p)
		question := func() string {
			line, err := questions.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(line)
		}
		answer := func(pieces ...string) {
			for _, piece := range pieces {
				if _, err := io.WriteString(p, piece); err != nil {
					t.Fatal(err)
				}
			}
		}

		go ask(time.Second)
		n := question()
		answer(n+" 36", "00", " 5 1000000000 77\n")
		want := Sample{Offset: 3600, Error: 5, Real: time.Unix(1, 0), Mono: 77}
		if r := <-results; r.err != nil || r.s != want {
			t.Errorf("%+v, %v", r.s, r.err)
		}

		go ask(time.Second)
		late := question()
		if r := <-results; !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("no answer: %v", r.err)
		}
		answer(late + " 1 1 1 1\n")
		go ask(time.Second)
		n = question()
		answer(late+" 2 2 2 2\n", n+" -3 3 3 3\n")
		if r := <-results; r.err != nil || r.s.Offset != -3 {
			t.Errorf("after a late answer: %+v, %v", r.s, r.err)
		}

		go ask(time.Hour)
		question()
		synctest.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if r := <-results; !errors.Is(r.err, errProbeClosed) {
			t.Errorf("closed: %v", r.err)
		}
		if _, err := questions.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("input of a closed probe: %v", err)
		}
		if _, err := p.Sample(t.Context()); !errors.Is(err, errProbeClosed) {
			t.Errorf("closed: %v", err)
		}
		for _, wrong := range []string{"what\n", "1 2 3\n", strings.Repeat("x", 5000)} {
			if _, err := fmt.Fprint(p, wrong); err == nil {
				t.Errorf("%.10q is an answer", wrong)
			}
		}
	})
}
