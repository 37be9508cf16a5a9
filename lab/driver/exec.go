package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// askPrimary bounds how long one server may take to say whether it leads.
const askPrimary = 2 * time.Second

// Exec is the system that a scenario describes. It implements System,
// Primaries, Finals and Actions.
type Exec struct{ cfg ExecConfig }

// NewExec checks the description: its error names every fault that can be seen
// before anything runs, unknown names in templates among them.
func NewExec(cfg ExecConfig) (*Exec, error) {
	if err := errors.Join(cfg.faults()...); err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	return &Exec{cfg: cfg}, nil
}

// Name implements System.
func (e *Exec) Name() string { return cmp.Or(e.cfg.Name, "exec") }

// Setup implements System: server after server, each on all its hosts at once,
// for many become ready only when they see each other.
func (e *Exec) Setup(ctx context.Context, env Env) error {
	for _, s := range e.cfg.Servers {
		hosts := s.Hosts
		if len(hosts) == 0 {
			hosts = env.Nodes()
		}
		for _, h := range hosts {
			if !slices.Contains(env.Nodes(), h) {
				return fmt.Errorf("server %s: there is no host %s", s.name(), h)
			}
		}
		errs := make([]error, len(hosts))
		var wg sync.WaitGroup
		for i, h := range hosts {
			wg.Go(func() { errs[i] = s.start(ctx, env, h) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	for i, c := range e.cfg.After {
		if err := c.run(ctx, env, nil); err != nil {
			return fmt.Errorf("after[%d]: %w", i, err)
		}
	}
	return nil
}

// Client implements System.
func (e *Exec) Client(_ context.Context, env Env, node, workload string) (Client, error) {
	c := e.cfg.Client
	if len(c.Workloads) > 0 && !slices.Contains(c.Workloads, workload) {
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, workload)
	}
	if c.HTTP != nil {
		return newHTTPClient(*c.HTTP, env, node)
	}
	spawner, ok := env.(Spawner)
	if !ok {
		return nil, errors.New("client.lines: this lab cannot start programs of clients")
	}
	p, err := c.Lines.process(env, node)
	if err != nil {
		return nil, err
	}
	hello := Hello{Workload: workload, Node: node, Addr: env.Addr(node).String()}
	spawn := func(ctx context.Context) (*Program, error) { return spawner.Spawn(ctx, p) }
	return NewLines(spawn, hello, *c.Lines), nil
}

// Primaries implements Primaries. Without a description nobody leads.
func (e *Exec) Primaries(ctx context.Context, env Env) ([]string, error) {
	how := e.cfg.Primary
	if how == nil {
		return nil, nil
	}
	match, err := regexp.Compile(how.Match)
	if err != nil {
		return nil, err
	}
	nodes := env.Nodes()
	leads := make([]bool, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askPrimary)
			defer cancel()
			answer, err := how.ask(ctx, env, node)
			leads[i] = err == nil && match.Match(answer)
		})
	}
	wg.Wait()
	var primaries []string
	for i, node := range nodes {
		if leads[i] {
			primaries = append(primaries, node)
		}
	}
	return primaries, ctx.Err()
}

// FinalNodes implements Finals.
func (e *Exec) FinalNodes(ctx context.Context, env Env) ([]string, error) {
	if e.cfg.Finals == "primary" {
		return e.Primaries(ctx, env)
	}
	return env.Nodes(), nil
}

// Act implements Actions.
func (e *Exec) Act(ctx context.Context, env Env, action string, args []string) error {
	c, ok := e.cfg.Actions[action]
	if !ok {
		return fmt.Errorf("action %s: the scenario does not describe it: add system.exec.actions.%s", action, action)
	}
	if err := c.run(ctx, env, args); err != nil {
		return fmt.Errorf("action %s: %w", action, err)
	}
	return nil
}

func (s ServerConfig) name() string {
	if s.Name == "" && len(s.Command) > 0 {
		return path.Base(s.Command[0])
	}
	return s.Name
}

