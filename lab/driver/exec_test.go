package driver

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/lab/history"
)

// keeper is a description that is in order.
func keeper() ExecConfig {
	return ExecConfig{
		Name: "keeper",
		Servers: []ServerConfig{
			{
				Name: "keeper", Command: []string{"keeper", "--name={{.Node}}", "--listen={{.Addr}}:80", "--peers={{join .Peers \",\"}}", "--index={{.Index}}"},
				Env:     map[string]string{"TOKEN": `{{.Option "token"}}`, "LOG": "{{.LogDir}}"},
				Files:   map[string]string{"etc/{{.Node}}.conf": "dir {{.DataDir}}\npeer {{addr \"n2\"}}\n"},
				Prepare: [][]string{{"keeper", "init", "{{.DataDir}}"}},
				Dir:     "{{.DataDir}}", Ready: ReadyConfig{TCP: 80, HTTP: "/{{.Node}}/ok", Timeout: time.Minute},
			},
			{Hosts: []string{"n3"}, Command: []string{"/usr/bin/proxy"}},
		},
		After: []CommandConfig{
			{Command: []string{"keeper", "join", "{{.Node}}"}},
			{Host: "n2", Command: []string{"keeper", "check", "{{.LabAddr}}"}},
		},
		Client: ExecClientConfig{Workloads: []string{"register", "set"}, HTTP: &HTTPConfig{
			URL: "http://{{.Addr}}:80", Ops: map[string]HTTPOpConfig{"read": {Path: "/"}},
		}},
		Primary: &PrimaryConfig{Command: []string{"keeper", "role"}, Match: `^leader\b`},
		Actions: map[string]ExecAction{"promote": {Host: "{{index .Args 0}}", Command: []string{"keeper", "promote", "{{.Addr}}"}}},
	}
}

