package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/history"
)

func spawner(t *testing.T, p Process) func(context.Context) (*Program, error) {
	t.Helper()
	return func(context.Context) (*Program, error) { return Spawn(p, t.Output()) }
}

// stageProgram is this test binary as the stage "client".
func stageProgram(t *testing.T, spec ClientSpec) func(context.Context) (*Program, error) {
	t.Helper()
	argv := stage.Command(t.Context(), "client", spec.Arg()).Args
	// The name of a stage is argument zero: a shell sets it, as init does on a host.
	return spawner(t, Process{Argv: []string{"bash", "-c", `exec -a "$0" ` + testBinary(t) + ` "$1"`, argv[0], argv[1]}})
}

func testBinary(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Our own client, in a process of its own, is the same client.
func TestStage(t *testing.T) {
	spec := ClientSpec{
		System: "memory", Workload: "register", Node: "n2", Nodes: []string{"n1", "n2"},
		Addrs:   map[string]netip.Addr{"n2": netip.MustParseAddr("10.77.0.12")},
		Options: map[string]string{"tls": "off"},
	}
	l := NewLines(stageProgram(t, spec), Hello{Workload: "register", Node: "n2"}, LinesConfig{})
	defer func() { _ = l.Close() }()
	for _, tc := range []struct {
		op    history.Op
		typ   history.Type
		value any
	}{
		{op("read", "x", nil), history.OK, nil},
		{op("write", "x", int64(1)<<60), history.OK, int64(1) << 60},
		{op("read", "x", nil), history.OK, int64(1) << 60},
		{op("write", "y", []any{"r", map[string]any{"a": int64(1), "b": 0.5}}), history.OK, []any{"r", map[string]any{"a": int64(1), "b": 0.5}}},
		{op("where", "", nil), history.OK, "n2 10.77.0.12 register off"},
		{op("nonsense", "", int64(1)), history.Fail, int64(1)},
		{op("exit", "", nil), history.Info, nil},
		{op("read", "x", nil), history.OK, nil}, // another process
	} {
		got := l.Invoke(within(t, 20*time.Second), tc.op)
		if got.Type != tc.typ || fmt.Sprintf("%#v", got.Value) != fmt.Sprintf("%#v", tc.value) {
			t.Errorf("%s: got %s %#v %q, want %s %#v", tc.op.F, got.Type, got.Value, got.Error, tc.typ, tc.value)
		}
	}
	hang := NewLines(stageProgram(t, spec), Hello{}, LinesConfig{Timeout: 50 * time.Millisecond})
	defer func() { _ = hang.Close() }()
	if got := hang.Invoke(within(t, 20*time.Second), op("hang", "", nil)); got.Type != history.Info || !strings.Contains(got.Error, "deadline") {
		t.Errorf("hang: got %s %q: the timeout did not reach the client", got.Type, got.Error)
	}
}

func TestStageWithoutServer(t *testing.T) {
	spec := ClientSpec{Node: "n9", Addrs: map[string]netip.Addr{"n9": netip.MustParseAddr("10.77.0.19")}}
	l := NewLines(stageProgram(t, spec), Hello{}, LinesConfig{})
	defer func() { _ = l.Close() }()
	if got := l.Invoke(within(t, 20*time.Second), op("write", "x", int64(1))); got.Type != history.Fail || !strings.Contains(got.Error, "no route to 10.77.0.19") {
		t.Errorf("got %s %q", got.Type, got.Error)
	}
}

func TestStageArguments(t *testing.T) {
	for _, args := range [][]string{nil, {"{"}, {"{}", "more"}} {
		if code := ClientStage(nil)(args); code != 64 {
			t.Errorf("%q: code %d, want 64", args, code)
		}
	}
}

func TestServe(t *testing.T) {
	for _, tc := range []struct{ name, in, out, err string }{
		{"nothing", "", "", ""},
		{"hello", `{"id":0,"hello":{"version":1}}` + "\n", `{"id":0,"type":"ok","concurrency":1}` + "\n", ""},
		{"a version to come", `{"id":0,"hello":{"version":9}}` + "\n", `{"id":0,"type":"fail","error":"version 9 is not spoken here"}` + "\n", ""},
		{
			"an operation", `{"id":4,"op":{"f":"write","key":"x","value":[9007199254740993,null]},"timeout_ms":100}` + "\r\n",
			`{"id":4,"type":"ok","value":[9007199254740993,null]}` + "\n", "",
		},
		{"garbage", "hm\n", "", "malformed request"},
		{"neither", `{"id":1}` + "\n", "", "neither hello nor op"},
		{"cut off", `{"id":1`, "", "unexpected EOF"},
		{"a value that is none", `{"id":1,"op":{"f":"write","value":1e999}}` + "\n", "", "value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			err := Serve(t.Context(), strings.NewReader(tc.in), &out, &memory{})
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if out.String() != tc.out {
				t.Errorf("got  %s\nwant %s", out.String(), tc.out)
			}
		})
	}
}

