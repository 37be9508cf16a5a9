package workload

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"holdfast.dev/lab/driver"
)

// maxResourceBody bounds what a holder may write.
const maxResourceBody = 16 << 20

// Resource is what locks protect: one set of elements for each lock, which a
// holder reads, and replaces as a whole by what it read and its own element. So
// two holders at once lose elements of each other, unless the resource fences.
// The runner serves it on the address of the lab; [driver.WithResource] is its
// client.
//
//	GET /set?lock=l0   → {"elements": [1, 2]}
//	PUT /set?lock=l0     {"elements": [1, 2, 3]} → 204
//
// With fencing, a holder's token comes in the header Lab-Token or in the query,
// token=…; every access of a holder counts, reads too: one with a token older
// than the newest seen of the same lock is refused with 409, a PUT without token
// with 400. (Checking writes alone is not enough: a newer holder may have read
// before the older one wrote.) A GET without token is a spectator's.
type Resource struct {
	fencing bool
	now     func() time.Duration

	mu   sync.Mutex
	sets map[string]*protected
	log  []Effect
}

type protected struct {
	elements []int64
	newest   int64 // token
}

// Effect is one access that wrote, or was refused.
type Effect struct {
	At      time.Duration `json:"at"` // on the clock that NewResource was given
	Lock    string        `json:"lock"`
	Method  string        `json:"method"`
	Token   int64         `json:"token,omitempty"` // 0: none came
	Newest  int64         `json:"newest,omitempty"`
	Added   []int64       `json:"added,omitempty"` // by this write
	Lost    []int64       `json:"lost,omitempty"`  // elements that it took away: somebody's write between this holder's read and write
	Refused bool          `json:"refused,omitempty"`
}

// NewResource returns an empty resource. now is the run's clock, that of the
// history.
func NewResource(fencing bool, now func() time.Duration) *Resource {
	return &Resource{fencing: fencing, now: now, sets: map[string]*protected{}}
}

// ServeHTTP implements http.Handler.
func (r *Resource) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	lock := req.URL.Query().Get("lock")
	token, err := tokenOf(req)
	switch {
	case req.URL.Path != "/set":
		http.NotFound(w, req)
		return
	case lock == "":
		http.Error(w, "which lock? it must be in the query: lock=l0", http.StatusBadRequest)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch req.Method {
	case http.MethodGet:
		elements, newest, ok := r.read(lock, token)
		if !ok {
			refuse(w, lock, token, newest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(driver.Elements{Elements: elements}) // a reader that is gone misses nothing
	case http.MethodPut:
		var list driver.Elements
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxResourceBody)).Decode(&list); err != nil {
			http.Error(w, "elements: "+err.Error(), http.StatusBadRequest)
			return
		}
		if r.fencing && token == 0 {
			http.Error(w, "this resource fences: a write must carry the lock's token", http.StatusBadRequest)
			return
		}
		if newest, ok := r.write(lock, token, list.Elements); !ok {
			refuse(w, lock, token, newest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "GET or PUT", http.StatusMethodNotAllowed)
	}
}

func refuse(w http.ResponseWriter, lock string, token, newest int64) {
	http.Error(w, fmt.Sprintf("fenced: %s was seen with token %d, which is newer than %d", lock, newest, token), http.StatusConflict)
}

// tokenOf is the token that came with the request, 0 if none.
func tokenOf(req *http.Request) (int64, error) {
	text := req.Header.Get(driver.TokenHeader)
	if text == "" {
		text = req.URL.Query().Get("token")
	}
	if text == "" {
		return 0, nil
	}
	token, err := strconv.ParseInt(text, 10, 64)
	if err != nil || token < 1 {
		return 0, fmt.Errorf("token %q is not a whole number above 0", text)
	}
	return token, nil
}

func (r *Resource) set(lock string) *protected {
	if r.sets[lock] == nil {
		r.sets[lock] = &protected{elements: []int64{}}
	}
	return r.sets[lock]
}

// read is a holder's when it has a token.
func (r *Resource) read(lock string, token int64) (elements []int64, newest int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.set(lock)
	if !r.admit(s, token) {
		r.log = append(r.log, Effect{At: r.now(), Lock: lock, Method: http.MethodGet, Token: token, Newest: s.newest, Refused: true})
		return nil, s.newest, false
	}
	return slices.Clone(s.elements), s.newest, true
}

func (r *Resource) write(lock string, token int64, elements []int64) (newest int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.set(lock)
	e := Effect{At: r.now(), Lock: lock, Method: http.MethodPut, Token: token}
	e.Refused = !r.admit(s, token)
	e.Newest = s.newest
	if !e.Refused {
		e.Added, e.Lost = without(elements, s.elements), without(s.elements, elements)
		s.elements = elements
	}
	r.log = append(r.log, e)
	return s.newest, !e.Refused
}

// admit says whether an access with this token may go on, and remembers the token.
func (r *Resource) admit(s *protected, token int64) bool {
	if !r.fencing || token == 0 {
		return true
	}
	if token < s.newest {
		return false
	}
	s.newest = token
	return true
}

// without is a without b.
func without(a, b []int64) []int64 {
	in := make(map[int64]bool, len(b))
	for _, v := range b {
		in[v] = true
	}
	var out []int64
	for _, v := range a {
		if !in[v] {
			out = append(out, v)
		}
	}
	return out
}

// Elements is what the resource holds now for a lock.
func (r *Resource) Elements(lock string) []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.set(lock).elements)
}

// Effects are all writes and refusals so far, in order.
func (r *Resource) Effects() []Effect {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}
