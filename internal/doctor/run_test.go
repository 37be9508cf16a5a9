package doctor_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast.dev/engine"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/doctor"
	"holdfast.dev/internal/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, e *engine.Memory, change func(*server.Config)) string {
	t.Helper()
	cfg := server.Config{Engine: e, Listen: "127.0.0.1:0", Attempt: 100 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := server.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for s.Ready(t.Context()) != nil {
		<-tick.C
	}
	return s.URL()
}

func memory(t *testing.T) *engine.Memory {
	t.Helper()
	e := engine.NewMemory(engine.MemoryConfig{})
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// has says whether there is such a finding.
func has(r doctor.Report, severity doctor.Severity, what string) bool {
	for _, f := range r.Findings {
		if f.Severity == severity && strings.Contains(f.What, what) {
			return true
		}
	}
	return false
}

func TestRun_Healthy(t *testing.T) {
	e := memory(t)
	r := doctor.Run(t.Context(), doctor.Config{Endpoints: []string{start(t, e, nil), start(t, e, func(c *server.Config) { c.Name = "n2" })}})
	if r.Worst() > doctor.Info {
		t.Errorf("findings %+v", r.Findings)
	}
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
		if s.Error != "" {
			t.Errorf("step %+v", s)
		}
	}
	if got, want := strings.Join(names, ", "), "open session, acquire lock, write, write, write, write, write, read, compare and set, watch, delete, release lock, close session"; got != want {
		t.Errorf("steps %s", got)
	}
	if len(r.Nodes) != 2 || !r.Nodes[0].Ready || r.Nodes[1].Name != "n2" {
		t.Errorf("nodes %+v", r.Nodes)
	}
	left, err := e.Range(t.Context(), engine.RangeRequest{Key: "kv/", End: engine.PrefixEnd("kv/")})
	if err != nil || len(left.KVs) != 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
}

func TestRun_Outage(t *testing.T) {
	e := memory(t)
	url := start(t, e, nil)
	e.Outage(true)
	r := doctor.Run(t.Context(), doctor.Config{Endpoints: []string{url}, Timeout: 200 * time.Millisecond})
	e.Outage(false)
	if !has(r, doctor.Problem, "no quorum") || !has(r, doctor.Problem, "open session") {
		t.Errorf("findings %+v", r.Findings)
	}
}

func TestRun_Connections(t *testing.T) {
	dir := t.TempDir()
	ca, err := cert.NewCA(cert.CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Write(dir); err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(cert.Request{Name: "n1", Usage: cert.Node, Hosts: []string{"localhost"}, ValidFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f := cert.Files{Cert: filepath.Join(dir, "n1.crt"), Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.crt")}
	if err := pair.Write(f.Cert, f.Key); err != nil {
		t.Fatal(err)
	}
	e := memory(t)
	plain := start(t, e, nil)
	secure := start(t, e, func(c *server.Config) { c.TLS = f })
	strict := start(t, e, func(c *server.Config) { c.TLS, c.RequireClientCert = f, true })
	trusted, err := cert.Files{CA: f.CA}.Client()
	if err != nil {
		t.Fatal(err)
	}
	byName := func(u string) string { return strings.ReplaceAll(u, "127.0.0.1", "localhost") }

	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for what, cfg := range map[string]doctor.Config{
		"nothing listens there":           {Endpoints: []string{closed}},
		"certificate is not trusted":      {Endpoints: []string{byName(secure)}},
		"certificate is for another name": {Endpoints: []string{secure}, TLS: trusted},
		"it does not know you":            {Endpoints: []string{byName(secure)}, TLS: trusted},
		"it does not speak TLS":           {Endpoints: []string{strings.Replace(plain, "http:", "https:", 1)}},
		"it speaks TLS":                   {Endpoints: []string{strings.Replace(secure, "https:", "http:", 1)}},
		"it refuses the TLS connection":   {Endpoints: []string{byName(strict)}, TLS: trusted},
	} {
		if r := doctor.Run(t.Context(), cfg); !has(r, doctor.Problem, what) {
			t.Errorf("%q is not among %+v", what, r.Findings)
		}
	}
	own, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	r := doctor.Run(t.Context(), doctor.Config{Endpoints: []string{byName(strict)}, TLS: own})
	if r.Worst() != doctor.Warning || !has(r, doctor.Warning, "its certificate expires on") {
		t.Errorf("findings %+v", r.Findings)
	}
}