// The example in the protocol's description is a client that works.
func TestProtocolExample(t *testing.T) {
	python := labtest.Server(t, "python3", "python3")
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "lab-protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(doc)
	if m == nil {
		t.Fatal("docs/lab-protocol.md has no program in Python")
	}
	if lines := bytes.Count(m[1], []byte("\n")); lines > 25 {
		t.Errorf("the example has grown to %d lines", lines)
	}
	file := filepath.Join(t.TempDir(), "client.py")
	if err := os.WriteFile(file, m[1], 0o644); err != nil {
		t.Fatal(err)
	}
	addr := kvServer(t)
	l := NewLines(spawner(t, Process{Argv: []string{python, file, addr.String()}}), Hello{Workload: "register", Node: "n1", Addr: addr.Addr().String()}, LinesConfig{})
	defer func() { _ = l.Close() }()
	for _, tc := range []struct {
		op    history.Op
		typ   history.Type
		value any
	}{
		{op("read", "x", nil), history.OK, nil},
		{op("write", "x", int64(5)), history.OK, int64(5)},
		{op("read", "x", nil), history.OK, int64(5)},
		{op("write", "broken", int64(5)), history.Info, int64(5)},
		{op("dance", "x", nil), history.Fail, nil},
	} {
		got := l.Invoke(within(t, 20*time.Second), tc.op)
		if got.Type != tc.typ || got.Value != tc.value {
			t.Errorf("%s: got %s %#v %q, want %s %#v", tc.op.F, got.Type, got.Value, got.Error, tc.typ, tc.value)
		}
	}
}

func TestSpawn(t *testing.T) {
	t.Setenv("SECRET", "leaked")
	if _, err := Spawn(Process{}, nil); err == nil {
		t.Error("no command is no error")
	}
	if _, err := Spawn(Process{Argv: []string{"no-such-program-anywhere"}}, nil); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	// A program that started another and ignores what it is told dies with it all.
	p, err := Spawn(Process{Argv: []string{"sh", "-c", "trap '' TERM PIPE; sleep 600 & echo $X$SECRET; wait"}, Env: []string{"X=up"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := p.Stdout.Read(buf); err != nil || string(buf) != "up\n" {
		t.Errorf("it said %q, %v", buf, err)
	}
	p.Kill()
	p.Kill()
	select {
	case <-p.Done:
	case <-within(t, 10*time.Second).Done():
		t.Fatal("it lives")
	}
	// The child held the same pipe: its end shows that the child is gone too.
	if n, err := p.Stdout.Read(buf); n != 0 || err == nil {
		t.Errorf("after its end it says %q", buf[:n])
	}
	_ = p.Stdin.Close()
	_ = p.Stdout.Close()
}

// What we send is what the description says, to the byte.
func TestRequestLine(t *testing.T) {
	line, err := encode(request{ID: 7, Op: &requestOp{F: "cas", Key: "x", Value: []any{nil, int64(2)}, Process: 3, Node: "n1"}, TimeoutMS: 1000})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":7,"op":{"f":"cas","key":"x","value":[null,2],"process":3,"node":"n1"},"timeout_ms":1000}` + "\n"
	if string(line) != want {
		t.Errorf("got %s", line)
	}
	if !json.Valid(line) {
		t.Error("it is not JSON")
	}
}

// A program that takes longer to start than an operation may take gets its
// operations done, and is found where the lab was started.
func TestStageSlowProgram(t *testing.T) {
	dir := t.TempDir()
	script := "read hello\nsleep 0.6\necho '{\"id\":0,\"type\":\"ok\"}'\nread op\necho '{\"id\":1,\"type\":\"ok\",\"value\":7}'\nread end\n"
	if err := os.WriteFile(filepath.Join(dir, "slow.sh"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := ExecConfig{
		Servers: []ServerConfig{{Command: []string{"server"}}},
		Client:  ExecClientConfig{Lines: &LinesConfig{Command: []string{"bash", `{{abs "slow.sh"}}`}}},
	}
	connect := func(ctx context.Context, env Env, spec ClientSpec) (Client, error) {
		e, err := NewExec(*spec.Exec)
		if err != nil {
			return nil, err
		}
		return e.Client(ctx, env, spec.Node, spec.Workload)
	}
	spec := ClientSpec{
		System: "exec", Workload: "register", Node: "n1", Nodes: []string{"n1"}, Dir: dir, Exec: &cfg,
		Addrs: map[string]netip.Addr{"n1": netip.MustParseAddr("10.77.0.11")}, Lab: netip.MustParseAddr("10.77.0.1"),
	}
	l := &lateClient{spec: spec, connect: connect, log: t.Output()}
	defer func() { _ = l.Close() }()
	if a, err := serveLine(t.Context(), []byte(`{"id":0,"hello":{"version":1}}`), l); err != nil || a.Type != history.OK {
		t.Fatalf("hello: %+v, %v", a, err)
	}
	a, err := serveLine(t.Context(), []byte(`{"id":1,"op":{"f":"read","key":"x"},"timeout_ms":400}`), l)
	if err != nil || a.Type != history.OK || string(a.Value) != "7" {
		t.Errorf("read: %+v, %v", a, err)
	}
}
