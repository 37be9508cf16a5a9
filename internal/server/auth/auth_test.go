package auth_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/internal/server/auth"
)

func sum(secret string) string {
	s := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(s[:])
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func request(t *testing.T, header string, cert *x509.Certificate) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	if cert != nil {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	}
	return r
}

func TestAuthenticate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	write(t, path, fmt.Sprintf(`
tokens:
  - {name: reader, sha256: %s, role: read, prefixes: [a/]}
  - {name: boss, sha256: %s, role: admin}
`, sum("r-secret"), sum("b-secret")))
	cert := func(name string, units ...string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name, OrganizationalUnit: units}}
	}
	for _, c := range []struct {
		title  string
		cfg    auth.Config
		header string
		cert   *x509.Certificate
		want   string
	}{
		{"open", auth.Config{}, "", nil, "anonymous admin []"},
		{"open, token ignored", auth.Config{}, "Bearer x", nil, "anonymous admin []"},
		{"token", auth.Config{Tokens: path}, "Bearer r-secret", nil, "reader read [a/]"},
		{"scheme in any case", auth.Config{Tokens: path}, "bearer b-secret", nil, "boss admin []"},
		{"wrong token", auth.Config{Tokens: path}, "Bearer r-secret2", nil, ""},
		{"the hash is not the token", auth.Config{Tokens: path}, "Bearer " + sum("r-secret"), nil, ""},
		{"no token", auth.Config{Tokens: path}, "", nil, ""},
		{"other scheme", auth.Config{Tokens: path}, "Basic r-secret", nil, ""},
		{"certificate not asked for", auth.Config{Tokens: path}, "", cert("alice"), ""},
		{"certificate", auth.Config{Certificates: true}, "", cert("alice"), "cert:alice write []"},
		{"certificate with role", auth.Config{Certificates: true}, "", cert("alice", "Ops", "read"), "cert:alice read []"},
		{"certificate without name", auth.Config{Certificates: true}, "", cert(""), ""},
		{"token before certificate", auth.Config{Tokens: path, Certificates: true}, "Bearer r-secret", cert("alice", "admin"), "reader read [a/]"},
		{"wrong token, good certificate", auth.Config{Tokens: path, Certificates: true}, "Bearer no", cert("alice"), ""},
		{"token nobody knows", auth.Config{Certificates: true}, "Bearer r-secret", nil, ""},
		{"nothing", auth.Config{Certificates: true}, "", nil, ""},
	} {
		t.Run(c.title, func(t *testing.T) {
			a, err := auth.Open(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			p, err := a.Authenticate(request(t, c.header, c.cert))
			got := ""
			if err == nil {
				got = fmt.Sprint(p.Name, " ", p.Role, " ", p.Prefixes)
			} else if !errors.Is(err, holdfast.ErrDenied) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
				t.Errorf("error %v", err)
			}
			if got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestPrincipal_May(t *testing.T) {
	p := auth.Principal{Name: "p", Role: auth.Write, Prefixes: []string{"jobs/", "deploy"}}
	for _, c := range []struct {
		role  auth.Role
		names []string
		want  bool
	}{
		{auth.Read, nil, true},
		{auth.Write, []string{"jobs/a", "deployer"}, true},
		{auth.Write, []string{"jobs/"}, true},
		{auth.Write, []string{"jobs"}, false},
		{auth.Write, []string{""}, false},
		{auth.Write, []string{"jobs/a", "other"}, false},
		{auth.Admin, nil, false},
	} {
		err := p.May(c.role, c.names...)
		if (err == nil) != c.want {
			t.Errorf("%v %q: %v", c.role, c.names, err)
		}
		if err != nil && !errors.Is(err, holdfast.ErrDenied) {
			t.Errorf("%v %q: %v", c.role, c.names, err)
		}
	}
	if (auth.Principal{}).Sees("a") {
		t.Error("nobody sees something")
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	file := func(secret string) string {
		return fmt.Sprintf("tokens: [{name: x, sha256: %s, role: read}]", sum(secret))
	}
	write(t, path, file("one"))
	var reloads []error
	a, err := auth.Open(auth.Config{Tokens: path, OnReload: func(err error) { reloads = append(reloads, err) }})
	if err != nil {
		t.Fatal(err)
	}
	knows := func(secret string) bool {
		_, err := a.Authenticate(request(t, "Bearer "+secret, nil))
		return err == nil
	}
	touch := func(d time.Duration) { // whatever the file system's clock resolves
		at := time.Now().Add(d)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(t, path, "tokens: [{name: x}]")
	touch(time.Minute)
	if !knows("one") {
		t.Error("a broken file took the tokens out of force")
	}
	write(t, path, file("two"))
	touch(2 * time.Minute)
	if knows("one") || !knows("two") {
		t.Error("the new file does not count")
	}
	if len(reloads) != 2 || reloads[0] == nil || reloads[1] != nil {
		t.Errorf("reloads told: %v", reloads)
	}
	write(t, path, "tokenz: []")
	if err := a.Reload(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("reload of a broken file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !knows("two") {
		t.Error("a missing file took the tokens out of force")
	}
}

func TestOpen_AllFaultsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	write(t, path, fmt.Sprintf(`
tokens:
  - {name: a, sha256: %s, role: read}
  - {name: a, sha256: 12, role: root, prefixes: [""]}
  - {name: "cert:x", sha256: %s, role: read}
  - {sha256: %s, role: read}
`, sum("a"), sum("b"), sum("c")))
	_, err := auth.Open(auth.Config{Tokens: path})
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{path, "twice", "64 hex", `"root"`, "empty one", "something else", "token 4: name: is missing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if _, err := auth.Open(auth.Config{Tokens: path + ".none"}); err == nil {
		t.Error("a missing file was taken")
	}
}
