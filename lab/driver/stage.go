package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"holdfast.dev/lab/history"
)

// ClientSpec is all that a client in a process of its own has to know.
type ClientSpec struct {
	System   string                `json:"system"`   // name of the driver
	Workload string                `json:"workload"` //
	Node     string                `json:"node"`     // whom it talks to
	Nodes    []string              `json:"nodes"`    // all hosts of the system
	Addrs    map[string]netip.Addr `json:"addrs"`    // of all hosts
	Lab      netip.Addr            `json:"lab"`      // of the lab
	Options  map[string]string     `json:"options,omitempty"`
	Exec     *ExecConfig           `json:"exec,omitempty"`     // for the system that a scenario describes
	Resource *ResourceConfig       `json:"resource,omitempty"` // wraps the client in WithResource
	Dir      string                `json:"dir,omitempty"`      // what abs in templates begins with; Arg knows it
}

// Arg is the spec as the argument of the stage.
func (s ClientSpec) Arg() string {
	if dir, err := os.Getwd(); err == nil && s.Dir == "" {
		s.Dir = dir // the stage has another one
	}
	arg, err := json.Marshal(s)
	if err != nil {
		panic("driver: a client spec: " + err.Error()) // it has nothing that JSON does not know
	}
	return string(arg)
}

// ClientFactory makes the client that a spec describes. The Env knows names,
// addresses and options; it is a Spawner, whose programs live beside the client;
// and it refuses to start servers.
type ClientFactory func(ctx context.Context, env Env, spec ClientSpec) (Client, error)

// ClientStage is the stage "client": this binary as the program of a client,
// for drivers and wrapped workloads that are part of it. It speaks the protocol
// of lines on standard input and output, takes its spec as its argument, and
// ends with its input. The lab registers it:
//
//	stage.Register("client", driver.ClientStage(factory))
//
// and uses it as a program for NewLines: stage name and spec.Arg().
func ClientStage(factory ClientFactory) func(args []string) int {
	return func(args []string) int {
		in, out, log := os.NewFile(0, "stdin"), os.NewFile(1, "stdout"), os.NewFile(2, "stderr")
		if len(args) != 1 {
			_, _ = fmt.Fprintln(log, "client: one argument is wanted: the spec of the client")
			return 64
		}
		var spec ClientSpec
		if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
			_, _ = fmt.Fprintf(log, "client: its spec: %v\n", err)
			return 64
		}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		client := &lateClient{spec: spec, connect: factory, log: log}
		defer func() { _ = client.Close() }()
		if err := Serve(ctx, in, out, client); err != nil {
			_, _ = fmt.Fprintf(log, "client: %v\n", err)
			return 1
		}
		return 0
	}
}

// lateClient connects with the first operation: a server that cannot be reached
// is no reason not to begin, and an operation without connection has failed.
type lateClient struct {
	spec    ClientSpec
	connect ClientFactory
	log     io.Writer
	client  Client
	lines   *Lines // where the client is a program
}

// Invoke is called for one operation at a time.
func (l *lateClient) Invoke(ctx context.Context, op history.Op) history.Op {
	if err := l.open(ctx); err != nil {
		op.Type, op.Error = history.Fail, fmt.Sprintf("connecting to %s: %v", l.spec.Node, err)
		return op
	}
	return l.client.Invoke(ctx, op)
}

// open makes the client where there is none.
func (l *lateClient) open(ctx context.Context) error {
	if l.client != nil {
		return nil
	}
	c, err := l.connect(ctx, specEnv{l.spec, l.log}, l.spec)
	if err != nil {
		return err
	}
	l.lines, _ = c.(*Lines)
	if l.spec.Resource != nil {
		c = WithResource(c, *l.spec.Resource)
	}
	l.client = c
	return nil
}

