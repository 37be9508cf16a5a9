package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/server"
)

// The test binary is also the holdfast binary: scripts that need a process of
// its own call it with exec, the others run it inside this one.
func TestMain(m *testing.M) {
	// They wait for processes and timeouts most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"holdfast": main})
}

// passed are the variables of a script that commands inside this process see.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "WORK", "TERM", "HOLDFAST_ENDPOINTS", "HOLDFAST_ENGINE", "HOLDFAST_OUTPUT", "HOLDFAST_TIMEOUT",
	"HOLDFAST_CONFIG", "HOLDFAST_NAME", "HOLDFAST_HEARTBEAT", "HOLDFAST_INSECURE", "HOLDFAST_AUTH_TOKEN",
}

// environment is the script's environment for a command inside this process.
func environment(ts *testscript.TestScript, args []string) cli.Env {
	env := cli.Env{
		Program: "holdfast", Args: args, Dir: ts.MkAbs("."),
		Stdin: strings.NewReader(""), Stdout: ts.Stdout(), Stderr: ts.Stderr(),
		Exit: func(int) {},
	}
	for _, k := range passed {
		if v := ts.Getenv(k); v != "" {
			env.Environ = append(env.Environ, k+"="+v)
		}
	}
	return env
}

// commands are what the scripts have besides testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// hf ARGS…: holdfast must succeed; with ! it must fail with code 1.
	"hf": func(ts *testscript.TestScript, neg bool, args []string) {
		want := 0
		if neg {
			want = 1
		}
		if code := run(context.Background(), environment(ts, args)); code != want {
			ts.Fatalf("exit code %d, want %d", code, want)
		}
	},
	// code N ARGS…: holdfast must end with that code.
	"code": func(ts *testscript.TestScript, _ bool, args []string) {
		want, err := strconv.Atoi(args[0])
		ts.Check(err)
		if code := run(context.Background(), environment(ts, args[1:])); code != want {
			ts.Fatalf("exit code %d, want %d", code, want)
		}
	},
	// lose LOCK: the session of its holder ends without its doing.
	"lose": func(ts *testscript.TestScript, _ bool, args []string) {
		w, ok := ts.Value(worldKey{}).(*world)
		if !ok {
			ts.Fatalf("there is no server inside this script")
		}
		info, err := w.client.Inspect(context.Background(), args[0])
		ts.Check(err)
		for _, h := range info.Holders {
			ts.Check(w.engine.Revoke(context.Background(), engine.LeaseID(h.Session)))
		}
	},
	// waiting N: so many calls wait at the server in the end.
	"waiting": func(ts *testscript.TestScript, _ bool, args []string) {
		w, ok := ts.Value(worldKey{}).(*world)
		if !ok {
			ts.Fatalf("there is no server inside this script")
		}
		poll(ts.Fatalf, "waiting "+args[0], func() bool {
			st, err := w.client.Status(context.Background(), w.client.Endpoint())
			return err == nil && strconv.Itoa(st.Waiters) == args[0]
		})
	},
	// lose-leader ELECTION: the session of its leader ends without its doing.
	"lose-leader": func(ts *testscript.TestScript, _ bool, args []string) {
		w, ok := ts.Value(worldKey{}).(*world)
		if !ok {
			ts.Fatalf("there is no server inside this script")
		}
		l, err := w.client.Leader(context.Background(), args[0])
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(l.Token.String()), 0o600))
		ts.Check(w.engine.Revoke(context.Background(), engine.LeaseID(l.Session)))
	},
	// await FILE [TEXT]: waits until the file is there and has the text.
	"await": func(ts *testscript.TestScript, _ bool, args []string) {
		poll(ts.Fatalf, "await "+strings.Join(args, " "), func() bool {
			b, err := os.ReadFile(ts.MkAbs(args[0]))
			return err == nil && (len(args) < 2 || strings.Contains(string(b), args[1]))
		})
	},
	// eventually ARGS…: holdfast must succeed in the end.
	"eventually": func(ts *testscript.TestScript, _ bool, args []string) {
		poll(ts.Fatalf, strings.Join(args, " "), func() bool {
			env := environment(ts, args)
			env.Stdout, env.Stderr = new(bytes.Buffer), new(bytes.Buffer)
			return run(context.Background(), env) == 0
		})
	},
	// removed NODE: it is taken out of the cluster, by this try or by one before
	// whose outcome was unknown.
	"removed": func(ts *testscript.TestScript, _ bool, args []string) {
		poll(ts.Fatalf, strings.Join(args, " "), func() bool {
			env := environment(ts, append([]string{"cluster", "remove"}, args...))
			var stderr bytes.Buffer
			env.Stdout, env.Stderr = new(bytes.Buffer), &stderr
			return run(context.Background(), env) == 0 || strings.Contains(stderr.String(), "not found")
		})
	},
	// increasing FILE…: each holds one number, and each is greater than the one before.
	"increasing": func(ts *testscript.TestScript, _ bool, args []string) {
		var last uint64
		for _, name := range args {
			n, err := strconv.ParseUint(strings.TrimSpace(ts.ReadFile(name)), 10, 64)
			ts.Check(err)
			if n <= last {
				ts.Fatalf("%s: %d does not follow %d", name, n, last)
			}
			last = n
		}
	},
}

