package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/runner"
	"holdfast.dev/lock"
)

type lockCmd struct {
	Run  lockRunCmd  `cmd:"" help:"Run a command while holding a lock."`
	Ls   lockLsCmd   `cmd:"" help:"List locks that are held or waited for."`
	Show lockShowCmd `cmd:"" help:"Show who holds a lock and who waits. Exit 1: nobody holds it."`
}

// holdFlags are those of commands that run a command while they hold something.
type holdFlags struct {
	TTL   time.Duration `name:"ttl" default:"10s" help:"How long after a crash of this process others must wait."`
	Grace time.Duration `default:"-1s" placeholder:"DURATION" help:"Between SIGTERM and SIGKILL when it is lost. Default: a fifth of the TTL, at most 2s."`
	Quiet bool          `short:"q" help:"Say nothing on standard error."`
}

func (h holdFlags) grace() time.Duration {
	if h.Grace < 0 {
		return min(h.TTL/5, 2*time.Second)
	}
	return min(h.Grace, h.TTL/2)
}

// check says what does not fit together.
func (h holdFlags) check() error {
	if h.Grace >= h.TTL {
		return cli.Usage("--grace %v: want less than the TTL, %v", h.Grace, h.TTL)
	}
	return nil
}

type lockRunCmd struct {
	Name    string        `arg:"" help:"The lock's name."`
	Cmd     []string      `arg:"" passthrough:"" help:"The command and its arguments, after --."`
	NoWait  bool          `help:"Do not wait when it is busy."`
	Wait    time.Duration `default:"-1s" placeholder:"DURATION" help:"Wait at most so long. Default: for ever."`
	Shared  bool          `help:"Hold it together with other shared holders."`
	Permits int           `default:"1" placeholder:"N" help:"Of a semaphore: how many permits to take; needs --of."`
	Of      *int          `placeholder:"N" help:"Make it a semaphore of so many permits."`
	Delay   time.Duration `placeholder:"DURATION" help:"If this holder vanishes, nobody else gets the lock for so long."`
	Note    string        `help:"Shown to people who look at the lock."`
	holdFlags
}

func (lockRunCmd) Examples() string {
	return `
holdfast lock run jobs/nightly -- ./nightly.sh
holdfast lock run jobs/nightly --wait 30s -- sh -c 'echo "my token is $HOLDFAST_TOKEN"'
holdfast lock run gpu --of 4 -- ./train.sh`
}

// Help is the long text of the command.
func (lockRunCmd) Help() string {
	return `The command finds HOLDFAST_TOKEN (the fencing token), HOLDFAST_LOCK and HOLDFAST_SESSION in its environment. It should send the token with every effect.

When the lock cannot be kept, the command's process group gets SIGTERM one grace before the lock could be given away, and SIGKILL when the grace is over; when the lock is found to be lost already (this process was stopped, or the session was revoked), the grace begins then. Signals are passed on.

Exit code: the command's; 124 not acquired in time, 123 lost and the command was stopped, 125 Holdfast failed, 126 the command cannot be executed, 127 there is no such command, 130 interrupted while waiting.`
}

func (c *lockRunCmd) options() ([]lock.Option, error) {
	var opts []lock.Option
	switch {
	case c.Of != nil && *c.Of < 1:
		return nil, cli.Usage("--of %d: want at least one permit", *c.Of)
	case c.Of != nil && c.Shared:
		return nil, cli.Usage("--shared and --of do not go together")
	case c.Of != nil:
		opts = append(opts, lock.Permits(c.Permits, *c.Of))
	case c.Permits != 1:
		return nil, cli.Usage("--permits needs --of")
	case c.Shared:
		opts = append(opts, lock.Shared())
	}
	switch {
	case c.NoWait && c.Wait >= 0:
		return nil, cli.Usage("--no-wait and --wait do not go together")
	case c.NoWait:
		opts = append(opts, lock.NoWait())
	case c.Wait >= 0:
		opts = append(opts, lock.WaitAtMost(c.Wait))
	}
	if c.Delay > 0 {
		opts = append(opts, lock.Delay(c.Delay))
	}
	if c.Note != "" {
		opts = append(opts, lock.Note(c.Note))
	}
	return opts, nil
}