// ready waits for a client that is a program: one that takes longer to start
// than an operation may take would never get one done. What goes wrong is told
// by the operations.
func (l *lateClient) ready(ctx context.Context) {
	if l.spec.Exec == nil || l.spec.Exec.Client.Lines == nil || l.open(ctx) != nil || l.lines == nil {
		return
	}
	l.lines.ready(ctx)
}

func (l *lateClient) Close() error {
	if l.client == nil {
		return nil
	}
	return l.client.Close()
}

// Serve answers requests in the protocol of lines with a client, one at a time,
// until in ends. It is how a client written in Go becomes a program.
func Serve(ctx context.Context, in io.Reader, out io.Writer, client Client) error {
	r := bufio.NewReader(in)
	for ctx.Err() == nil {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading requests: %w", err)
		}
		a, err := serveLine(ctx, line, client)
		if err != nil {
			return err
		}
		if line, err = encode(a); err != nil {
			return fmt.Errorf("an answer: %w", err)
		}
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("writing an answer: %w", err)
		}
	}
	return ctx.Err()
}

func serveLine(ctx context.Context, line []byte, client Client) (answer, error) {
	// Values are decoded as histories have them, not as encoding/json would.
	var req struct {
		ID        int64  `json:"id"`
		Hello     *Hello `json:"hello"`
		TimeoutMS int64  `json:"timeout_ms"`
		Op        *struct {
			requestOp

			Value json.RawMessage `json:"value"`
		} `json:"op"`
	}
	if err := json.Unmarshal(line, &req); err != nil {
		return answer{}, fmt.Errorf("malformed request %s: %w", quoted(line), err)
	}
	switch {
	case req.Hello != nil && req.Hello.Version != Version:
		return answer{ID: &req.ID, Type: history.Fail, Error: fmt.Sprintf("version %d is not spoken here", req.Hello.Version)}, nil
	case req.Hello != nil:
		if late, ok := client.(*lateClient); ok {
			starting, cancel := context.WithTimeout(ctx, startWithin*4/5) // who greets waits for startWithin
			late.ready(starting)
			cancel()
		}
		return answer{ID: &req.ID, Type: history.OK, Concurrency: 1}, nil
	case req.Op == nil:
		return answer{}, fmt.Errorf("malformed request %s: neither hello nor op", quoted(line))
	}
	op := req.Op.op()
	if req.Op.Value != nil {
		v, err := decodeValue(req.Op.Value)
		if err != nil {
			return answer{}, fmt.Errorf("malformed request %s: value: %w", quoted(line), err)
		}
		op.Value = v
	}
	if req.TimeoutMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutMS)*time.Millisecond)
		defer cancel()
	}
	done := client.Invoke(ctx, op)
	value, err := json.Marshal(done.Value)
	if err != nil {
		return answer{}, fmt.Errorf("the value of %s: %w", op.F, err)
	}
	return answer{ID: &req.ID, Type: done.Type, Value: value, Error: done.Error}, nil
}

// specEnv is what a client in a process of its own can know of the world.
type specEnv struct {
	spec ClientSpec
	log  io.Writer
}

var errElsewhere = errors.New("not possible from a client's own process")

func (e specEnv) Nodes() []string             { return e.spec.Nodes }
func (e specEnv) Addr(host string) netip.Addr { return e.spec.Addrs[host] }
func (e specEnv) LabAddr() netip.Addr         { return e.spec.Lab }
func (e specEnv) DataDir(string) string       { return "" }
func (e specEnv) LogDir(string) string        { return "" }
func (e specEnv) Option(name string) string   { return e.spec.Options[name] }
func (e specEnv) Logf(string, ...any)         {}

func (e specEnv) Start(context.Context, string, Process) error { return errElsewhere }

func (e specEnv) Exec(context.Context, string, Process) ([]byte, error) { return nil, errElsewhere }

// Spawn implements Spawner.
func (e specEnv) Spawn(_ context.Context, p Process) (*Program, error) { return Spawn(p, e.log) }
