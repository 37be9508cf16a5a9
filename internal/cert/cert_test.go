package cert_test

import (
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/cert"
)

// files issues a pair into dir and names it.
func files(t *testing.T, ca *cert.CA, dir string, r cert.Request) cert.Files {
	t.Helper()
	pair, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	f := cert.Files{Cert: filepath.Join(dir, r.Name+".crt"), Key: filepath.Join(dir, r.Name+".key"), CA: filepath.Join(dir, "ca.crt")}
	if err := pair.Write(f.Cert, f.Key); err != nil {
		t.Fatal(err)
	}
	return f
}

func authority(t *testing.T, dir string) *cert.CA {
	t.Helper()
	ca, err := cert.NewCA(cert.CAConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Write(dir); err != nil {
		t.Fatal(err)
	}
	again, err := cert.LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// serve answers with the common name of the caller's certificate.
func serve(t *testing.T, f cert.Files, required bool) string {
	t.Helper()
	cfg, err := f.Server(required)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		_, _ = io.WriteString(w, name)
	}))
	s.TLS = cfg
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func get(t *testing.T, url string, f cert.Files) (string, *tls.ConnectionState, error) {
	t.Helper()
	cfg, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.TLS, err
}

func TestCA_ClientAndServer(t *testing.T) {
	dir := t.TempDir()
	ca := authority(t, dir)
	node := files(t, ca, dir, cert.Request{Name: "n1", Usage: cert.Node, Hosts: []string{"127.0.0.1", "n1.local"}})
	alice := files(t, ca, dir, cert.Request{Name: "alice", Usage: cert.Client, Role: "admin"})
	url := serve(t, node, false)

	if name, _, err := get(t, url, alice); err != nil || name != "alice" {
		t.Errorf("alice: got %q, %v", name, err)
	}
	if name, _, err := get(t, url, cert.Files{CA: node.CA}); err != nil || name != "nobody" {
		t.Errorf("no certificate: got %q, %v", name, err)
	}
	if _, _, err := get(t, serve(t, node, true), cert.Files{CA: node.CA}); err == nil {
		t.Error("required certificate: got in without")
	}

	other := t.TempDir()
	stranger := files(t, authority(t, other), other, cert.Request{Name: "alice", Usage: cert.Client})
	stranger.CA = node.CA
	if name, _, err := get(t, url, stranger); err == nil {
		t.Errorf("a stranger's certificate was taken as %q", name)
	}
	if _, _, err := get(t, serve(t, alice, false), cert.Files{CA: node.CA}); err == nil {
		t.Error("a client's certificate served as a server's")
	}
}

func TestServer_TakesUpReplacedFiles(t *testing.T) {
	dir := t.TempDir()
	ca := authority(t, dir)
	f := files(t, ca, dir, cert.Request{Name: "n1", Usage: cert.Server, Hosts: []string{"127.0.0.1"}})
	url := serve(t, f, false)
	serial := func() string {
		t.Helper()
		_, state, err := get(t, url, cert.Files{CA: f.CA})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if err := os.WriteFile(f.Cert, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != first {
		t.Error("a broken file changed what is served")
	}
	if err := errors.Join(os.Remove(f.Cert), os.Remove(f.Key)); err != nil {
		t.Fatal(err)
	}
	files(t, ca, dir, cert.Request{Name: "n1", Usage: cert.Server, Hosts: []string{"127.0.0.1"}})
	later := time.Now().Add(time.Minute) // whatever the file system's clock resolves
	if err := os.Chtimes(f.Cert, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got == first {
		t.Error("the old certificate is still served")
	}
}

func TestPair_KeyIsPrivateAndNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	ca := authority(t, dir)
	f := files(t, ca, dir, cert.Request{Name: "bob", Usage: cert.Client})
	for _, path := range []string{f.Key, filepath.Join(dir, "ca.key")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	if err := ca.Write(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second write: %v", err)
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	ca := authority(t, dir)
	f := files(t, ca, dir, cert.Request{Name: "n1", Usage: cert.Node, Hosts: []string{"n1.local", "::1"}, ValidFor: 100 * 365 * 24 * time.Hour})
	info, err := cert.Inspect(f.Cert)
	if err != nil {
		t.Fatal(err)
	}
	authorityInfo, err := cert.Inspect(f.CA)
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != "n1" || info.Usage != "node" || info.Role != "admin" || info.Issuer != "test" || strings.Join(info.Hosts, " ") != "n1.local ::1" {
		t.Errorf("got %+v", info)
	}
	if info.NotAfter.After(authorityInfo.NotAfter) {
		t.Error("the certificate outlives its authority")
	}
	if _, err := cert.Inspect(f.Key); err == nil {
		t.Error("a key was read as a certificate")
	}
}

func TestIssue_AllFaultsAtOnce(t *testing.T) {
	ca, err := cert.NewCA(cert.CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ca.Issue(cert.Request{Usage: cert.Server, ValidFor: -1})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestClient_NamesTheFile(t *testing.T) {
	_, err := cert.Files{CA: filepath.Join(t.TempDir(), "none.crt")}.Client()
	if err == nil || !strings.Contains(err.Error(), "none.crt") {
		t.Errorf("got %v", err)
	}
	if _, err := (cert.Files{Cert: "a"}).Client(); err == nil {
		t.Error("a certificate without key was taken")
	}
}
