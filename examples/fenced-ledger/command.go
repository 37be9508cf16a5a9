package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"holdfast.dev"
	"holdfast.dev/fence"
)

const (
	exitDone  = 0
	exitNo    = 1
	exitUsage = 64
	exitFault = 70
)

var (
	errUsage = errors.New("usage: fenced-ledger init|append|audit [flags]; -h after a command lists its flags")
	errWrong = errors.New("the ledger is wrong")
)

// run is the whole program but for the process around it.
func run(stop context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	err := dispatch(stop, args, getenv, stdout, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	_, _ = fmt.Fprintf(stderr, "fenced-ledger: %v\n", err)
	switch {
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, errWrong), errors.Is(err, holdfast.ErrFenced):
		return exitNo
	}
	return exitFault
}

func dispatch(stop context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet("fenced-ledger "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	db := flags.String("db", "sqlite:ledger.db", "sqlite:`FILE`, or a connection string of Postgres")
	var command func(context.Context, *Ledger) error
	switch args[0] {
	case "init":
		command = func(ctx context.Context, l *Ledger) error { return l.Setup(ctx) }
	case "append":
		w := worker{stdout: json.NewEncoder(stdout)}
		w.define(flags)
		command = func(ctx context.Context, l *Ledger) error {
			var err error
			if w.token, err = holdfast.ParseToken(getenv("HOLDFAST_TOKEN")); err != nil {
				return fmt.Errorf("HOLDFAST_TOKEN: %w; %w", err, errUsage)
			}
			return w.run(ctx, l)
		}
	case "audit":
		acks := flags.String("acks", "", "`FILE` with what the workers printed: what they say is appended must be there")
		command = func(ctx context.Context, l *Ledger) error { return audit(ctx, l, *acks, json.NewEncoder(stdout)) }
	default:
		return errUsage
	}
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%w: unexpected %q", errUsage, flags.Arg(0))
	}
	ledger, err := Open(*db)
	if err != nil {
		return err
	}
	return errors.Join(command(stop, ledger), ledger.Close())
}

// worker appends entries under one token.
type worker struct {
	token  holdfast.Token
	fenced bool
	name   string
	amount int64
	count  int
	every  time.Duration
	hold   time.Duration
	wait   string
	stdout *json.Encoder
}

func (w *worker) define(flags *flag.FlagSet) {
	flags.BoolVar(&w.fenced, "fence", true, "refuse to append under a token that is too old")
	flags.StringVar(&w.name, "worker", "worker", "who appends, for the audit")
	flags.Int64Var(&w.amount, "amount", 100, "what each entry adds to the balance")
	flags.IntVar(&w.count, "count", 1, "how many entries to append; 0 is: until told to stop")
	flags.DurationVar(&w.every, "every", 0, "pause between two entries")
	flags.DurationVar(&w.hold, "hold", 0, "time between reading the last entry and writing the next")
	flags.StringVar(&w.wait, "wait", "", "after reading, wait for a line from `FILE`, say a fifo, before writing")
}

// event is a line of a worker's output, for programs.
type event struct {
	Event   string         `json:"event"` // holding: read, not written; appended; refused
	Worker  string         `json:"worker"`
	Token   holdfast.Token `json:"token"`
	Fence   bool           `json:"fence"`
	Seq     int64          `json:"seq"`     // holding: of the last entry; else of the new one
	Balance int64          `json:"balance"` // the same
	Request string         `json:"request,omitempty"`
	Highest holdfast.Token `json:"highest,omitempty"` // refused: the token of the successor
}

func (w *worker) run(stop context.Context, l *Ledger) error {
	for n := 0; w.count == 0 || n < w.count; n++ {
		if n > 0 && !pause(stop, w.every) {
			return nil
		}
		if err := w.appendOne(context.WithoutCancel(stop), l); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) appendOne(ctx context.Context, l *Ledger) error {
	guard := l.Unguarded
	if w.fenced {
		guard = l.Guarded(w.token)
	}
	last, err := l.Last(ctx, guard)
	if err != nil {
		return w.explain(err, last)
	}
	if err := w.say("holding", last); err != nil {
		return err
	}
	pause(ctx, w.hold)
	if err := waitFor(w.wait); err != nil {
		return err
	}
	next := Entry{Seq: last.Seq + 1, Balance: last.Balance + w.amount, Amount: w.amount, Token: w.token, Worker: w.name, Request: newRequest()}
	if err := l.Append(ctx, guard, next); err != nil {
		return w.explain(err, next)
	}
	return w.say("appended", next)
}

func (w *worker) say(what string, e Entry) error {
	return w.stdout.Encode(event{
		Event: what, Worker: w.name, Token: w.token, Fence: w.fenced, Seq: e.Seq, Balance: e.Balance, Request: e.Request,
	})
}

// explain says on stdout too that the worker was refused.
func (w *worker) explain(err error, e Entry) error {
	if stale, ok := errors.AsType[*fence.StaleError](err); ok {
		said := w.stdout.Encode(event{
			Event: "refused", Worker: w.name, Token: w.token, Fence: w.fenced,
			Seq: e.Seq, Balance: e.Balance, Request: e.Request, Highest: stale.Highest,
		})
		return errors.Join(err, said)
	}
	return err
}

// pause reports whether the time passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// waitFor returns when a line can be read from the file; no name, no waiting.
func waitFor(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file) // of a fifo: returns when somebody opens the other end
	if err != nil {
		return err
	}
	_, err = bufio.NewReader(f).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
