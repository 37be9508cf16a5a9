package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/lab/history"
)

// shelf is a resource without any care.
type shelf struct {
	mu       sync.Mutex
	elements []int64
	tokens   []string
	put      func(w http.ResponseWriter) bool // instead of storing
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, r.Method+" "+r.URL.Query().Get("lock")+" "+r.Header.Get(TokenHeader))
	if r.Method == http.MethodGet {
		_ = json.NewEncoder(w).Encode(Elements{s.elements})
		return
	}
	if s.put != nil && s.put(w) {
		return
	}
	var e Elements
	_ = json.NewDecoder(r.Body).Decode(&e)
	s.elements = e.Elements
	w.WriteHeader(http.StatusNoContent)
}

func TestWithResource(t *testing.T) {
	s := &shelf{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := WithResource(&memory{}, ResourceConfig{URL: srv.URL, Fencing: true, Hold: time.Millisecond})
	defer func() { _ = c.Close() }()
	step := func(o history.Op, typ history.Type, value any, err string) {
		t.Helper()
		got := c.Invoke(within(t, 10*time.Second), o)
		if got.Type != typ || fmt.Sprintf("%#v", got.Value) != fmt.Sprintf("%#v", value) || !strings.Contains(got.Error, err) {
			t.Errorf("%s: got %s %#v %q, want %s %#v %q", o.F, got.Type, got.Value, got.Error, typ, value, err)
		}
	}
	step(op("add", "l0", int64(1)), history.Fail, int64(1), "without the lock")
	step(op("acquire", "l0", nil), history.OK, int64(1), "")
	step(op("add", "l1", int64(1)), history.Fail, int64(1), "without the lock")
	step(op("add", "l0", int64(10)), history.OK, int64(10), "")
	step(op("add", "l0", int64(11)), history.OK, int64(11), "")
	step(op("add", "l0", "x"), history.Fail, "x", "whole number")
	step(op("read", "l0", nil), history.OK, []any{int64(10), int64(11)}, "")
	step(op("release", "l0", nil), history.OK, nil, "")
	step(op("add", "l0", int64(12)), history.Fail, int64(12), "without the lock")
	step(op("write", "x", int64(3)), history.OK, int64(3), "") // everything else is the client's
	if got, want := strings.Join(s.tokens, ", "), "GET l0 1, PUT l0 1, GET l0 1, PUT l0 1, GET l0 "; got != want {
		t.Errorf("the resource saw %s, want %s", got, want)
	}

	step(op("acquire", "l0", nil), history.OK, int64(2), "")
	for _, tc := range []struct {
		put func(http.ResponseWriter) bool
		typ history.Type
		err string
	}{
		{func(w http.ResponseWriter) bool { http.Error(w, "fenced", http.StatusConflict); return true }, history.Fail, "409 fenced"},
		{func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }, history.Info, "502"},
		{func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) }, history.Info, "EOF"},
	} {
		s.put = tc.put
		step(op("add", "l0", int64(13)), tc.typ, int64(13), tc.err)
	}
	srv.Close()
	step(op("add", "l0", int64(14)), history.Fail, int64(14), "refused")
	step(op("read", "l0", nil), history.Fail, nil, "refused")
}

// A holder that has read writes, whatever its deadline says.
func TestAddOutlivesItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		c := WithResource(&memory{}, ResourceConfig{URL: "http://resource", Hold: 10 * time.Second}).(*resourceClient)
		c.http = &http.Client{Transport: direct{s}}
		c.Invoke(t.Context(), op("acquire", "l0", nil))
		var longest time.Duration
		for v := range int64(20) {
			begin := time.Now()
			if got := c.Invoke(within(t, time.Millisecond), op("add", "l0", v)); got.Type != history.OK {
				t.Errorf("got %s %q", got.Type, got.Error)
			}
			longest = max(longest, time.Since(begin))
		}
		if len(s.elements) != 20 || longest < 10*time.Second || longest > 20*time.Second {
			t.Errorf("%d elements, %v at most", len(s.elements), longest)
		}
		// Who gives up before writing has not written.
		for _, who := range []string{"cancel", "close"} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, func() {
				if who == "close" {
					_ = c.Close()
				}
				cancel()
			})
			if got := c.Invoke(ctx, op("add", "l0", int64(99))); got.Type != history.Fail || len(s.elements) != 20 {
				t.Errorf("%s: got %s %q", who, got.Type, got.Error)
			}
		}
	})
}

// direct is a transport without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, &net.OpError{Op: "dial", Err: err}
	}
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = io.NopCloser(strings.NewReader(""))
	}
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// How long a holder works is the same in every run, and spread.
func TestHold(t *testing.T) {
	var sum, least, most time.Duration = 0, time.Hour, 0
	const n = 1000
	for v := range int64(n) {
		d := hold(time.Second, "l0", v)
		if d != hold(time.Second, "l0", v) {
			t.Fatal("it differs")
		}
		sum, least, most = sum+d, min(least, d), max(most, d)
	}
	if mean := sum / n; mean < 950*time.Millisecond || mean > 1050*time.Millisecond || least > 20*time.Millisecond || most < 1980*time.Millisecond || most > 2*time.Second {
		t.Errorf("mean %v, from %v to %v", mean, least, most)
	}
	if d := hold(0, "l0", 1); d <= 0 || d > 2*defaultHold {
		t.Errorf("by default %v", d)
	}
}

// lessee is a client whose lease ends when the test says so.
type lessee struct {
	*memory
	lease context.Context
}

func (l lessee) Lease(string) context.Context { return l.lease }

func TestResource_LeaseEnds(t *testing.T) {
	puts := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			puts++
		}
		_, _ = w.Write([]byte(`{"elements": []}`))
	}))
	defer srv.Close()
	for _, ends := range []bool{false, true} {
		lease, end := context.WithCancel(t.Context())
		c := WithResource(lessee{&memory{}, lease}, ResourceConfig{URL: srv.URL, Hold: time.Millisecond})
		if op := c.Invoke(t.Context(), history.Op{F: "acquire", Key: "l"}); op.Type != history.OK {
			t.Fatalf("acquire: %v", op)
		}
		if ends {
			end()
		}
		want := history.OK
		if ends {
			want = history.Fail
		}
		if op := c.Invoke(t.Context(), history.Op{F: "add", Key: "l", Value: int64(1)}); op.Type != want {
			t.Errorf("lease ended %v: add ended %s, %s", ends, op.Type, op.Error)
		}
		end()
		_ = c.Close()
	}
	if puts != 1 {
		t.Errorf("%d writes, want one", puts)
	}
}
