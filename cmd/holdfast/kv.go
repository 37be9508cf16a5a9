package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
	"holdfast.dev/kv"
)

type kvCmd struct {
	Get   kvGetCmd   `cmd:"" help:"Write a key's value to standard output. Exit 1: there is no such key."`
	Put   kvPutCmd   `cmd:"" help:"Write a key."`
	Cas   kvCasCmd   `cmd:"" help:"Write a key if it was last written at a revision. Exit 1: it was not."`
	Del   kvDelCmd   `cmd:"" help:"Delete a key. Exit 1: there was none."`
	Ls    kvLsCmd    `cmd:"" help:"List keys."`
	Watch kvWatchCmd `cmd:"" help:"Tell of every change, once and in order."`
}

// keyJSON is a key in JSON output; see docs/cli-json.md.
type keyJSON struct {
	Key            string `json:"key"`
	Text           string `json:"text,omitempty"`
	Base64         string `json:"base64,omitempty"`
	Revision       int64  `json:"revision"`
	CreateRevision int64  `json:"create_revision,omitempty"`
	Version        int64  `json:"version,omitempty"`
	Session        string `json:"session,omitempty"`
	ReadRevision   int64  `json:"read_revision,omitempty"`
}

func toKeyJSON(e kv.Entry) keyJSON {
	k := keyJSON{
		Key: e.Key, Revision: e.Revision, CreateRevision: e.CreateRevision, Version: e.Version, ReadRevision: e.ReadRevision,
	}
	k.Text, k.Base64 = textOrBase64(e.Value)
	if e.Session != 0 {
		k.Session = e.Session.String()
	}
	return k
}

// textOrBase64 is a value as JSON can hold it.
func textOrBase64(b []byte) (text, encoded string) {
	if utf8.Valid(b) {
		return string(b), ""
	}
	return "", base64.StdEncoding.EncodeToString(b)
}

// shown is a value as one cell of a table.
func shown(b []byte) string {
	const most = 60
	if !utf8.Valid(b) {
		return fmt.Sprintf("(%d bytes)", len(b))
	}
	s := strconv.Quote(string(b))
	s = s[1 : len(s)-1]
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return cli.Dash(s)
}

type kvGetCmd struct {
	Key   string `arg:"" help:"The key."`
	Stale bool   `help:"Answer from the nearest node's state, however old, without a majority."`
	At    int64  `placeholder:"REVISION" help:"The state as it was after this revision."`
}

func (kvGetCmd) Examples() string {
	return `
holdfast kv get colour
holdfast kv get colour -o json`
}

func (c *kvGetCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		opts := []kv.ReadOption{kv.At(c.At)}
		if c.Stale {
			opts = append(opts, kv.Stale())
		}
		e, err := b.Reader().Get(ctx, c.Key, opts...)
		if err != nil {
			return err
		}
		return a.printer().Object(toKeyJSON(e), func(t *cli.Text) {
			_, _ = t.Write(e.Value) // as it is, so that it can be piped
			if n := len(e.Value); n == 0 || e.Value[n-1] != '\n' {
				t.Printf("\n")
			}
		})
	})
}

// fenceFlags make a write depend on a fencing token.
type fenceFlags struct {
	Fence string `placeholder:"RESOURCE" help:"Refuse the write when this resource has seen a higher token; needs --token."`
	Token string `placeholder:"N" help:"The fencing token of the lock or leadership, as in HOLDFAST_TOKEN."`
}

func (f fenceFlags) options() ([]kv.WriteOption, error) {
	if (f.Fence == "") != (f.Token == "") {
		return nil, cli.Usage("--fence and --token go together")
	}
	if f.Fence == "" {
		return nil, nil
	}
	t, err := holdfast.ParseToken(f.Token)
	return []kv.WriteOption{kv.Fenced(f.Fence, t)}, err
}

// writeJSON is the answer to a write in JSON output.
type writeJSON struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Existed  *bool  `json:"existed,omitempty"`
}

type kvPutCmd struct {
	Key       string `arg:"" help:"The key."`
	Value     string `arg:"" help:"The value, - for standard input."`
	IfMissing bool   `help:"Only if there is no such key. Exit 1: there is."`
	fenceFlags
}

func (kvPutCmd) Examples() string {
	return `
holdfast kv put colour blue
holdfast kv put config - <config.json
holdfast lock run job -- sh -c 'holdfast kv put result 42 --fence job --token "$HOLDFAST_TOKEN"'`
}

func (c *kvPutCmd) Run(a *app, ctx *runContext) error {
	value, err := a.readAll(c.Value)
	if err != nil {
		return err
	}
	opts, err := c.options()
	if err != nil {
		return err
	}
	if c.IfMissing {
		opts = append(opts, kv.IfMissing())
	}
	return a.writing(ctx, func(ctx context.Context, w access.Writer) error {
		rev, err := w.Put(ctx, c.Key, value, opts...)
		if err != nil {
			return err
		}
		return a.printer().Object(writeJSON{Key: c.Key, Revision: rev}, func(t *cli.Text) { t.Printf("%v\n", rev) })
	})
}

// writing is with, for commands that write keys.
func (a *app) writing(ctx context.Context, f func(context.Context, access.Writer) error) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		w, err := b.Writer(ctx)
		if err != nil {
			return err
		}
		return f(ctx, w)
	})
}

