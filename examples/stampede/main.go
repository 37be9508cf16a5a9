// Stampede sends many clients after few locks while the nodes of a real
// three-node cluster are killed and paused at random, and checks two things:
// no two holders with valid tokens act out of order at the resource, and no
// client is stuck longer than the session's TTL and three seconds.
//
//	go build -o bin/holdfast ./cmd/holdfast
//	go run ./examples/stampede --binary bin/holdfast
//
// It exits with 0 when both held, 1 when one did not, and 2 when too little
// happened to tell.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes, as those of the holdfast command.
const (
	exitYes     = 0
	exitNo      = 1
	exitUnknown = 2
	exitUsage   = 64
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Environ())
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer, environ []string) int {
	cfg := config{environ: environ, log: stderr}
	flags := flag.NewFlagSet("stampede", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.binary, "binary", "", "the holdfast binary (required)")
	flags.IntVar(&cfg.clients, "clients", 200, "clients, each with a session of its own")
	flags.IntVar(&cfg.locks, "locks", 20, "locks they are after")
	flags.DurationVar(&cfg.time, "time", time.Minute, "how long")
	flags.DurationVar(&cfg.ttl, "ttl", 10*time.Second, "TTL of the sessions")
	flags.Uint64Var(&cfg.seed, "seed", 1, "of the faults and of the clients' choices")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitYes
		}
		return exitUsage
	}
	if cfg.binary == "" || cfg.clients < 1 || cfg.locks < 1 || cfg.time <= 0 || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, "stampede: want --binary and positive numbers")
		_, _ = fmt.Fprintln(stderr, "hint: go build -o bin/holdfast ./cmd/holdfast, then --binary bin/holdfast")
		return exitUsage
	}
	r, err := stampede(ctx, cfg)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "stampede: %v\n", err)
		return exitUnknown
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		_, err = fmt.Fprint(stdout, r)
	}
	switch {
	case err != nil:
		return exitUnknown
	case len(r.Violations) > 0:
		return exitNo
	case r.Grants < 10*cfg.locks || r.Kills+r.Pauses == 0:
		_, _ = fmt.Fprintln(stderr, "stampede: too little happened to tell")
		return exitUnknown
	}
	return exitYes
}
