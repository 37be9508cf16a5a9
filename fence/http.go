package fence

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"holdfast.dev"
)

// Header carries the token of a request, as a decimal number, and in a refusal
// the highest token seen.
const Header = "Fencing-Token"

// The types of the problems (RFC 9457) that Handler answers with.
const (
	ProblemFenced  = "tag:holdfast.dev,2026:fenced"      // 412: the token is too old
	ProblemToken   = "tag:holdfast.dev,2026:bad-token"   // 400: no token where one is required, or not one
	ProblemUnknown = "tag:holdfast.dev,2026:not-checked" // 503: the token could not be checked
)

// HTTP are the settings of Handler. The zero value guards the whole handler as
// one resource, requires a token of every request, and remembers in memory.
type HTTP struct {
	// Resource names what a request acts on. Two spellings of one resource
	// must give one name: take it from the matched route, not from the raw
	// path. A request for which it returns "" is refused with 400. Default:
	// the same name for all requests.
	Resource func(*http.Request) string

	// Require says which requests must carry a token. Those that need not and
	// do not are passed on unguarded; a token that is there is always checked.
	// Default: all.
	Require func(*http.Request) bool

	// Highest remembers the highest token of each resource. Default: a new
	// Memory; see there what it loses.
	Highest Highest

	// Log gets what made a token impossible to check. The caller is only told
	// that it was so. Default: nothing is logged.
	Log *slog.Logger
}

func (c HTTP) withDefaults() HTTP {
	if c.Resource == nil {
		c.Resource = func(*http.Request) string { return "http" }
	}
	if c.Require == nil {
		c.Require = func(*http.Request) bool { return true }
	}
	if c.Highest == nil {
		c.Highest = new(Memory)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Problem is the body of a refusal, application/problem+json (RFC 9457).
type Problem struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitempty"`
	Resource string         `json:"resource,omitempty"`
	Token    holdfast.Token `json:"token,omitempty"`   // the one that was refused
	Highest  holdfast.Token `json:"highest,omitempty"` // the highest that the resource has seen
}

// Handler guards next: it reads the token from the request's Fencing-Token
// header and answers 412 when the resource has seen a higher one, 400 when
// there is none or it is malformed, and 503 when that cannot be found out.
// While requests under one token are being served, those with a higher one
// wait (until their context ends: 503), so next never serves two tokens of one
// resource at once. next finds the token with [FromContext].
//
// The guard ends when next returns. What next leaves running is not guarded:
// http.TimeoutHandler and the like belong around Handler, not inside.
//
// The waiting is this process's own. When several processes serve one
// resource, share a Highest and guard the effect itself where it happens, in a
// database with [SQL]; Handler is then the quick refusal before it.
func Handler(next http.Handler, cfg HTTP) http.Handler {
	return &handler{next: next, cfg: cfg.withDefaults()}
}

type handler struct {
	next http.Handler
	cfg  HTTP
	gate gate
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values(Header)
	if len(values) == 0 && !h.cfg.Require(r) {
		h.next.ServeHTTP(w, r)
		return
	}
	resource := h.cfg.Resource(r)
	token, err := parse(values)
	if err == nil {
		err = validate(resource, token)
	}
	if err != nil {
		answer(w, Problem{
			Type: ProblemToken, Title: "a valid " + Header + " header is required",
			Status: http.StatusBadRequest, Detail: err.Error(), Resource: resource,
		})
		return
	}
	if err := h.gate.enter(r.Context(), resource, token); err != nil {
		h.refuse(w, r, resource, token, err)
		return
	}
	defer h.gate.leave(resource)
	// Asked inside the gate: nobody can come between the answer and the effect.
	highest, err := h.cfg.Highest.Raise(r.Context(), resource, token)
	if err == nil && highest > token {
		err = &StaleError{Token: token, Highest: highest}
	}
	if err != nil {
		h.refuse(w, r, resource, token, err)
		return
	}
	h.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tokenKey{}, token)))
}

type tokenKey struct{}

// FromContext is the token under which Handler let a request through; ok is
// false outside of Handler, and for a request that had none and needed none.
func FromContext(ctx context.Context) (token holdfast.Token, ok bool) {
	token, ok = ctx.Value(tokenKey{}).(holdfast.Token)
	return token, ok
}

// parse reads the header's only value.
func parse(values []string) (holdfast.Token, error) {
	switch len(values) {
	case 0:
		return 0, errNoToken
	case 1:
		return holdfast.ParseToken(values[0])
	}
	return 0, errors.New("more than one token")
}

// refuse answers for a token that was well-formed.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, resource string, token holdfast.Token, err error) {
	stale, ok := errors.AsType[*StaleError](err)
	if !ok {
		h.cfg.Log.ErrorContext(r.Context(), "fencing token not checked",
			slog.String("resource", resource), slog.String("token", token.String()), slog.Any("error", err))
		answer(w, Problem{
			Type: ProblemUnknown, Title: "the fencing token could not be checked",
			Status: http.StatusServiceUnavailable, Resource: resource, Token: token,
		})
		return
	}
	w.Header().Set(Header, stale.Highest.String())
	answer(w, Problem{
		Type: ProblemFenced, Title: "the fencing token is too old", Detail: stale.Error(),
		Status: http.StatusPreconditionFailed, Resource: resource, Token: token, Highest: stale.Highest,
	})
}

func answer(w http.ResponseWriter, p Problem) {
	body, err := json.Marshal(p)
	if err != nil { // strings and numbers only
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	// The caller may be gone; there is nobody else to tell.
	_, _ = w.Write(append(body, '\n'))
}
