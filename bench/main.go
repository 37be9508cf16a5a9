// Command bench measures Holdfast side by side with its peers: etcd's own lock
// recipe on the same cluster, ZooKeeper's, redsync on Redis. Peers that are
// servers are started by it; what it starts it stops, also on Ctrl-C.
//
// Both sides run in one run, in turn, several rounds: the figures depend on the
// machine and on what else it does, the ratios much less.
//
//	go run . [-run REGEXP] [-time 1.2s] [-rounds 5] [-json] [-profile DIR]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"holdfast.dev/bench/peer"
	"holdfast.dev/internal/stage"
)

func main() {
	if code, ok := stage.Run(os.Args, os.Stderr); ok { //nolint:forbidigo // the process's own door
		os.Exit(code) //nolint:forbidigo // the process's own door
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr) //nolint:forbidigo // the process's own door
	stop()
	os.Exit(code) //nolint:forbidigo // the process's own door
}

// options are the flags.
type options struct {
	run      *regexp.Regexp
	time     time.Duration
	rounds   int
	kills    int
	sessions int
	ttl      time.Duration
	dir      string
	profile  string
	binary   string
	json     bool
	list     bool
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	run := f.String("run", "", "run only benchmarks whose names match this regular expression")
	f.DurationVar(&o.time, "time", 1200*time.Millisecond, "how long each arm works in each round")
	f.IntVar(&o.rounds, "rounds", 5, "how often the arms take turns")
	f.IntVar(&o.kills, "kills", 5, "how often the failover benchmark kills the leader")
	f.IntVar(&o.sessions, "sessions", 10_000, "how many sessions the sessions benchmark opens")
	f.DurationVar(&o.ttl, "ttl", 10*time.Second, "TTL of those sessions")
	f.StringVar(&o.dir, "dir", "", "where data goes, below it; default: the system's directory for temporary files")
	f.StringVar(&o.profile, "profile", "", "write a CPU profile of each arm's last round into this directory")
	f.StringVar(&o.binary, "holdfast", "", "the holdfast binary to start nodes from; default: build it")
	f.BoolVar(&o.json, "json", false, "print the figures as JSON")
	f.BoolVar(&o.list, "list", false, "only list the benchmarks")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err, errs error
	if o.run, err = regexp.Compile(*run); err != nil {
		errs = errors.Join(errs, fmt.Errorf("-run: %w", err))
	}
	if o.time <= 0 || o.rounds < 1 || o.kills < 1 || o.sessions < 1 || o.ttl < time.Second {
		errs = errors.Join(errs, errors.New("times, rounds, kills and sessions must be positive, -ttl at least 1s"))
	}
	if f.NArg() > 0 {
		errs = errors.Join(errs, fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	return o, errs
}

// command runs the whole and gives the exit code: 0, 1 when a benchmark could
// not run (a target that was not met is no failure), 64 for wrong usage, 130
// when it was interrupted.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == crowdCommand {
		if err := runCrowd(ctx, args[1:], stdout, stderr); err != nil {
			say(stderr, "bench crowd: %v", err)
			return 1
		}
		return 0
	}
	if len(args) > 0 && args[0] == endCommand {
		if err := runEnd(ctx, args[1:], stdout, stderr); err != nil {
			say(stderr, "bench end: %v", err)
			return 1
		}
		return 0
	}
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		say(stderr, "bench: %v", err)
		return 64
	case o.list:
		for _, b := range benchmarks {
			say(stdout, "%-10s %s", b.name, b.about)
		}
		return 0
	}
	rep, err := runAll(ctx, o, stderr)
	if err != nil {
		say(stderr, "bench: %v", err)
		if ctx.Err() != nil {
			return 130
		}
		return 1
	}
	if o.json {
		err = rep.writeJSON(stdout)
	} else {
		err = rep.writeTable(stdout)
	}
	if err != nil || len(rep.Failed) > 0 {
		return 1
	}
	return 0
}

// runAll runs what was asked for.
func runAll(ctx context.Context, o options, log io.Writer) (*report, error) {
	dir, err := os.MkdirTemp(o.dir, "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what cannot be removed stays
	m, err := inspect(dir)
	if err != nil {
		return nil, err
	}
	rep := &report{Machine: m, Started: m.Date, Rounds: o.rounds, Time: o.time.String(), Sessions: o.sessions}
	for _, b := range benchmarks {
		if !o.run.MatchString(b.name) {
			continue
		}
		say(log, "%s: %s", b.name, b.about)
		rows, err := runOne(ctx, o, dir, b, log)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			rep.Failed = append(rep.Failed, fmt.Sprintf("%s: %v", b.name, err))
		}
		for _, r := range rows {
			r.Benchmark = b.name
			r.judge()
			rep.Rows = append(rep.Rows, r)
		}
	}
	return rep, nil
}

// runOne runs one benchmark in a directory of its own, and leaves nothing.
func runOne(ctx context.Context, o options, dir string, b benchmark, log io.Writer) ([]row, error) {
	dir, err := os.MkdirTemp(dir, b.name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what cannot be removed stays
	host := peer.NewHost()
	defer host.Close()
	return b.run(ctx, &bench{options: o, name: b.name, dir: dir, host: host, log: log})
}
