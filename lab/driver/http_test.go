package driver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast.dev/lab/history"
)

// kvServer is a small key-value server that breaks off requests for the key
// "broken".
func kvServer(t *testing.T) netip.AddrPort {
	t.Helper()
	var mu sync.Mutex
	values := map[string]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.URL.Path, "/kv/")
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case key == "broken":
			panic(http.ErrAbortHandler)
		case r.Method == http.MethodPut:
			values[key] = string(body)
		case values[key] == "":
			_, _ = io.WriteString(w, "null")
		default:
			_, _ = io.WriteString(w, values[key])
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}

// fakeEnv is a world with one host.
type fakeEnv struct {
	specEnv

	data    string
	started []Process
	execs   []string
	ran     func(host string, p Process) ([]byte, error)
	mu      sync.Mutex
}

func newFakeEnv(options map[string]string) *fakeEnv {
	return &fakeEnv{specEnv: specEnv{spec: ClientSpec{
		Nodes: []string{"n1", "n2", "n3"},
		Addrs: map[string]netip.Addr{
			"n1": netip.MustParseAddr("127.0.0.1"),
			"n2": netip.MustParseAddr("10.77.0.12"),
			"n3": netip.MustParseAddr("10.77.0.13"),
		},
		Lab: netip.MustParseAddr("10.77.0.1"), Options: options,
	}, log: io.Discard}}
}

func (e *fakeEnv) DataDir(host string) string { return e.data + "/" + host }
func (e *fakeEnv) LogDir(host string) string  { return "/log/" + host }

func (e *fakeEnv) Start(_ context.Context, host string, p Process) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = append(e.started, p)
	e.execs = append(e.execs, host+" start "+strings.Join(p.Argv, " "))
	return nil
}

func (e *fakeEnv) Exec(_ context.Context, host string, p Process) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.execs = append(e.execs, host+" exec "+strings.Join(p.Argv, " "))
	if e.ran != nil {
		return e.ran(host, p)
	}
	return nil, nil
}

// rawServer answers each connection with a function.
func rawServer(t *testing.T, serve func(conn net.Conn)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

func httpTo(t *testing.T, url string, change func(*HTTPConfig)) *httpClient {
	t.Helper()
	cfg := HTTPConfig{
		URL: url,
		Ops: map[string]HTTPOpConfig{
			"read":  {Path: "/kv/{{.Key}}", Nil: []int{404}, Value: &HTTPValueConfig{JSON: "node.value"}},
			"write": {Method: "PUT", Path: "/kv/{{.Key}}", Body: `{"value":{{json .Value}}}`, OK: []int{200, 204}, Fail: []int{409, 412}},
			"cas":   {Method: "POST", Path: "/kv/{{.Key}}?old={{index .Value 0}}", Body: `{{index .Value 1}}`, Headers: map[string]string{"Idempotency-Key": "p{{.Process}}"}},
		},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := newHTTPClient(cfg, newFakeEnv(map[string]string{"token": "s3cret"}), "n1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestHTTPOutcomes(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		op     history.Op
		typ    history.Type
		value  any
		err    string
	}{
		{200, `{"node":{"value":7}}`, op("read", "x", nil), history.OK, int64(7), ""},
		{200, `{"node":{"value":[1,2]}}`, op("read", "x", nil), history.OK, []any{int64(1), int64(2)}, ""},
		{404, `not found`, op("read", "x", nil), history.OK, nil, ""},
		{200, `{"node":{}}`, op("read", "x", nil), history.Info, nil, "no value of node.value"},
		{200, `<html>`, op("read", "x", nil), history.Info, nil, "not JSON"},
		{500, `oops`, op("read", "x", nil), history.Info, nil, "status 500 oops"},
		{200, ``, op("write", "x", int64(5)), history.OK, int64(5), ""},
		{201, ``, op("write", "x", int64(5)), history.Info, int64(5), "status 201"}, // ok is said, and is not this
		{204, ``, op("write", "x", int64(5)), history.OK, int64(5), ""},
		{409, `conflict`, op("write", "x", int64(5)), history.Fail, int64(5), "status 409 conflict"},
		{302, ``, op("write", "x", int64(5)), history.Info, int64(5), "status 302"},
		{503, "a\xffb", op("write", "x", int64(5)), history.Info, int64(5), "status 503 a?b"},
		{201, ``, op("cas", "x", []any{int64(1), int64(2)}), history.OK, []any{int64(1), int64(2)}, ""},
		{200, ``, op("delete", "x", nil), history.Fail, nil, "describes no request for delete"},
		{200, ``, op("cas", "x", int64(1)), history.Fail, int64(1), "template"},
	} {
		t.Run(fmt.Sprint(tc.status, tc.op.F, tc.body), func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/kv/elsewhere")
				w.WriteHeader(tc.status)
				if tc.status != 204 {
					_, _ = io.WriteString(w, tc.body)
				}
			}))
			defer s.Close()
			got := httpTo(t, s.URL, nil).Invoke(within(t, 5*time.Second), tc.op)
			if got.Type != tc.typ || fmt.Sprintf("%#v", got.Value) != fmt.Sprintf("%#v", tc.value) || !strings.Contains(got.Error, tc.err) {
				t.Errorf("got %s %#v %q, want %s %#v %q", got.Type, got.Value, got.Error, tc.typ, tc.value, tc.err)
			}
		})
	}
}