func (c *lockRunCmd) Run(a *app, ctx *runContext) error {
	opts, err := c.options()
	if err != nil {
		return err
	}
	return a.hold(ctx, c.Cmd, c.holdFlags, "lock "+c.Name, func(ctx context.Context, b access.Backend) (*grip, error) {
		held, err := b.Acquire(ctx, c.Name, opts...)
		if err != nil {
			return nil, err
		}
		return &grip{
			lost: held.Lost(), until: held.ValidUntil, release: held.Release,
			environ: []string{"HOLDFAST_LOCK=" + c.Name, "HOLDFAST_TOKEN=" + held.Token().String()},
		}, nil
	})
}

// grip is what a command runs under: a lock, a leadership or a membership.
type grip struct {
	lost    <-chan struct{}
	until   func() engine.Instant
	release func(context.Context) error
	environ []string
}

// hold acquires, runs the command while it is held, releases, and gives the
// command's exit code.
func (a *app) hold(ctx context.Context, args []string, h holdFlags, subject string, acquire func(context.Context, access.Backend) (*grip, error)) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return cli.Usage("%s: no command to run: write it after --", subject)
	}
	if err := h.check(); err != nil {
		return err
	}
	say := a.note
	if h.Quiet {
		say = func(string, ...any) {}
	}
	// The signals for the command are caught before waiting ends, so that none
	// is lost in between.
	signals, stopSignals := a.env.Signals(forwarded...)
	defer stopSignals()
	wctx, stopWaiting := a.interruptible(ctx)
	defer stopWaiting()
	octx, cancel := context.WithTimeout(wctx, a.globals.Timeout)
	defer cancel()

	where := a.where()
	where.Session.TTL = h.TTL
	where.Session.OnState = func(s engine.SessionState) {
		if s == engine.Jeopardy {
			say("holdfast: %s: in jeopardy: no node has answered for half the TTL", subject)
		}
	}
	var result error // of what ran
	err := a.open(octx, wctx, where, func(ctx context.Context, b access.Backend) error {
		life, err := b.Life(octx)
		if err != nil {
			return err
		}
		g, err := acquire(ctx, b)
		if err != nil {
			return err
		}
		stopWaiting()
		if a.interrupted.Load() { // at the last moment
			return errors.Join(errInterrupted, a.release(ctx, g))
		}
		drop(signals)
		res, err := runner.Run(context.WithoutCancel(ctx), runner.Command{
			Args: args, Dir: a.env.Dir, Stdin: a.env.Stdin, Stdout: a.env.Stdout, Stderr: a.env.Stderr, Signals: signals,
			Environ: slices.Concat(a.env.Environ, []string{"HOLDFAST_SESSION=" + life.ID().String()}, g.environ),
		}, runner.Hold{Lost: g.lost, Until: func() time.Duration { return g.until().Until() }, Grace: h.grace()})
		result = a.ended(ctx, subject, g, res, err, say)
		return nil
	})
	if err != nil {
		return holdError(err)
	}
	return result
}

// drop forgets signals that came while waiting.
func drop(signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
		default:
			return
		}
	}
}

// ended releases, and says how the command ended.
func (a *app) ended(ctx context.Context, subject string, g *grip, res runner.Result, err error, say func(string, ...any)) error {
	rerr := a.release(ctx, g)
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return cli.WithCode(err, cli.ExitNotFound)
	case errors.Is(err, runner.ErrNotExecutable):
		return cli.WithCode(err, cli.ExitNotRunnable)
	case err != nil:
		return cli.WithCode(err, cli.ExitRunFailed)
	case res.Lost:
		say("holdfast: %s: lost; the command was stopped", subject)
		return cli.Silent(cli.ExitLost)
	case rerr != nil && holdfast.CodeOf(rerr) != holdfast.CodeLost:
		say("hint: %v; it goes with its session in some seconds", rerr)
	}
	if res.Code == 0 {
		return nil
	}
	return cli.Silent(res.Code)
}

// release gives back what was held, also after an interruption.
func (a *app) release(ctx context.Context, g *grip) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	return g.release(ctx)
}

// releasing bounds how long a release is tried; then the session's end does it.
const releasing = 2 * time.Second

