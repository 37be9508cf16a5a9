package report

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/lab/check"
)

// store makes a store of three runs, and serves it.
func newStore(t *testing.T) (dir string, srv *httptest.Server) {
	t.Helper()
	dir = t.TempDir()
	_, lines := fixture(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, run := range []string{"demo/20260102T030405", "demo/20260102T030409", "other/20260102T030407"} {
		d, _ := fixture(t)
		d.ID, d.Scenario, d.Started, d.Seed = run, filepath.Dir(run), at.Add([]time.Duration{0, 4e9, 2e9}[i]), uint64(i)
		if i == 2 {
			d.Verdict, d.Expect, d.Reason = check.Valid, check.Valid, "<b>every promise held</b>"
		}
		writeRun(t, filepath.Join(dir, run), d, lines)
	}
	write(t, filepath.Join(dir, "demo/20260102T030405/hosts/n1/log/regsrv.log"), "<script>alert(1)</script>\n")
	write(t, filepath.Join(dir, "demo/20260102T030405/hosts/n1/data/secret"), "secret")
	write(t, filepath.Join(dir, "demo/20260102T030405/plan.json"), "{}")
	write(t, filepath.Join(dir, "secret.txt"), "secret")
	write(t, filepath.Join(filepath.Dir(dir), "outside", "plan.json"), "secret")
	write(t, filepath.Join(dir, "broken/1/run.json"), "{")
	for link, to := range map[string]string{
		"demo/latest":                         "20260102T030409",
		"demo/elsewhere":                      filepath.Join(filepath.Dir(dir), "outside"),
		"demo/20260102T030409/journal.jsonl":  filepath.Join(filepath.Dir(dir), "outside", "plan.json"),
		"demo/20260102T030409/lab.log":        "../../secret.txt",
		"demo/20260102T030405/hosts/n1/log/d": "../data",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	srv = httptest.NewServer(Handler(dir))
	t.Cleanup(srv.Close)
	return dir, srv
}

func get(t *testing.T, url string) (status int, header http.Header, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func TestIndex(t *testing.T) {
	dir, srv := newStore(t)
	status, h, body := get(t, srv.URL+"/")
	if status != http.StatusOK || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("status %d, headers %v", status, h)
	}
	if strings.Contains(body, "<b>every") {
		t.Error("a reason is not escaped")
	}
	if want := "<style>" + styles + "</style>"; !strings.Contains(body, want) {
		t.Error("the style sheet is not what its digest is of")
	}
	if want := "<script>" + listScript + "</script>"; !strings.Contains(body, want) {
		t.Error("the script is not what its digest is of")
	}
	for query, want := range map[string][]string{
		"":                           {"demo/20260102T030409", "other/20260102T030407", "demo/20260102T030405"},
		"&verdict=valid":             {"other/20260102T030407"},
		"&verdict=invalid":           {"demo/20260102T030409", "demo/20260102T030405"},
		"&q=DEMO+20260102T030405":    {"demo/20260102T030405"},
		"&q=nothing+like+it":         nil,
		"&q=promise&verdict=invalid": nil,
	} {
		_, _, body := get(t, srv.URL+"/?format=json"+query)
		var runs []Summary
		if err := json.Unmarshal([]byte(body), &runs); err != nil || runs == nil {
			t.Fatalf("%s: %v: %s", query, err, body)
		}
		var got []string
		for _, r := range runs {
			got = append(got, r.ID)
			if status, _, _ := get(t, srv.URL+"/"+r.Path); status != http.StatusOK {
				t.Errorf("%s: status %d", r.Path, status)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if status, _, body := get(t, srv.URL+"/"); status != http.StatusOK || !strings.Contains(body, "There are no runs here yet") {
		t.Errorf("without a store: %d", status)
	}
}

func TestRunPage(t *testing.T) {
	dir, srv := newStore(t)
	run := filepath.Join(dir, "demo/20260102T030405")
	page := srv.URL + "/runs/demo/20260102T030405/"
	status, _, made := get(t, page)
	if status != http.StatusOK || !strings.Contains(made, "an acknowledged write was lost") {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{"<style>" + styles + "</style>", "<script>" + script + "</script>"} {
		if !strings.Contains(made, want) {
			t.Error("the page does not have what its policy has digests of")
		}
	}
	if err := WriteFile(run); err != nil {
		t.Fatal(err)
	}
	if _, _, body := get(t, page); body != read(t, filepath.Join(run, "report.html")) {
		t.Error("the report that is there is not what is served")
	}
	write(t, filepath.Join(run, "report.html"), "<!doctype html><!-- of an older build -->")
	if _, _, body := get(t, page); body != made {
		t.Error("the report of an older build was not made anew")
	}
	status, h, body := get(t, page+"?format=json")
	var d Data
	if err := json.Unmarshal([]byte(body), &d); err != nil || d.Scenario != "demo" || h.Get("Content-Type") != "application/json" || status != http.StatusOK {
		t.Errorf("json: %d %v %v", status, err, h)
	}
	if status, h, _ := get(t, srv.URL+"/runs/demo/latest/"); status != http.StatusFound || h.Get("Location") != "/runs/demo/20260102T030409/" {
		t.Errorf("latest: %d, to %q", status, h.Get("Location"))
	}
}

func TestFiles(t *testing.T) {
	_, srv := newStore(t)
	run := "/runs/demo/20260102T030405/"
	for path, want := range map[string]int{
		run + "plan.json":                          http.StatusOK,
		run + "run.json":                           http.StatusOK,
		run + "history.jsonl":                      http.StatusOK,
		run + "hosts/n1/log/regsrv.log":            http.StatusOK,
		run + "hosts/n1/log/d":                     http.StatusNotFound,
		run + "hosts/n1/data/secret":               http.StatusNotFound,
		run + "hosts/n1/log/../data/x":             http.StatusTemporaryRedirect, // to a clean path
		run + "journal.jsonl":                      http.StatusNotFound,
		run + "hosts":                              http.StatusNotFound,
		run + "secret.txt":                         http.StatusNotFound,
		run + "..%2f..%2fsecret.txt":               http.StatusNotFound,
		run + "%2e%2e/%2e%2e/secret.txt":           http.StatusNotFound,
		"/runs/demo/20260102T030409/journal.jsonl": http.StatusNotFound, // a link out of the store
		"/runs/demo/20260102T030409/lab.log":       http.StatusNotFound, // out of the run
		"/runs/demo/elsewhere/plan.json":           http.StatusNotFound,
		"/runs/..%2f/outside/plan.json":            http.StatusNotFound,
		"/runs/%2e%2e/outside/":                    http.StatusNotFound,
		"/runs/demo/nothing/":                      http.StatusNotFound,
		"/runs/demo/nothing/events":                http.StatusNotFound,
		"/runs/broken/1/":                          http.StatusInternalServerError,
		"/secret.txt":                              http.StatusNotFound,
		"/runs/nothing/latest/":                    http.StatusNotFound,
	} {
		status, h, body := get(t, srv.URL+path)
		if status != want || strings.Contains(body, "secret") && status == http.StatusOK {
			t.Errorf("%s: status %d, want %d: %.80s", path, status, want, body)
		}
		if h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: no policy", path)
		}
	}
	if _, h, _ := get(t, srv.URL+run+"hosts/n1/log/regsrv.log"); h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("a log is served as %s", h.Get("Content-Type"))
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+run, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d %v", res.StatusCode, err)
	}
}

// TestLive follows a run from its first operations to its end.
func TestLive(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "demo", "1")
	d, lines := fixture(t)
	whole := *d
	d.State, d.Verdict, d.Reason, d.Results, d.Faults, d.Links = "running", "", "", nil, nil, nil
	writeRun(t, run, d, lines[:len(lines)/2])
	write(t, filepath.Join(run, "journal.jsonl"), `{"at":2600000000,"id":1,"phase":"inject","kind":"net","fault":"net cut one","resolved":"net cut n1|n2","hosts":["n1"]}`+"\n"+
		`{"at":2700000000,"id":1,"phase":"verified","kind":"net","fault":"net cut one","resolved":"net cut n1|n2","hosts":["n1"],"effect":{"count":3,"text":"touched 3 frames"}}`+"\n"+`{"at":27`)
	s := &server{store: dir, now: time.Now, heard: 5 * time.Millisecond}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /runs/{scenario}/{id}/{$}", s.run)
	mux.HandleFunc("GET /runs/{scenario}/{id}/events", s.events)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	page := srv.URL + "/runs/demo/1/"
	_, _, body := get(t, page)
	for _, want := range []string{`data-live="yes"`, `<noscript><meta http-equiv="refresh"`, "touched 3 frames", "Phase heal", "Checkers run when the run has ended"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page of a run that goes on has no %q", want)
		}
	}
	s.mu.Lock()
	s.page.key = ""
	s.now = func() time.Time { return time.Now().Add(time.Hour) }
	s.mu.Unlock()
	if _, _, body := get(t, page); !strings.Contains(body, "Nothing was heard of this run for") {
		t.Error("a run that was killed looks as if it went on")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, page+"events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	events := bufio.NewScanner(res.Body)
	next := func() string {
		for events.Scan() {
			if name, ok := strings.CutPrefix(events.Text(), "event: "); ok {
				return name
			}
		}
		return fmt.Sprint("nothing: ", events.Err())
	}
	if !events.Scan() || !strings.HasPrefix(events.Text(), ":") {
		t.Fatalf("the stream does not begin: %q %v", events.Text(), events.Err())
	}
	replace := func(d *Data, at int) {
		write(t, filepath.Join(run, "run.json"), "{") // half of one is passed over
		writeRun(t, run, d, lines)
		later := time.Now().Add(time.Duration(at) * time.Second) // on filesystems with coarse times too
		if err := os.Chtimes(filepath.Join(run, "run.json"), later, later); err != nil {
			t.Fatal(err)
		}
	}
	d.Duration += time.Second
	replace(d, 1)
	if got := next(); got != "change" {
		t.Errorf("event %q, want change", got)
	}
	replace(&whole, 2)
	got := next()
	for got == "change" { // the file was seen before its time was set
		got = next()
	}
	if got != "end" {
		t.Errorf("event %q, want end", got)
	}
	for events.Scan() { // the rest of the last event
		if strings.HasPrefix(events.Text(), "event: ") {
			t.Errorf("after the end: %q", events.Text())
		}
	}
	if _, _, body := get(t, page); strings.Contains(body, `data-live`) || !strings.Contains(body, "As expected: invalid") {
		t.Error("the page of a run that ended is not its report")
	}
}
