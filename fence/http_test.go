package fence_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"holdfast.dev"
	"holdfast.dev/fence"
)

// send asks h with the header's values, none for no header.
func send(ctx context.Context, h http.Handler, path string, tokens ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodPut, path, strings.NewReader("data"))
	for _, token := range tokens {
		r.Header.Add(fence.Header, token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func problem(t *testing.T, w *httptest.ResponseRecorder) fence.Problem {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	var p fence.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != w.Code {
		t.Errorf("problem says %d, response %d", p.Status, w.Code)
	}
	return p
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func TestHandler_RefusesStaleTokens(t *testing.T) {
	h := fence.Handler(ok, fence.HTTP{})
	for _, token := range []string{"33", "33", "34"} {
		if w := send(t.Context(), h, "/", token); w.Code != http.StatusNoContent {
			t.Errorf("token %s: %d", token, w.Code)
		}
	}
	w := send(t.Context(), h, "/other", "33")
	if w.Code != http.StatusPreconditionFailed || w.Header().Get(fence.Header) != "34" {
		t.Errorf("stale: %d, %s: %q", w.Code, fence.Header, w.Header().Get(fence.Header))
	}
	want := fence.Problem{
		Type: fence.ProblemFenced, Title: "the fencing token is too old", Status: 412,
		Detail: "token 33 is below 34", Resource: "http", Token: 33, Highest: 34,
	}
	if got := problem(t, w); got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if !strings.Contains(w.Body.String(), `"highest":"34"`) {
		t.Errorf("the token must be a string in JSON: %s", w.Body)
	}
}

func TestHandler_MissingAndMalformed(t *testing.T) {
	h := fence.Handler(ok, fence.HTTP{Resource: func(r *http.Request) string { return strings.Trim(r.URL.Path, "/") }})
	for _, c := range []struct {
		path   string
		tokens []string
	}{
		{"/a", nil},
		{"/a", []string{""}},
		{"/a", []string{"0"}},
		{"/a", []string{"-1"}},
		{"/a", []string{"+1"}},
		{"/a", []string{"0x10"}},
		{"/a", []string{"1.0"}},
		{"/a", []string{"1, 2"}},
		{"/a", []string{"1", "2"}},
		{"/a", []string{"9223372036854775808"}},
		{"/", []string{"1"}},
	} {
		w := send(t.Context(), h, c.path, c.tokens...)
		if w.Code != http.StatusBadRequest || problem(t, w).Type != fence.ProblemToken {
			t.Errorf("%s %q: %d %s", c.path, c.tokens, w.Code, w.Body)
		}
	}
}

func TestHandler_Require(t *testing.T) {
	var tokens []holdfast.Token
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		token, ok := fence.FromContext(r.Context())
		if ok != (token != 0) {
			t.Errorf("FromContext: %d, %v", token, ok)
		}
		tokens = append(tokens, token)
	})
	h := fence.Handler(next, fence.HTTP{Require: func(r *http.Request) bool { return r.URL.Path != "/free" }})
	send(t.Context(), h, "/free")
	send(t.Context(), h, "/free", "7")
	if w := send(t.Context(), h, "/free", "6"); w.Code != http.StatusPreconditionFailed {
		t.Errorf("a token that need not be there is checked: %d", w.Code)
	}
	if w := send(t.Context(), h, "/free", "six"); w.Code != http.StatusBadRequest {
		t.Errorf("a token that need not be there is read: %d", w.Code)
	}
	if want := []holdfast.Token{0, 7}; !slices.Equal(tokens, want) {
		t.Errorf("served %v, want %v", tokens, want)
	}
}

func TestHandler_ResourcesAreIndependent(t *testing.T) {
	h := fence.Handler(ok, fence.HTTP{Resource: func(r *http.Request) string { return r.URL.Path }})
	send(t.Context(), h, "/a", "9")
	if w := send(t.Context(), h, "/b", "1"); w.Code != http.StatusNoContent {
		t.Errorf("b after a: %d", w.Code)
	}
}

type broken struct{}

func (broken) Raise(context.Context, string, holdfast.Token) (holdfast.Token, error) {
	return 0, errors.New("disk on fire")
}

// TestHandler_FailsClosed: what cannot be checked is not served, and strangers
// are not told why.
func TestHandler_FailsClosed(t *testing.T) {
	served := false
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true })
	w := send(t.Context(), fence.Handler(next, fence.HTTP{Highest: broken{}}), "/", "1")
	if w.Code != http.StatusServiceUnavailable || problem(t, w).Type != fence.ProblemUnknown || served {
		t.Errorf("%d %s, served %v", w.Code, w.Body, served)
	}
	if strings.Contains(w.Body.String(), "fire") {
		t.Errorf("the cause is shown to the caller: %s", w.Body)
	}
}

