package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// writeTokens writes a file of bearer tokens: "name secret role prefix…" each.
func writeTokens(t *testing.T, file string, tokens ...string) {
	t.Helper()
	text := "tokens:\n"
	for _, token := range tokens {
		words := strings.Fields(token)
		text += fmt.Sprintf("- {name: %s, sha256: %x, role: %s, prefixes: [%s]}\n",
			words[0], sha256.Sum256([]byte(words[1])), words[2], strings.Join(words[3:], ", "))
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSecurity: three nodes that prove to each other and to their clients who
// they are, and demand the same.
func TestSecurity(t *testing.T) {
	certs := t.TempDir()
	hf := at(t)
	hf.ok("cert", "ca", "--dir", certs)
	for _, n := range []string{"n1", "n2", "n3", "n4"} {
		hf.ok("cert", "node", n, "--host", "127.0.0.1", "--dir", certs)
	}
	for _, role := range []string{"read", "write", "admin"} {
		hf.ok("cert", "client", role, "--role", role, "--dir", certs)
	}
	file := func(name string) string { return filepath.Join(certs, name) }
	tokens := file("tokens.yaml")
	writeTokens(t, tokens, "viewer v-secret read", "shop s-secret write shop/", "ops o-secret admin")

	a := addresses(t, 8)
	var peers, endpoints []string
	for i := range 3 {
		peers = append(peers, fmt.Sprintf("n%d=https://%s", i+1, a[2*i+1]))
		endpoints = append(endpoints, "https://"+a[2*i])
	}
	serve := func(i int, more ...string) []string {
		name := fmt.Sprintf("n%d", i+1)
		return append([]string{
			"serve", "--name", name, "--data", filepath.Join(t.TempDir(), name), "--listen", a[2*i], "--peer-listen", a[2*i+1],
			"--tls-cert", file(name + ".crt"), "--tls-key", file(name + ".key"), "--tls-ca", file("ca.crt"),
			"--peer-tls-cert", file(name + ".crt"), "--peer-tls-key", file(name + ".key"), "--peer-tls-ca", file("ca.crt"),
			"--tokens", tokens, "--log-level", "error",
		}, more...)
	}
	var served []*process
	for i := range 3 {
		served = append(served, hf.start(serve(i, "--peers", strings.Join(peers, ","))...))
	}
	for _, n := range served {
		n.expect("is ready")
	}
	as := func(who string) program {
		return at(t, endpoints...).with("HOLDFAST_CA="+file("ca.crt"), "HOLDFAST_CERT="+file(who+".crt"), "HOLDFAST_KEY="+file(who+".key"))
	}

	// By certificate, with the role that stands in it.
	as("write").ok("kv", "put", "colour", "blue")
	if got := as("read").ok("kv", "get", "colour"); got != "blue" {
		t.Errorf("colour is %q", got)
	}
	as("read").fails(1, "needs the role write", "kv", "put", "colour", "red")
	as("write").fails(1, "needs the role admin", "cluster", "remove", "n3")
	if first, second := as("write").token("job"), as("write").token("job"); second <= first {
		t.Errorf("token %s after %s", second, first)
	}
	as("admin").ok("backup", "copy")

	// By bearer token, which counts before the certificate.
	by := func(secret string) program { return as("admin").with("HOLDFAST_AUTH_TOKEN=" + secret) }
	by("s-secret").ok("kv", "put", "shop/a", "1")
	by("s-secret").ok("lock", "run", "shop/job", "--", "true")
	by("s-secret").fails(1, "outside the prefixes", "kv", "put", "colour", "red")
	by("s-secret").fails(1, "outside the prefixes", "kv", "get", "colour")
	by("s-secret").fails(125, "outside the prefixes", "lock", "run", "job", "--", "true")
	by("s-secret").ok("kv", "ls", "shop/")
	by("s-secret").fails(1, "outside the prefixes", "kv", "ls")
	by("v-secret").ok("kv", "get", "shop/a")
	by("v-secret").fails(1, "needs the role write", "kv", "put", "shop/a", "2")
	by("o-secret").ok("kv", "put", "anything", "x")
	by("guess").fails(1, "unknown bearer token", "kv", "get", "colour")

	// A token will do without a certificate; nothing will not, nor will what
	// another authority vouches for.
	without := at(t, endpoints...).with("HOLDFAST_CA="+file("ca.crt"), "HOLDFAST_TIMEOUT=2s")
	without.with("HOLDFAST_AUTH_TOKEN=v-secret").ok("kv", "get", "colour")
	without.fails(1, "a bearer token or a client certificate is needed", "kv", "get", "colour")
	as("admin").with("HOLDFAST_CA="+stranger(t, certs), "HOLDFAST_TIMEOUT=2s").fails(69, "certificate", "kv", "get", "colour")
	at(t, "http://"+a[0]).with("HOLDFAST_TIMEOUT=2s").fails(69, "", "kv", "get", "colour")

	// Nodes among themselves.
	own, err := tls.LoadX509KeyPair(file("n1.crt"), file("n1.key"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := hello(t, a[2*i+1], file("ca.crt")); err == nil {
			t.Errorf("n%d answers a node that shows no certificate", i+1)
		}
		if err := hello(t, a[2*i+1], file("ca.crt"), own); err != nil {
			t.Errorf("n%d does not answer another node: %v", i+1, err)
		}
	}

	// A node joins, with its own certificate; a client of lesser role cannot
	// let one in.
	as("write").fails(1, "needs the role admin", serve(3, "--join", endpoints[0])...)
	fourth := as("n4").start(serve(3, "--join", endpoints[0])...)
	fourth.expect("is ready")
	if got, want := as("read").roles(), "n1=voter n2=voter n3=voter n4=voter"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}

	// Who is taken out of the file is refused after SIGHUP.
	writeTokens(t, tokens, "viewer v-secret read")
	for _, n := range served {
		n.signal(syscall.SIGHUP)
	}
	eventually(t, "the token is refused", func() bool {
		_, errs, code := by("s-secret").run("kv", "put", "shop/a", "3")
		return code == 1 && strings.Contains(errs, "unknown bearer token")
	})
	by("v-secret").ok("kv", "get", "shop/a")
}

// stranger is the certificate of another authority of the same name.
func stranger(t *testing.T, certs string) string {
	t.Helper()
	dir := filepath.Join(certs, "stranger")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at(t).ok("cert", "ca", "--dir", dir)
	return filepath.Join(dir, "ca.crt")
}

// hello asks for anything over TLS and fails when there is no answer.
func hello(t *testing.T, address, ca string, own ...tls.Certificate) error {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: own, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/members", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestSecurity_OneWay: TLS with tokens only, and with certificates only.
func TestSecurity_OneWay(t *testing.T) {
	certs := t.TempDir()
	file := func(name string) string { return filepath.Join(certs, name) }
	hf := at(t)
	hf.ok("cert", "ca", "--dir", certs)
	hf.ok("cert", "node", "n1", "--host", "127.0.0.1", "--dir", certs)
	hf.ok("cert", "client", "app", "--dir", certs)
	writeTokens(t, file("tokens.yaml"), "app a-secret write")
	serve := func(data string, more ...string) program {
		a := addresses(t, 2)
		hf.start(append([]string{
			"serve", "--data", file(data), "--listen", a[0], "--peer-listen", a[1], "--log-level", "error",
			"--tls-cert", file("n1.crt"), "--tls-key", file("n1.key"),
		}, more...)...).expect("is ready")
		return at(t, "https://"+a[0]).with("HOLDFAST_CA="+file("ca.crt"), "HOLDFAST_TIMEOUT=3s")
	}
	get := []string{"kv", "get", "colour"}

	hf = serve("one", "--tokens", file("tokens.yaml"))
	hf.with("HOLDFAST_AUTH_TOKEN=a-secret").ok("kv", "put", "colour", "blue")
	hf.fails(1, "a bearer token or a client certificate is needed", get...)
	hf.with("HOLDFAST_AUTH_TOKEN=a-secret", "HOLDFAST_CA=").fails(69, "unknown authority", get...)

	hf = serve("two", "--tls-ca", file("ca.crt"))
	hf.with("HOLDFAST_CERT="+file("app.crt"), "HOLDFAST_KEY="+file("app.key")).ok("kv", "put", "colour", "blue")
	hf.fails(69, "no quorum", get...)
	hf.with("HOLDFAST_AUTH_TOKEN=a-secret").fails(69, "no quorum", get...)
}

// TestSecurity_Listen: what others can reach is not served in the clear, unless
// somebody insists.
func TestSecurity_Listen(t *testing.T) {
	a := addresses(t, 2)
	_, port, err := net.SplitHostPort(a[0])
	if err != nil {
		t.Fatal(err)
	}
	hf := at(t, "http://"+a[0])
	open := []string{"serve", "--listen", "0.0.0.0:" + port, "--advertise", "http://" + a[0], "--log-level", "error"}
	hf.fails(64, "there is no TLS", append(open, "--peer-listen", a[1])...)
	hf.fails(64, "there is no TLS between nodes", "serve", "--listen", a[0], "--peer-listen", "0.0.0.0:"+port, "--peer-advertise", "http://"+a[1])
	hf.fails(64, "on loopback only", "serve", "--listen", a[0], "--peer-listen", a[1], "--etcd-listen", "0.0.0.0:"+port)
	hf.fails(64, "needs https", "kv", "get", "x", "--endpoints", "http://192.0.2.1:7450", "--auth-token", "secret")
	if left, err := os.ReadDir(hf.dir); err != nil || len(left) > 0 {
		t.Errorf("a refused start left %v, %v", left, err)
	}
	hf.start(append(open, "--peer-listen", a[1], "--insecure")...).expect("is ready")
	hf.ok("kv", "put", "colour", "blue")
}