// poll repeats a check that must come true.
func poll(fatalf func(string, ...any), what string, ok func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			fatalf("%s: it did not come true", what)
		}
	}
}

// world is what is around a script.
type world struct {
	engine *engine.Memory
	client *client.Client
}

type worldKey struct{}

// TestScripts runs testdata/script against a server on engine.Memory in this
// process, one for each script.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			w := &world{engine: engine.NewMemory(engine.MemoryConfig{})}
			s, err := server.Start(context.Background(), server.Config{Engine: w.engine, Listen: "127.0.0.1:0"})
			if err != nil {
				return err
			}
			if w.client, err = client.Dial(context.Background(), client.Config{Endpoints: []string{s.URL()}}); err != nil {
				return err
			}
			e.Values[worldKey{}] = w
			e.Setenv("HOLDFAST_ENDPOINTS", s.URL())
			e.Defer(func() {
				_ = w.client.Close()
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = s.Shutdown(ctx) // calls that still wait are cut
				_ = w.engine.Close()
			})
			return nil
		},
	})
}

// TestScripts_Processes runs testdata/process: scripts that start nodes of
// their own as processes.
func TestScripts_Processes(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/process", Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			ports, err := freePorts(6)
			for i, port := range ports {
				e.Setenv(fmt.Sprintf("P%d", i+1), port)
			}
			return err
		},
	})
}

// TestScripts_Etcd runs those of TestScripts that name nothing of a node on an
// etcd server without any node, and testdata/etcd with nodes on it.
func TestScripts_Etcd(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("missing server etcd: install package etcd-server")
	}
	files := []string{"testdata/etcd/serve.txtar"}
	for _, name := range []string{"kv", "lock", "election", "members"} {
		files = append(files, "testdata/script/"+name+".txtar")
	}
	testscript.Run(t, testscript.Params{
		Files: files, Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			ports, err := freePorts(4)
			if err != nil {
				return err
			}
			client, peer := "127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
			cmd := exec.CommandContext(context.Background(), binary, "--data-dir", e.WorkDir+"/etcd", "--log-level", "error",
				"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client, "--listen-peer-urls", peer)
			if err := cmd.Start(); err != nil {
				return err
			}
			e.Defer(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // killed
			})
			e.Setenv("P1", ports[2])
			e.Setenv("P2", ports[3])
			e.Setenv("ETCD", "etcd://"+client)
			if !strings.HasSuffix(e.WorkDir, "serve") { // there the nodes are named
				e.Setenv("HOLDFAST_ENGINE", "etcd://"+client)
			}
			return nil
		},
	})
}