// start brings the server up on one host.
func (s ServerConfig) start(ctx context.Context, env Env, host string) error {
	p, prepare, err := s.process(env, host)
	if err != nil {
		return fmt.Errorf("server %s on %s: %w", s.name(), host, err)
	}
	if err := s.write(env, host); err != nil {
		return fmt.Errorf("server %s on %s: %w", s.name(), host, err)
	}
	for i, argv := range prepare {
		q := Process{Name: fmt.Sprintf("%s-prepare-%d", s.name(), i), Argv: argv, Env: p.Env, Dir: p.Dir, User: p.User}
		if _, err := env.Exec(ctx, host, q); err != nil {
			return fmt.Errorf("server %s on %s: prepare[%d]: %w", s.name(), host, i, err)
		}
	}
	if err := env.Start(ctx, host, p); err != nil {
		return fmt.Errorf("server %s on %s: %w", s.name(), host, err)
	}
	return nil
}

// process fills the templates of the command in.
func (s ServerConfig) process(env Env, host string) (Process, [][]string, error) {
	data := sampleData()
	if env != nil {
		data = templateData(env, host)
	}
	p := Process{
		Name: s.name(), User: s.User, Grace: s.Grace,
		Ready: Ready{TCP: s.Ready.TCP, Log: s.Ready.Log, Timeout: s.Ready.Timeout},
	}
	var errs [5]error
	p.Argv, errs[0] = expandAll(s.Command, env, data)
	p.Env, errs[1] = environment(s.Env, env, data)
	p.Dir, errs[2] = expand(s.Dir, env, data)
	p.Ready.HTTP, errs[3] = expand(s.Ready.HTTP, env, data)
	prepare := make([][]string, len(s.Prepare))
	for i, argv := range s.Prepare {
		var err error
		prepare[i], err = expandAll(argv, env, data)
		errs[4] = errors.Join(errs[4], err)
	}
	return p, prepare, errors.Join(errs[:]...)
}