type kvCasCmd struct {
	Key    string `arg:"" help:"The key."`
	Expect int64  `arg:"" help:"The revision at which it was last written, 0 if it must not exist."`
	Value  string `arg:"" help:"The value, - for standard input."`
	fenceFlags
}

func (kvCasCmd) Examples() string {
	return `
holdfast kv cas colour 17 green
holdfast kv cas colour 0 green   # only if there is none`
}

func (c *kvCasCmd) Run(a *app, ctx *runContext) error {
	value, err := a.readAll(c.Value)
	if err != nil {
		return err
	}
	opts, err := c.options()
	if err != nil {
		return err
	}
	return a.writing(ctx, func(ctx context.Context, w access.Writer) error {
		rev, err := w.CompareAndSet(ctx, c.Key, c.Expect, value, opts...)
		if err != nil {
			return cli.WithHint(err, "read it again: holdfast kv get %s -o json", c.Key)
		}
		return a.printer().Object(writeJSON{Key: c.Key, Revision: rev}, func(t *cli.Text) { t.Printf("%v\n", rev) })
	})
}

type kvDelCmd struct {
	Key        string `arg:"" help:"The key."`
	IfRevision int64  `placeholder:"REVISION" help:"Only if it was last written then."`
	fenceFlags
}

func (c *kvDelCmd) Run(a *app, ctx *runContext) error {
	opts, err := c.options()
	if err != nil {
		return err
	}
	if c.IfRevision != 0 {
		opts = append(opts, kv.IfRevision(c.IfRevision))
	}
	return a.writing(ctx, func(ctx context.Context, w access.Writer) error {
		d, err := w.Delete(ctx, c.Key, opts...)
		if err != nil {
			return err
		}
		err = a.printer().Object(writeJSON{Key: c.Key, Revision: d.Revision, Existed: &d.Existed}, func(*cli.Text) {})
		if err == nil && !d.Existed {
			a.note("kv %s: not found", c.Key)
			return cli.Silent(cli.ExitNo)
		}
		return err
	})
}

type kvLsCmd struct {
	Prefix string `arg:"" optional:"" help:"Only keys that begin so."`
	Keys   bool   `help:"Only the keys."`
	Stale  bool   `help:"Answer from the nearest node's state, however old, without a majority."`
}

func (kvLsCmd) Examples() string {
	return `
holdfast kv ls
holdfast kv ls config/ -o jsonl`
}

func (c *kvLsCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		var (
			all   []keyJSON
			raw   [][]byte
			after string
			at    int64
		)
		for {
			opts := []kv.ListOption{kv.Limit(500), kv.At(at), kv.After(after)}
			if c.Keys {
				opts = append(opts, kv.KeysOnly())
			}
			if c.Stale {
				opts = append(opts, kv.Stale())
			}
			page, err := b.Reader().List(ctx, c.Prefix, opts...)
			if err != nil {
				return err
			}
			for _, e := range page.Entries {
				e.ReadRevision = 0
				all, raw = append(all, toKeyJSON(e)), append(raw, e.Value)
				after = e.Key
			}
			if at = page.Revision; !page.More {
				break
			}
		}
		i := -1
		header := "KEY REVISION SESSION VALUE"
		if c.Keys {
			header = "KEY REVISION SESSION"
		}
		return cli.List(a.printer(), "keys", all, header, func(k keyJSON) []any {
			i++
			cells := []any{k.Key, k.Revision, cli.Dash(k.Session)}
			if !c.Keys {
				cells = append(cells, shown(raw[i]))
			}
			return cells
		})
	})
}

// keyEventJSON is a change of a key in JSON output.
type keyEventJSON struct {
	Event string `json:"event"` // put or deleted
	keyJSON
}

type kvWatchCmd struct {
	Prefix string `arg:"" optional:"" help:"Only keys that begin so."`
	From   int64  `placeholder:"REVISION" help:"Begin with the changes of this revision. Default: what comes from now on."`
	Count  int    `placeholder:"N" help:"End after so many changes."`
}

func (kvWatchCmd) Examples() string {
	return `
holdfast kv watch config/
holdfast kv watch --from 120 -o jsonl`
}

func (c *kvWatchCmd) Run(a *app, ctx *runContext) error {
	return a.watching(ctx, func(ctx context.Context, b access.Backend) error {
		p, n := a.printer(), 0
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for batch := range b.Reader().Watch(ctx, kv.WatchRequest{Prefix: c.Prefix, From: c.From}) {
			if batch.Err != nil {
				return cli.WithHint(batch.Err, "list what is there now, and watch from the revision after it")
			}
			for _, ev := range batch.Events {
				j := keyEventJSON{Event: "put", keyJSON: toKeyJSON(ev.Entry)}
				text := fmt.Sprintf("%d  put      %s  %s", ev.Entry.Revision, ev.Entry.Key, shown(ev.Entry.Value))
				if ev.Deleted {
					j.Event = "deleted"
					text = fmt.Sprintf("%d  deleted  %s", ev.Entry.Revision, ev.Entry.Key)
				}
				if err := p.Event(j, "%s", text); err != nil {
					return err
				}
				if n++; n == c.Count {
					return errEnough
				}
			}
		}
		return nil
	})
}