func newExec(t *testing.T, cfg ExecConfig) *Exec {
	t.Helper()
	e, err := NewExec(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestExecSetup(t *testing.T) {
	env := newFakeEnv(map[string]string{"token": "t0"})
	env.data = t.TempDir()
	if err := newExec(t, keeper()).Setup(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"n1 exec keeper init " + env.data + "/n1", "n1 start keeper --name=n1 --listen=127.0.0.1:80 --peers=n2,n3 --index=0",
		"n2 exec keeper init " + env.data + "/n2", "n2 start keeper --name=n2 --listen=10.77.0.12:80 --peers=n1,n3 --index=1",
		"n3 exec keeper init " + env.data + "/n3", "n3 start keeper --name=n3 --listen=10.77.0.13:80 --peers=n1,n2 --index=2",
		"n3 start /usr/bin/proxy", "n1 exec keeper join n1", "n2 exec keeper check 10.77.0.1",
	}
	slices.Sort(env.execs[:6]) // the hosts of one server are started at once
	if !slices.Equal(env.execs, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(env.execs, "\n"), strings.Join(want, "\n"))
	}
	i := slices.IndexFunc(env.started, func(p Process) bool { return p.Env != nil && strings.Contains(p.Argv[1], "n1") })
	p := env.started[i]
	if p.Name != "keeper" || p.Dir != env.data+"/n1" || p.Ready.TCP != 80 || p.Ready.HTTP != "/n1/ok" || p.Ready.Timeout != time.Minute ||
		!slices.Equal(p.Env, []string{"LOG=/log/n1", "TOKEN=t0"}) {
		t.Errorf("the server is %+v", p)
	}
	if env.started[3].Name != "proxy" {
		t.Errorf("the proxy is called %q", env.started[3].Name)
	}
	conf, err := os.ReadFile(filepath.Join(env.data, "n1", "etc", "n1.conf"))
	if want := "dir " + env.data + "/n1\npeer 10.77.0.12\n"; err != nil || string(conf) != want {
		t.Errorf("the file has %q, %v", conf, err)
	}
}

func TestExecSetupFails(t *testing.T) {
	env := newFakeEnv(map[string]string{"token": "t0"})
	env.data = t.TempDir()
	env.ran = func(string, Process) ([]byte, error) { return nil, errors.New("exit code 3") }
	err := newExec(t, keeper()).Setup(t.Context(), env)
	if err == nil || !strings.Contains(err.Error(), "server keeper on n1: prepare[0]: exit code 3") || len(env.started) > 0 {
		t.Errorf("got %v, and %d servers run", err, len(env.started))
	}
	if err := newExec(t, keeper()).Setup(t.Context(), newFakeEnv(nil)); err == nil || !strings.Contains(err.Error(), "set system.options.token") {
		t.Errorf("an option that is missing: %v", err)
	}
	cfg := keeper()
	cfg.Servers[1].Hosts = []string{"n7"}
	env = newFakeEnv(map[string]string{"token": "t0"})
	env.data = t.TempDir()
	if err := newExec(t, cfg).Setup(t.Context(), env); err == nil || !strings.Contains(err.Error(), "there is no host n7") {
		t.Errorf("a host that there is not: %v", err)
	}
}

func TestExecAsks(t *testing.T) {
	env := newFakeEnv(nil)
	env.ran = func(host string, _ Process) ([]byte, error) {
		return map[string][]byte{"n1": []byte("follower of leader"), "n2": []byte("leader since 3"), "n3": []byte("leader")}[host], map[string]error{"n3": errors.New("down")}[host]
	}
	e := newExec(t, keeper())
	if got, err := e.Primaries(t.Context(), env); err != nil || !slices.Equal(got, []string{"n2"}) {
		t.Errorf("primaries: %v, %v", got, err)
	}
	if got, err := e.FinalNodes(t.Context(), env); err != nil || len(got) != 3 {
		t.Errorf("final reads go to %v, %v", got, err)
	}
	e.cfg.Finals = "primary"
	if got, err := e.FinalNodes(t.Context(), env); err != nil || !slices.Equal(got, []string{"n2"}) {
		t.Errorf("final reads go to %v, %v", got, err)
	}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"role":"leader"}`)) }))
	defer s.Close()
	e.cfg.Primary = &PrimaryConfig{HTTP: "http://{{if eq .Node \"n1\"}}" + s.Listener.Addr().String() + "{{else}}127.0.0.1:1{{end}}/role", Match: `"leader"`}
	if got, err := e.Primaries(t.Context(), env); err != nil || !slices.Equal(got, []string{"n1"}) {
		t.Errorf("primaries over HTTP: %v, %v", got, err)
	}
}

func TestExecActs(t *testing.T) {
	env := newFakeEnv(nil)
	e := newExec(t, keeper())
	if err := e.Act(t.Context(), env, "promote", []string{"n2"}); err != nil || !slices.Equal(env.execs, []string{"n2 exec keeper promote 10.77.0.12"}) {
		t.Errorf("got %v, %v", env.execs, err)
	}
	for _, tc := range []struct {
		action string
		args   []string
		want   string
	}{
		{"demote", nil, "does not describe it"},
		{"promote", nil, "index out of range"},
		{"promote", []string{"n8"}, "there is no host n8"},
	} {
		if err := e.Act(t.Context(), env, tc.action, tc.args); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %v: %v, want %q", tc.action, tc.args, err, tc.want)
		}
	}
}

func TestExecClient(t *testing.T) {
	e := newExec(t, keeper())
	env := newFakeEnv(nil)
	if _, err := e.Client(t.Context(), env, "n1", "queue"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a workload that it does not know: %v", err)
	}
	c, err := e.Client(t.Context(), env, "n1", "register")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()

	e.cfg.Client = ExecClientConfig{Lines: &LinesConfig{
		Command: []string{"sh", "-c", `read hello; echo '{"id":0,"type":"ok"}'; read op; echo '{"id":1,"type":"ok","value":"'$0 $WHO'"}'; read end`, "{{.Addr}}"},
		Env:     map[string]string{"WHO": "{{.Node}}"},
	}}
	if c, err = e.Client(t.Context(), env, "n2", "register"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := c.Invoke(within(t, 10*time.Second), op("read", "x", nil)); got.Type != history.OK || got.Value != "10.77.0.12 n2" {
		t.Errorf("got %s %v %q", got.Type, got.Value, got.Error)
	}
	if _, err := e.Client(t.Context(), struct{ Env }{env}, "n2", "register"); err == nil || !strings.Contains(err.Error(), "cannot start programs") {
		t.Errorf("in a world without programs: %v", err)
	}
}

// Every fault is named, before anything runs.
func TestExecFaults(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*ExecConfig)
	}{
		{"servers: there is none", func(c *ExecConfig) { c.Servers = nil }},
		{"servers[0].command: it is empty", func(c *ExecConfig) { c.Servers[0].Command = nil }},
		{"there is no .Nod: there are .Node,", func(c *ExecConfig) { c.Servers[0].Command[1] = "{{.Nod}}" }},
		{"unclosed action", func(c *ExecConfig) { c.Servers[0].Env["A"] = "{{.Node" }},
		{`function "jion" not defined`, func(c *ExecConfig) { c.Servers[0].Prepare[0][0] = `{{jion .Nodes ","}}` }},
		{"not below the data directory", func(c *ExecConfig) { c.Servers[0].Files["../{{.Node}}"] = "" }},
		{"already has the name keeper", func(c *ExecConfig) { c.Servers[1] = ServerConfig{Command: []string{"/opt/keeper"}} }},
		{"servers[0].ready.log", func(c *ExecConfig) { c.Servers[0].Ready.Log = "(" }},
		{"70000 is no port", func(c *ExecConfig) { c.Servers[0].Ready.TCP = 70000 }},
		{"after[0]: command: it is empty", func(c *ExecConfig) { c.After[0].Command = nil }},
		{"after[1]", func(c *ExecConfig) { c.After[1].Host = "{{.Hots}}" }},
		{"actions.promote", func(c *ExecConfig) { c.Actions["promote"] = ExecAction{Command: []string{"{{"}} }},
		{"primary: exactly one", func(c *ExecConfig) { c.Primary.HTTP = "http://x" }},
		{"primary.match", func(c *ExecConfig) { c.Primary.Match = "" }},
		{"finals: \"some\"", func(c *ExecConfig) { c.Finals = "some" }},
		{"finals: primary needs", func(c *ExecConfig) { c.Finals, c.Primary = "primary", nil }},
		{"client: exactly one", func(c *ExecConfig) { c.Client.HTTP = nil }},
		{"client.lines.command: it is empty", func(c *ExecConfig) { c.Client = ExecClientConfig{Lines: &LinesConfig{}} }},
		{"client.lines: ", func(c *ExecConfig) { c.Client = ExecClientConfig{Lines: &LinesConfig{Command: []string{"{{.X}}"}}} }},
		{"client.http.url: ", func(c *ExecConfig) { c.Client.HTTP.URL = "{{.Addr}}:80" }},
		{"client.http.ops: no request", func(c *ExecConfig) { c.Client.HTTP.Ops = nil }},
		{"client.http.ops.read.path", func(c *ExecConfig) { c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "kv"} }},
		{"status 200 cannot mean two things", func(c *ExecConfig) {
			c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "/", OK: []int{200}, Fail: []int{200}}
		}},
		{"99 is no status", func(c *ExecConfig) { c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "/", OK: []int{99}} }},
		{"exactly one of json, regexp and text", func(c *ExecConfig) {
			c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "/", Value: &HTTPValueConfig{JSON: "a", Text: true}}
		}},
		{"it needs a group", func(c *ExecConfig) {
			c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "/", Value: &HTTPValueConfig{Regexp: "a"}}
		}},
		{"ops.read.headers.A", func(c *ExecConfig) {
			c.Client.HTTP.Ops["read"] = HTTPOpConfig{Path: "/", Headers: map[string]string{"A": "{{nope}}"}}
		}},
	} {
		t.Run(tc.want, func(t *testing.T) {
			cfg := keeper()
			tc.change(&cfg)
			if _, err := NewExec(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	cfg := keeper()
	cfg.Servers[0].Command, cfg.Finals, cfg.Client.HTTP = nil, "some", nil
	if _, err := NewExec(cfg); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three faults at once: %v", err)
	}
}