// TestHandler_WaitsForTheOlderToken: a request that is being served ends
// before the first one of its successor begins, and from the successor's
// arrival on no older one gets in.
func TestHandler_WaitsForTheOlderToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var mu sync.Mutex
		var log []string
		note := func(what string, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, what+" "+r.Header.Get(fence.Header))
		}
		h := fence.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			note("begin", r)
			if r.URL.Path == "/slow" {
				<-release
			}
			note("end", r)
		}), fence.HTTP{})
		codes := make(chan int, 4)
		start := func(ctx context.Context, path, token string) {
			go func() { codes <- send(ctx, h, path, token).Code }()
			synctest.Wait()
		}
		start(t.Context(), "/slow", "33")
		start(t.Context(), "/slow", "33") // the same holder need not wait for itself
		start(t.Context(), "/", "34")     // waits
		start(t.Context(), "/", "35")     // waits, and sends 34 away
		if got := <-codes; got != http.StatusPreconditionFailed {
			t.Errorf("34 behind 35: %d", got)
		}
		start(t.Context(), "/", "33")
		if got := <-codes; got != http.StatusPreconditionFailed {
			t.Errorf("33 while 35 waits: %d", got)
		}
		impatient, cancel := context.WithCancel(t.Context())
		start(impatient, "/", "36")
		if got := <-codes; got != http.StatusPreconditionFailed {
			t.Errorf("35 behind 36: %d", got)
		}
		cancel()
		if got := <-codes; got != http.StatusServiceUnavailable {
			t.Errorf("36 after it gave up: %d", got)
		}
		start(t.Context(), "/", "37")
		close(release)
		for range 3 {
			if got := <-codes; got != http.StatusOK {
				t.Errorf("33, 33 and 37: %d", got)
			}
		}
		if want := []string{"begin 33", "begin 33", "end 33", "end 33", "begin 37", "end 37"}; !slices.Equal(log, want) {
			t.Errorf("got %q, want %q", log, want)
		}
	})
}

// TestHandler_PanicLeavesTheGate: net/http recovers a handler's panic; the
// resource must not stay shut.
func TestHandler_PanicLeavesTheGate(t *testing.T) {
	h := fence.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic(http.ErrAbortHandler)
		}
	}), fence.HTTP{})
	func() {
		defer func() { _ = recover() }()
		send(t.Context(), h, "/panic", "1")
	}()
	if w := send(t.Context(), h, "/", "2"); w.Code != http.StatusOK {
		t.Errorf("after a panic: %d", w.Code)
	}
}

// TestHandler_EffectsNeverGoBack: whatever arrives in whatever order, the
// handler never serves two tokens at once nor goes back, and who is refused
// was really too old.
func TestHandler_EffectsNeverGoBack(t *testing.T) {
	const last holdfast.Token = 5
	rapid.Check(t, func(outer *rapid.T) {
		rapid.SyncTest(outer, func(rt *rapid.T) {
			var mu sync.Mutex
			inside := map[holdfast.Token]int{}
			var began []holdfast.Token
			next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				token, _ := fence.FromContext(r.Context())
				mu.Lock()
				inside[token]++
				began = append(began, token)
				if len(inside) > 1 {
					rt.Errorf("served at once: %v", inside)
				}
				mu.Unlock()
				if pause, err := time.ParseDuration(strings.Trim(r.URL.Path, "/")); err == nil {
					<-time.NewTimer(pause).C // of the bubble's clock
				}
				mu.Lock()
				defer mu.Unlock()
				if inside[token]--; inside[token] == 0 {
					delete(inside, token)
				}
			})
			h := fence.Handler(next, fence.HTTP{})
			var wg sync.WaitGroup
			highest := holdfast.Token(0)
			for range rapid.IntRange(1, 12).Draw(rt, "requests") {
				token := holdfast.Token(rapid.Uint64Range(1, uint64(last)).Draw(rt, "token"))
				highest = max(highest, token)
				path := rapid.SampledFrom([]string{"/0", "/1ms", "/5ms"}).Draw(rt, "work")
				wg.Go(func() {
					w := send(context.Background(), h, path, token.String())
					if token == last && w.Code != http.StatusOK {
						rt.Errorf("refused the highest token there is: %s", w.Body)
					}
				})
				if rapid.Bool().Draw(rt, "settle") {
					synctest.Wait()
				}
			}
			wg.Wait()
			if i := goesBack(began); i >= 0 {
				rt.Errorf("request %d goes back in token: %v", i, began)
			}
			if n := len(began); n == 0 || began[n-1] != highest {
				rt.Errorf("highest token %d, served %v", highest, began)
			}
		})
	})
}