// files fills the templates of the files in.
func (s ServerConfig) files(env Env, host string) (map[string]string, error) {
	data := sampleData()
	if env != nil {
		data = templateData(env, host)
	}
	out := map[string]string{}
	for name, text := range s.Files {
		file, err := expand(name, env, data)
		if err != nil {
			return nil, err
		}
		if !filepath.IsLocal(file) {
			return nil, fmt.Errorf("file %q is not below the data directory", file)
		}
		if out[file], err = expand(text, env, data); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s ServerConfig) write(env Env, host string) error {
	files, err := s.files(env, host)
	if err != nil {
		return err
	}
	for name, text := range files {
		file := filepath.Join(env.DataDir(host), name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// environment is KEY=VALUE, sorted.
func environment(vars map[string]string, env Env, data any) ([]string, error) {
	out := make([]string, 0, len(vars))
	for k, text := range vars {
		v, err := expand(text, env, data)
		if err != nil {
			return nil, err
		}
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out, nil
}

// process fills the templates of the client's program in.
func (l LinesConfig) process(env Env, node string) (Process, error) {
	data := sampleData()
	if env != nil {
		data = templateData(env, node)
	}
	p := Process{Name: "client", User: l.User}
	var errs [3]error
	p.Argv, errs[0] = expandAll(l.Command, env, data)
	p.Env, errs[1] = environment(l.Env, env, data)
	p.Dir, errs[2] = expand(l.Dir, env, data)
	return p, errors.Join(errs[:]...)
}

// run runs a command on its host.
func (c CommandConfig) run(ctx context.Context, env Env, args []string) error {
	host, err := expand(c.Host, env, actionData{templateData(env, env.Nodes()[0]), args})
	if err != nil {
		return err
	}
	host = cmp.Or(host, env.Nodes()[0])
	if !slices.Contains(env.Nodes(), host) {
		return fmt.Errorf("there is no host %s", host)
	}
	argv, err := expandAll(c.Command, env, actionData{templateData(env, host), args})
	if err != nil {
		return err
	}
	_, err = env.Exec(ctx, host, Process{Name: path.Base(argv[0]), Argv: argv, User: c.User})
	return err
}

// ask gets the answer of one server.
func (p PrimaryConfig) ask(ctx context.Context, env Env, node string) ([]byte, error) {
	data := templateData(env, node)
	if p.HTTP == "" {
		argv, err := expandAll(p.Command, env, data)
		if err != nil {
			return nil, err
		}
		return env.Exec(ctx, node, Process{Name: "primary", Argv: argv})
	}
	target, err := expand(p.HTTP, env, data)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, maxBody))
}

// faults are what is wrong with the description.
func (cfg ExecConfig) faults() []error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(cfg.Servers) == 0 {
		bad("servers: there is none")
	}
	where := map[string]string{}
	for i, s := range cfg.Servers {
		at := fmt.Sprintf("servers[%d]", i)
		if len(s.Command) == 0 {
			bad("%s.command: it is empty", at)
			continue
		}
		for _, h := range append(slices.Clone(s.Hosts), "") {
			if h == "" && len(s.Hosts) > 0 {
				continue
			}
			if first := where[s.name()+"@"+h]; first != "" {
				bad("%s.name: %s already has the name %s: give each server its own", at, first, s.name())
			}
			where[s.name()+"@"+h] = at
		}
		if _, _, err := s.process(nil, ""); err != nil {
			bad("%s: %w", at, err)
		}
		if _, err := s.files(nil, ""); err != nil {
			bad("%s.files: %w", at, err)
		}
		if _, err := regexp.Compile(s.Ready.Log); err != nil {
			bad("%s.ready.log: %w", at, err)
		}
		if s.Ready.TCP < 0 || s.Ready.TCP > 65535 {
			bad("%s.ready.tcp: %d is no port", at, s.Ready.TCP)
		}
	}
	for i, c := range cfg.After {
		if err := c.try(); err != nil {
			bad("after[%d]: %w", i, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Actions)) {
		c := cfg.Actions[name]
		if len(c.Command) == 0 {
			bad("actions.%s.command: it is empty", name)
		}
		// Words after the name are known only when a step asks.
		for _, text := range append(slices.Clone(c.Command), c.Host) {
			if _, err := parseTemplate(text, nil); err != nil {
				bad("actions.%s: %w", name, err)
			}
		}
	}
	if p := cfg.Primary; p != nil {
		if (p.HTTP == "") == (len(p.Command) == 0) {
			bad("primary: exactly one of http and command must be set")
		}
		if _, err := expandAll(append(slices.Clone(p.Command), p.HTTP), nil, sampleData()); err != nil {
			bad("primary: %w", err)
		}
		if _, err := regexp.Compile(p.Match); err != nil || p.Match == "" {
			bad("primary.match: %q is not a regular expression that a primary's answer matches", p.Match)
		}
	}
	switch {
	case cfg.Finals != "" && cfg.Finals != "all" && cfg.Finals != "primary":
		bad("finals: %q is neither all nor primary", cfg.Finals)
	case cfg.Finals == "primary" && cfg.Primary == nil:
		bad("finals: primary needs a description of primaries: add primary")
	}
	return append(faults, cfg.Client.faults()...)
}

// try fills in what can be filled in before there is a world.
func (c CommandConfig) try() error {
	if len(c.Command) == 0 {
		return errors.New("command: it is empty")
	}
	_, err := expandAll(append(slices.Clone(c.Command), c.Host), nil, actionData{sampleData(), nil})
	return err
}

func (c ExecClientConfig) faults() []error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if (c.HTTP == nil) == (c.Lines == nil) {
		bad("client: exactly one of http and lines must be set")
	}
	if c.HTTP != nil {
		for _, err := range c.HTTP.faults() {
			bad("client.http.%w", err)
		}
	}
	if l := c.Lines; l != nil {
		if len(l.Command) == 0 {
			bad("client.lines.command: it is empty")
		}
		if _, err := l.process(nil, ""); err != nil {
			bad("client.lines: %w", err)
		}
		if l.Timeout < 0 || l.Silence < 0 {
			bad("client.lines: a duration is below 0")
		}
	}
	return faults
}