func TestHTTPRequest(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s %s %s %s", r.Method, r.URL, r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), r.Host, body)
	}))
	defer s.Close()
	c := httpTo(t, s.URL, func(cfg *HTTPConfig) {
		cfg.Headers = map[string]string{"Authorization": `Bearer {{.Option "token"}}`, "Host": "{{.Node}}.lab"}
	})
	c.Invoke(within(t, 5*time.Second), op("cas", "a/b", []any{int64(1), int64(2)}))
	if want := "POST /kv/a/b?old=1 Bearer s3cret p3 n1.lab 2"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c.Invoke(within(t, 5*time.Second), op("write", "x", "a\"b"))
	if want := `PUT /kv/x Bearer s3cret  n1.lab {"value":"a\"b"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHTTPValues(t *testing.T) {
	for _, tc := range []struct {
		cfg  HTTPValueConfig
		body string
		want any
		err  string
	}{
		{HTTPValueConfig{JSON: "."}, `{"a":[1]}`, map[string]any{"a": []any{int64(1)}}, ""},
		{HTTPValueConfig{JSON: "items.1.id"}, `{"items":[{"id":1},{"id":"b"}]}`, "b", ""},
		{HTTPValueConfig{JSON: "items.2"}, `{"items":[1,2]}`, nil, "no 2 of items.2"},
		{HTTPValueConfig{JSON: "items.-1"}, `{"items":[1,2]}`, nil, "no -1"},
		{HTTPValueConfig{JSON: "a.b"}, `{"a":5}`, nil, "no b of a.b"},
		{HTTPValueConfig{JSON: "a"}, `{"a":null}`, nil, ""},
		{HTTPValueConfig{JSON: "a"}, `{"a":1} {}`, nil, "not JSON"},
		{HTTPValueConfig{Regexp: `value=(\w+)`}, `ok value=17;`, int64(17), ""},
		{HTTPValueConfig{Regexp: `value=(\w*)`}, `ok value=;`, nil, ""},
		{HTTPValueConfig{Regexp: `value=(\w+)`}, `ok`, nil, "does not match"},
		{HTTPValueConfig{Text: true}, " 42\n", int64(42), ""},
		{HTTPValueConfig{Text: true}, "4.2e1x", "4.2e1x", ""},
		{HTTPValueConfig{Text: true}, "", nil, ""},
	} {
		got, err := tc.cfg.extract([]byte(tc.body))
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", tc.want) || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%+v of %q: got %#v, %v, want %#v, %q", tc.cfg, tc.body, got, err, tc.want, tc.err)
		}
	}
}

// Fail is said only where the server has seen nothing.
func TestHTTPHostile(t *testing.T) {
	endless := func(line string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			chunk := strings.Repeat(line, 1000)
			for {
				if _, err := io.WriteString(conn, chunk); err != nil {
					return
				}
			}
		}
	}
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
		err   string
	}{
		{"closes at once", func(net.Conn) {}, ""},
		{"closes after the request", func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }, ""},
		{"no HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "-ERR unknown command\r\n"); hear(c) }, "malformed"},
		{"hangs", func(c net.Conn) { hear(c) }, "deadline"},
		{"half a body", func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
		}, "EOF"},
		{"headers without end", endless("X-A: " + strings.Repeat("b", 1000) + "\r\n"), "EOF"},
		{"a header without end", endless("X-A: b"), "EOF"},
		{"a body without end", endless("\r\n" + strings.Repeat("b", 1000)), "longer than"},
		{"interim answers without end", func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		}, "interim"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := httpTo(t, rawServer(t, tc.serve), nil)
			for range 2 { // nothing of the first reaches the second
				d := 10 * time.Second
				if tc.name == "hangs" {
					d = 100 * time.Millisecond
				}
				got := c.Invoke(within(t, d), op("write", "x", int64(5)))
				if got.Type != history.Info || !strings.Contains(got.Error, tc.err) {
					t.Errorf("got %s %q, want info with %q", got.Type, got.Error, tc.err)
				}
			}
		})
	}
	t.Run("closes while the request is written", func(t *testing.T) {
		c := httpTo(t, rawServer(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)) }), nil)
		got := c.Invoke(within(t, 10*time.Second), op("write", "x", strings.Repeat("v", 32<<20)))
		if got.Type != history.Info || got.Error == "" {
			t.Errorf("got %s %q", got.Type, got.Error)
		}
	})
	t.Run("refused", func(t *testing.T) {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		got := httpTo(t, "http://"+l.Addr().String(), nil).Invoke(within(t, 5*time.Second), op("write", "x", int64(5)))
		if got.Type != history.Fail || !strings.Contains(got.Error, "refused") {
			t.Errorf("got %s %q", got.Type, got.Error)
		}
	})
	t.Run("no time left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := httpTo(t, "http://"+kvServer(t).String(), nil).Invoke(ctx, op("write", "x", int64(5))); got.Type != history.Fail {
			t.Errorf("got %s %q", got.Type, got.Error)
		}
	})
}

// hear reads until the other end closes.
func hear(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// A request on a connection that breaks is never sent again: net/http's own
// client does that with GET, and with Idempotency-Key.
func TestHTTPNoSilentRetries(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep alive ", keep), func(t *testing.T) {
			var requests, conns atomic.Int32
			url := rawServer(t, func(conn net.Conn) {
				conns.Add(1)
				r := bufio.NewReader(conn)
				for n := 0; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					requests.Add(1)
					if n > 0 || req.Header.Get("Idempotency-Key") == "p4" {
						return // the request was taken, and is not answered
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"node\":{\"value\":1}}")
				}
			})
			c := httpTo(t, url, func(cfg *HTTPConfig) { cfg.KeepAlive = keep })
			crash := op("cas", "x", []any{int64(1), int64(2)})
			crash.Process = 4
			var types []history.Type
			ops := []history.Op{op("read", "x", nil), op("read", "x", nil), op("read", "x", nil), crash, op("read", "x", nil)}
			for _, o := range ops {
				types = append(types, c.Invoke(within(t, 5*time.Second), o).Type)
			}
			want := []history.Type{history.OK, history.OK, history.OK, history.Info, history.OK}
			if keep {
				want = []history.Type{history.OK, history.Info, history.OK, history.Info, history.OK}
			}
			if !slices.Equal(types, want) {
				t.Errorf("got %v, want %v", types, want)
			}
			if n := requests.Load(); int(n) != len(ops) {
				t.Errorf("%d operations were sent %d times", len(ops), n)
			}
			if n := conns.Load(); keep && n != 3 || !keep && n != 5 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestHTTPS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	s.Config.ErrorLog = nil
	if got := httpTo(t, s.URL, nil).Invoke(within(t, 5*time.Second), op("write", "x", int64(5))); got.Type != history.Fail || !strings.Contains(got.Error, "certificate") {
		t.Errorf("a certificate that nobody knows: %s %q", got.Type, got.Error)
	}
	c := httpTo(t, s.URL, func(cfg *HTTPConfig) { cfg.Insecure = true })
	if got := c.Invoke(within(t, 5*time.Second), op("write", "x", int64(5))); got.Type != history.OK {
		t.Errorf("insecure: %s %q", got.Type, got.Error)
	}
}
