package report

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev/lab/check"
)

// Handler serves the runs in a store, and changes nothing there:
//
//	/                          all runs, newest first; ?q= and ?verdict= narrow them
//	/runs/SCENARIO/ID/         the report of a run; while it runs, a page that follows it
//	/runs/SCENARIO/latest/     leads to the newest
//	/runs/SCENARIO/ID/FILE     plan.json, history.jsonl, journal.jsonl, logs of hosts, captures
//
// With ?format=json the first two answer in JSON. It is safe for concurrent use,
// reads nothing outside of the store, and serves whoever asks: where that is too
// much, listen on the loopback.
func Handler(store string) http.Handler {
	s := &server{store: store, now: time.Now, heard: 500 * time.Millisecond}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("GET /runs/{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "../", http.StatusMovedPermanently) })
	mux.HandleFunc("GET /runs/{scenario}/latest/{$}", s.latest)
	mux.HandleFunc("GET /runs/{scenario}/{id}/{$}", s.run)
	mux.HandleFunc("GET /runs/{scenario}/{id}/events", s.events)
	mux.HandleFunc("GET /runs/{scenario}/{id}/{file...}", s.file)
	return headers(mux)
}

type server struct {
	store string
	now   func() time.Time
	heard time.Duration // how often a run that goes on is looked at

	mu    sync.Mutex
	cache map[string]*summaryOf
	page  struct { // the last page that was made for a run that goes on
		key  string
		body []byte
	}
}

// summaryOf is a run as the index knows it, as long as its file is the same.
type summaryOf struct {
	size    int64
	changed time.Time
	Summary
}

// Summary is a run in the list of all runs.
type Summary struct {
	ID       string        `json:"id"`
	Path     string        `json:"path"`
	Scenario string        `json:"scenario"`
	System   string        `json:"system"`
	Workload string        `json:"workload"`
	Seed     uint64        `json:"seed"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration"`
	State    string        `json:"state"`
	Verdict  check.Verdict `json:"verdict"`
	Expect   check.Verdict `json:"expect,omitempty"`
	Reason   string        `json:"reason"`
	Ops      Ops           `json:"ops"`
	Faults   int           `json:"faults"`
	Doubts   int           `json:"doubts"`
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy+"; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// A directory of a run: nothing that could lead elsewhere, or be hidden.
var plain = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+@-]{0,199}$`)

// root opens the directory of a run. Nothing that is opened through it leaves
// the store, links or not.
func (s *server) root(r *http.Request) (*os.Root, string, error) {
	scenario, id := r.PathValue("scenario"), r.PathValue("id")
	if !plain.MatchString(scenario) || !plain.MatchString(id) {
		return nil, "", fs.ErrNotExist
	}
	store, err := os.OpenRoot(s.store)
	if err != nil {
		return nil, "", err
	}
	defer store.Close() //nolint:errcheck // it was only read
	dir, err := store.OpenRoot(path.Join(scenario, id))
	return dir, filepath.Join(s.store, scenario, id), err
}

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "escapes") {
		http.NotFound(w, r)
		return
	}
	http.Error(w, "the run cannot be read", http.StatusInternalServerError)
}

func wantsJSON(r *http.Request) bool { return r.URL.Query().Get("format") == "json" }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the reader has gone
}

// runs are the runs of the store, newest first.
func (s *server) runs() ([]Summary, error) {
	store, err := os.OpenRoot(s.store)
	if errors.Is(err, fs.ErrNotExist) {
		return []Summary{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer store.Close() //nolint:errcheck // it was only read
	files, err := fs.Glob(store.FS(), "*/*/run.json")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	before := s.cache
	s.mu.Unlock()
	now := make(map[string]*summaryOf, len(files))
	all := make([]Summary, 0, len(files))
	for _, name := range files {
		dir := path.Dir(name)
		if path.Base(dir) == "latest" || !plain.MatchString(path.Base(dir)) || !plain.MatchString(path.Dir(dir)) {
			continue
		}
		info, err := store.Stat(name)
		if err != nil {
			continue // it was removed meanwhile
		}
		known := before[name]
		if known == nil || known.size != info.Size() || !known.changed.Equal(info.ModTime()) {
			b, err := store.ReadFile(name)
			if err != nil {
				continue
			}
			d, err := decode(b)
			if err != nil {
				continue // not ours, or being written
			}
			known = &summaryOf{info.Size(), info.ModTime(), Summary{
				ID: clean(d.ID), Path: "runs/" + dir + "/", Scenario: clean(cmp.Or(d.Scenario, path.Dir(dir))), System: clean(d.System), Workload: clean(d.Workload),
				Seed: d.Seed, Started: d.Started, Duration: d.Duration, State: clean(d.State), Verdict: d.Verdict, Expect: d.Expect,
				Reason: clean(d.Reason), Ops: d.Ops, Faults: len(d.Faults), Doubts: len(d.Doubts),
			}}
		}
		now[name] = known
		all = append(all, known.Summary)
	}
	s.mu.Lock()
	s.cache = now
	s.mu.Unlock()
	slices.SortStableFunc(all, func(a, b Summary) int { return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(a.Path, b.Path)) })
	return all, nil
}

// shownAs is the verdict, or that there is none yet.
func (s Summary) shownAs() string {
	if s.State == "running" {
		return "running"
	}
	return string(s.Verdict)
}

func (s *server) index(w http.ResponseWriter, r *http.Request) {
	all, err := s.runs()
	if err != nil {
		refuse(w, r, err)
		return
	}
	q, verdict := r.URL.Query().Get("q"), r.URL.Query().Get("verdict")
	list := listView{Query: q, Verdict: verdict, All: len(all), Runs: []Summary{}, Counts: map[string]int{}}
	for _, run := range all {
		list.Counts[run.shownAs()]++
		text := strings.ToLower(strings.Join([]string{run.Scenario, run.ID, run.System, run.Workload, run.Reason, run.shownAs(), fmt.Sprint(run.Seed)}, " "))
		fits := verdict == "" || run.shownAs() == verdict
		for word := range strings.FieldsSeq(strings.ToLower(q)) {
			fits = fits && strings.Contains(text, word)
		}
		if fits {
			list.Runs = append(list.Runs, run)
		}
	}
	if wantsJSON(r) {
		writeJSON(w, list.Runs)
		return
	}
	var b bytes.Buffer
	b.WriteString("<!doctype html>\n")
	if err := pages.ExecuteTemplate(&b, "list.tmpl", list); err != nil {
		refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // the reader has gone
}

type listView struct {
	Query, Verdict string
	All            int
	Runs           []Summary
	Counts         map[string]int
}

// Going reports whether one of the runs goes on.
func (l listView) Going() bool {
	return slices.ContainsFunc(l.Runs, func(s Summary) bool { return s.State == "running" })
}

func (s *server) latest(w http.ResponseWriter, r *http.Request) {
	all, err := s.runs()
	if err != nil {
		refuse(w, r, err)
		return
	}
	want := "runs/" + r.PathValue("scenario") + "/"
	for _, run := range all {
		if strings.HasPrefix(run.Path, want) {
			http.Redirect(w, r, "../"+path.Base(run.Path)+"/", http.StatusFound)
			return
		}
	}
	http.NotFound(w, r)
}

// run is the page of a run: the report that is there if this build made it, else
// one that is made now.
func (s *server) run(w http.ResponseWriter, r *http.Request) {
	root, dir, err := s.root(r)
	if err != nil {
		refuse(w, r, err)
		return
	}
	defer root.Close() //nolint:errcheck // it was only read
	b, err := root.ReadFile("run.json")
	if err != nil {
		refuse(w, r, err)
		return
	}
	d, err := decode(b)
	if err != nil {
		refuse(w, r, err)
		return
	}
	if wantsJSON(r) {
		writeJSON(w, d)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if d.State != "running" && fresh(w, root) {
		return
	}
	body, err := s.make(root, dir, d)
	if err != nil {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		refuse(w, r, err)
		return
	}
	_, _ = w.Write(body) // the reader has gone
}

// fresh serves report.html if it is of this generation and no older than what it
// is made of.
func fresh(w http.ResponseWriter, root *os.Root) bool {
	f, err := root.Open("report.html")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // it was only read
	in := bufio.NewReader(f)
	head, err := in.Peek(len(marker()))
	if err != nil || string(head) != marker() {
		return false
	}
	made, err := f.Stat()
	if err != nil {
		return false
	}
	if of, err := root.Stat("run.json"); err != nil || of.ModTime().After(made.ModTime()) {
		return false
	}
	_, _ = io.Copy(w, in) // the reader has gone
	return true
}

// liveBytes is how much of a history a page of a run that goes on reads: its
// end. It is made again and again beside the run itself.
const liveBytes = 4 << 20

// make renders a page. All that ask for the same get the same.
func (s *server) make(root *os.Root, dir string, d *Data) ([]byte, error) {
	info, err := root.Stat("run.json")
	if err != nil {
		return nil, err
	}
	key := fmt.Sprint(dir, info.ModTime(), info.Size())
	s.mu.Lock()
	if s.page.key == key {
		defer s.mu.Unlock()
		return s.page.body, nil
	}
	s.mu.Unlock()
	h := &calls{notes: []string{"there is no history.jsonl"}}
	f, err := root.Open("history.jsonl")
	if err == nil {
		defer f.Close() //nolint:errcheck // it was only read
		from := int64(0)
		if i, err := f.Stat(); err == nil && d.State == "running" && i.Size() > liveBytes {
			from = i.Size() - liveBytes
		}
		if h, err = scan(f, from); err != nil {
			return nil, err
		}
		if from > 0 {
			h.notes = append(h.notes, fmt.Sprintf("While it runs, the charts show its last %s calls.", number(int64(len(h.all)))))
		}
	}
	if len(d.Faults) == 0 { // while it runs they are in the journal only
		if b, err := root.ReadFile("journal.jsonl"); err == nil {
			d.Faults = journalFaults(b, d)
		}
	}
	v := newView(d, h)
	v.Files = filesBeside(dir)
	if v.Live {
		if quiet := s.now().Sub(info.ModTime()); quiet > 20*time.Second {
			v.Notes = append(v.Notes, fmt.Sprintf("Nothing was heard of this run for %s: it may have been killed.", span(quiet.Round(time.Second))))
		}
	}
	var b bytes.Buffer
	if err := v.render(&b); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.page.key, s.page.body = key, b.Bytes()
	s.mu.Unlock()
	return b.Bytes(), nil
}

// journalFaults are the faults as far as the journal tells.
func journalFaults(journal []byte, d *Data) []Fault {
	var all []Fault
	at := map[int]int{}
	for line := range bytes.Lines(journal) {
		var e struct {
			At       time.Duration `json:"at"`
			ID       int           `json:"id"`
			Phase    string        `json:"phase"`
			Kind     string        `json:"kind"`
			Fault    string        `json:"fault"`
			Resolved string        `json:"resolved"`
			Hosts    []string      `json:"hosts"`
			Effect   struct {
				Count int64  `json:"count"`
				Text  string `json:"text"`
			} `json:"effect"`
		}
		if json.Unmarshal(line, &e) != nil || e.ID == 0 {
			continue
		}
		i, known := at[e.ID]
		if !known {
			i = len(all)
			at[e.ID] = i
			f := Fault{ID: e.ID, Kind: e.Kind, Text: e.Fault, From: e.At}
			for _, p := range d.Phases {
				if e.At >= p.From && e.At < p.To {
					f.Phase = p.Name
				}
			}
			all = append(all, f)
		}
		f := &all[i]
		f.Resolved, f.Hosts = cmp.Or(e.Resolved, f.Resolved, f.Text), append([]string(nil), e.Hosts...)
		if e.Effect.Text != "" {
			f.Touched, f.Effect = e.Effect.Count, e.Effect.Text
		}
		if e.Phase == "recovered" {
			f.To, f.Recovered = e.At, true
		}
	}
	return all
}

// events tells whenever run.json has changed, until the run has ended.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	root, _, err := s.root(r)
	if err != nil {
		refuse(w, r, err)
		return
	}
	defer root.Close() //nolint:errcheck // it was only read
	if _, err := root.Stat("run.json"); err != nil {
		refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	tick := time.NewTicker(s.heard)
	defer tick.Stop()
	var seen time.Time
	for beat := 0; ; beat++ {
		event := ""
		if info, err := root.Stat("run.json"); err == nil && !info.ModTime().Equal(seen) {
			if b, err := root.ReadFile("run.json"); err == nil {
				if d, err := decode(b); err == nil { // else it is being written
					first := seen.IsZero()
					seen = info.ModTime()
					switch {
					case d.State != "running":
						event = "event: end\ndata: " + oneLine(d.State) + "\n\n"
					case !first:
						event = "event: change\ndata: " + d.Duration.String() + "\n\n"
					}
				}
			}
		} else if err != nil {
			return
		}
		if event == "" && beat%20 == 0 {
			event = ": still here\n\n"
		}
		if event != "" {
			if _, err := io.WriteString(w, event); err != nil || out.Flush() != nil {
				return
			}
			if strings.HasPrefix(event, "event: end") {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// Files of a run that are served: no data of hosts, which may be anything.
var offered = regexp.MustCompile(`^(?:plan\.json|run\.json|history\.jsonl|journal\.jsonl|lab\.log|report\.html|[A-Za-z0-9._-]+\.pcapng|hosts/[A-Za-z0-9][A-Za-z0-9._-]*/log/[A-Za-z0-9][A-Za-z0-9._-]*)$`)

func (s *server) file(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if !offered.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	root, _, err := s.root(r)
	if err != nil {
		refuse(w, r, err)
		return
	}
	defer root.Close() //nolint:errcheck // it was only read
	f, err := root.Open(name)
	if err != nil {
		refuse(w, r, err)
		return
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	kind := "text/plain; charset=utf-8"
	switch path.Ext(name) {
	case ".json":
		kind = "application/json"
	case ".html":
		kind = "text/html; charset=utf-8"
	case ".pcapng":
		kind = "application/octet-stream"
		w.Header().Set("Content-Disposition", "attachment")
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", info.ModTime(), f)
}