// forwarded are the signals passed on to the command.
var forwarded = []os.Signal{
	os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// holdError gives what went wrong before the command ran the codes of run.
func holdError(err error) error {
	codes := map[holdfast.Code]int{
		holdfast.CodeInvalid: cli.ExitUsage, holdfast.CodeBusy: cli.ExitNotAcquired, holdfast.CodeCanceled: cli.ExitInterrupted,
	}
	if code, ok := codes[holdfast.CodeOf(err)]; ok {
		return cli.WithCode(err, code)
	}
	return cli.WithCode(err, cli.ExitRunFailed)
}

// lockJSON is a lock in JSON output; see docs/cli-json.md.
type lockJSON struct {
	Name    string      `json:"name"`
	Mode    string      `json:"mode,omitempty"`
	Permits int         `json:"permits,omitempty"`
	Holders []claimJSON `json:"holders"`
	Waiters []claimJSON `json:"waiters"`
}

// claimJSON is a holder or a waiter.
type claimJSON struct {
	Session     string          `json:"session"`
	SessionName string          `json:"session_name,omitempty"`
	Token       *holdfast.Token `json:"token,omitempty"`
	Mode        string          `json:"mode,omitempty"`
	Permits     int             `json:"permits,omitempty"`
	Since       *time.Time      `json:"since,omitempty"`
	Note        string          `json:"note,omitempty"`
}

func modeWord(m lock.Mode) string {
	if m == lock.ModePermits {
		return "semaphore"
	}
	return string(m)
}

func toLockJSON(l client.LockInfo) lockJSON {
	j := lockJSON{Name: l.Name, Permits: l.Capacity, Holders: []claimJSON{}, Waiters: []claimJSON{}}
	claim := func(c lock.Claim) claimJSON {
		out := claimJSON{
			Session: c.Session.String(), SessionName: l.SessionNames[c.Session], Mode: modeWord(c.Mode), Permits: c.Permits, Note: c.Note,
		}
		if c.Token != 0 {
			out.Token = &c.Token
		}
		if !c.Since.IsZero() {
			since := c.Since.UTC()
			out.Since = &since
		}
		return out
	}
	for _, h := range l.Holders {
		j.Mode = modeWord(h.Mode)
		j.Holders = append(j.Holders, claim(h))
	}
	for _, w := range l.Waiters {
		j.Waiters = append(j.Waiters, claim(w))
	}
	return j
}

type lockLsCmd struct {
	Prefix string `arg:"" optional:"" help:"Only names that begin so."`
}

func (c *lockLsCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		var all []lockJSON
		after := ""
		for {
			page, err := b.Locks(ctx, c.Prefix, after, listPage)
			if err != nil {
				return err
			}
			for _, l := range page {
				all, after = append(all, toLockJSON(l)), l.Name
			}
			if len(page) < listPage {
				break
			}
		}
		now := time.Now()
		return cli.List(a.printer(), "locks", all, "NAME MODE HOLDER TOKEN HELD WAITERS", func(l lockJSON) []any {
			holder, token, age := "-", "-", "-"
			if len(l.Holders) > 0 {
				h := l.Holders[0]
				holder, token = h.who(), h.token()
				if h.Since != nil {
					age = cli.Age(*h.Since, now)
				}
			}
			if n := len(l.Holders); n > 1 {
				holder += fmt.Sprintf(" +%d", n-1)
			}
			return []any{l.Name, cli.Dash(l.Mode), holder, token, age, len(l.Waiters)}
		})
	})
}

// listPage is how many names are read at once.
const listPage = 500

// who is the holder as people know it.
func (c claimJSON) who() string {
	if c.SessionName != "" {
		return c.SessionName
	}
	return c.Session
}

func (c claimJSON) token() string {
	if c.Token == nil {
		return "-"
	}
	return c.Token.String()
}

type lockShowCmd struct {
	Name string `arg:"" help:"The lock's name."`
}

func (c *lockShowCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		info, err := b.Inspect(ctx, c.Name)
		if err != nil {
			return err
		}
		j := toLockJSON(info)
		err = a.printer().Object(j, func(t *cli.Text) { j.write(t, time.Now()) })
		if err == nil && len(j.Holders) == 0 {
			return cli.Silent(cli.ExitNo)
		}
		return err
	})
}

func (l lockJSON) write(t *cli.Text, now time.Time) {
	if len(l.Holders) == 0 {
		t.Printf("%s: nobody holds it\n", l.Name)
	} else {
		of := ""
		if l.Permits > 0 {
			of = fmt.Sprintf(" of %d permits", l.Permits)
		}
		t.Printf("%s: %s%s\n", l.Name, l.Mode, of)
	}
	claims := func(title string, list []claimJSON) {
		cli.Table(t, strings.ToUpper(title)+" SESSION TOKEN SINCE NOTE", list, func(c claimJSON) []any {
			age := "-"
			if c.Since != nil {
				age = cli.Age(*c.Since, now)
			}
			return []any{c.who(), c.Session, c.token(), age, cli.Dash(c.Note)}
		})
	}
	claims("holder", l.Holders)
	claims("waiter", l.Waiters)
}
