package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/internal/devcluster"
)

// etcdctl is Debian's etcdctl, talking to an etcd.
func etcdctl(t *testing.T, endpoint string) func(args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("etcdctl")
	if err != nil {
		t.Skip("needs etcdctl: install the Debian package etcd-client")
	}
	return func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := at(t).with("ETCDCTL_API=3").command(ctx, tool, append([]string{"--endpoints", endpoint}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

// TestEtcdctl_ReadsAnEmbeddedNode: what a node keeps is an etcd's, and the
// tools for that read it.
func TestEtcdctl_ReadsAnEmbeddedNode(t *testing.T) {
	c, hf := nodes(t, devcluster.Config{Nodes: 1})
	ctl := etcdctl(t, c.Nodes()[0].Etcd)

	hf.ok("kv", "put", "colour", "blue")
	holder := hf.start("lock", "run", "job", "--", "sh", "-c", `echo "held $HOLDFAST_SESSION"; exec sleep 600`)
	session := strings.Fields(holder.expect("held "))[1]

	keys := ctl("get", "/holdfast/", "--prefix", "--keys-only")
	for _, want := range []string{"/holdfast/epoch", "/holdfast/kv/colour", "/holdfast/lock/r/job", "/holdfast/session/" + session} {
		if !strings.Contains(keys, want+"\n") {
			t.Errorf("%s is not among the keys:\n%s", want, keys)
		}
	}
	if got := ctl("get", "/holdfast/kv/colour", "--print-value-only"); got != "blue\n" {
		t.Errorf("colour is %q", got)
	}
	if got := ctl("get", "/holdfast/lock/r/job", "--print-value-only"); !strings.Contains(got, session) {
		t.Errorf("the lock does not name session %s: %s", session, got)
	}
	if got := ctl("lease", "timetolive", session, "--keys"); !strings.Contains(got, "/holdfast/session/"+session) {
		t.Errorf("the session's lease: %s", got)
	}
	if got := ctl("endpoint", "health"); !strings.Contains(got, "is healthy") {
		t.Errorf("health: %s", got)
	}
	if got := ctl("member", "list"); !strings.Contains(got, ", started, n1, ") {
		t.Errorf("members: %s", got)
	}
	// The other way round.
	ctl("put", "/holdfast/kv/shape", "round")
	if got := hf.ok("kv", "get", "shape"); got != "round" {
		t.Errorf("shape is %q", got)
	}
}

// etcd starts Debian's etcd and returns its address.
func etcd(t *testing.T) string {
	t.Helper()
	server, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("needs etcd: install the Debian package etcd-server")
	}
	a := addresses(t, 2)
	p := at(t)
	p.launch(server, "--data-dir", filepath.Join(t.TempDir(), "etcd"), "--log-level", "error",
		"--listen-client-urls", "http://"+a[0], "--advertise-client-urls", "http://"+a[0],
		"--listen-peer-urls", "http://"+a[1], "--initial-advertise-peer-urls", "http://"+a[1], "--initial-cluster", "default=http://"+a[1])
	return a[0]
}

// TestEngine_Etcd: all primitives on an etcd that knows nothing of us, without
// any node.
func TestEngine_Etcd(t *testing.T) {
	address := etcd(t)
	hf := at(t).with("HOLDFAST_ENGINE=etcd://"+address, "HOLDFAST_TIMEOUT=30s")

	// Locks.
	first := hf.token("job")
	holder := hf.start("lock", "run", "job", "--note", "a note", "--", "sh", "-c", "echo held; exec sleep 600")
	holder.expect("held")
	if got := hf.ok("lock", "ls"); !strings.Contains(got, "job") || !strings.Contains(got, "exclusive") {
		t.Errorf("lock ls: %s", got)
	}
	if got := hf.ok("lock", "show", "job"); !strings.Contains(got, "a note") {
		t.Errorf("lock show: %s", got)
	}
	hf.fails(124, "held by another", "lock", "run", "job", "--no-wait", "--", "true")
	holder.signal(syscall.SIGTERM)
	if code := holder.code(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("the holder's command was ended by SIGTERM, and its code is %d", code)
	}
	if second := hf.token("job"); second <= first {
		t.Errorf("token %s after %s", second, first)
	}
	hf.fails(1, "nobody holds it", "lock", "show", "job")
	hf.fails(3, "", "lock", "run", "job", "--", "sh", "-c", "exit 3")

	// Elections.
	leader := hf.start("election", "run", "boss", "--value", "host:80", "--", "sh", "-c", "echo leading; exec sleep 600")
	leader.expect("leading")
	if got := hf.ok("election", "ls"); !strings.Contains(got, "boss") || !strings.Contains(got, "host:80") {
		t.Errorf("election ls: %s", got)
	}
	if got := hf.ok("election", "watch", "boss", "--count", "1"); !strings.Contains(got, "host:80 leads") {
		t.Errorf("election watch: %s", got)
	}
	leader.signal(syscall.SIGTERM)
	leader.code()
	if got := hf.ok("election", "watch", "boss", "--count", "1"); !strings.Contains(got, "nobody leads") {
		t.Errorf("election watch: %s", got)
	}

	// Members.
	member := hf.start("members", "register", "web", "--id", "a", "--address", "host:1", "--meta", "zone=x")
	eventually(t, "the member is there", func() bool { return strings.Contains(hf.ok("members", "ls", "web"), "zone=x") })
	if got := hf.ok("members", "ls"); !strings.Contains(got, "web") {
		t.Errorf("members ls: %s", got)
	}
	watch := hf.start("members", "watch", "web", "-o", "jsonl")
	watch.expect(`"event":"joined"`)
	member.signal(syscall.SIGINT)
	member.code()
	watch.expect(`"event":"left"`)

	// Keys.
	changes := hf.start("kv", "watch", "col", "--from", "1", "-o", "jsonl")
	rev := hf.ok("kv", "put", "colour", "blue")
	if got := hf.ok("kv", "get", "colour"); got != "blue" {
		t.Errorf("colour is %q", got)
	}
	hf.ok("kv", "cas", "colour", rev, "green")
	hf.fails(1, "conflict", "kv", "cas", "colour", rev, "red")
	if got := hf.ok("kv", "ls", "col"); !strings.Contains(got, "green") {
		t.Errorf("kv ls: %s", got)
	}
	hf.ok("kv", "del", "colour")
	hf.fails(1, "not found", "kv", "get", "colour")
	for _, want := range []string{`"text":"blue"`, `"text":"green"`, `"event":"deleted"`} {
		changes.expect(want)
	}

	// It all went there.
	if _, err := exec.LookPath("etcdctl"); err == nil {
		if got := etcdctl(t, address)("get", "/holdfast/", "--prefix", "--keys-only"); !strings.Contains(got, "/holdfast/epoch\n") {
			t.Errorf("keys of etcd: %s", got)
		}
	}
}

// TestServe_Etcd: two nodes on one etcd. A lock hangs on its client's session,
// not on the node that the client talks to.
func TestServe_Etcd(t *testing.T) {
	address := etcd(t)
	a := addresses(t, 2)
	var served []*process
	for i, name := range []string{"a", "b"} {
		n := at(t).start("serve", "--engine", "etcd://"+address, "--name", name, "--listen", a[i], "--log-level", "warn")
		n.expect("is ready")
		served = append(served, n)
	}
	hf := at(t, "http://"+a[0], "http://"+a[1])
	holder := hf.start("lock", "run", "job", "--ttl", "5s", "--", "sh", "-c", `echo "held $HOLDFAST_TOKEN"; exec sleep 600`)
	holder.expect("held ")
	for _, n := range hf.status() {
		if n.State != "serving" || n.Store.Kind != "etcd" {
			t.Errorf("node %+v", n)
		}
	}
	served[0].signal(syscall.SIGKILL)
	served[0].code()
	if got := at(t, "http://"+a[1]).ok("lock", "show", "job"); !strings.Contains(got, "exclusive") {
		t.Errorf("lock show through the other node: %s", got)
	}
	other := hf.start("lock", "run", "job", "--", "sh", "-c", `echo "mine $HOLDFAST_TOKEN"`)
	holder.signal(syscall.SIGTERM) // passed on to its command; then it releases through the other node
	other.expect("mine ")
	if code := holder.code(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("the holder ended with %d: it lost its lock with the node", code)
	}
	hf.fails(64, "", "cluster", "add", "x", "http://127.0.0.1:1")
	served[1].signal(syscall.SIGTERM)
	if code := served[1].code(); code != 0 {
		t.Errorf("after SIGTERM the node ended with %d", code)
	}
}
