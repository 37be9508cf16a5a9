package main

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"holdfast.dev/client"
	"holdfast.dev/engine/embed"
	"holdfast.dev/internal/cli"
)

type backupCmd struct {
	File string `arg:"" help:"Where to write it. It must not exist."`
}

func (backupCmd) Examples() string {
	return `
holdfast backup holdfast.snap`
}

// backupJSON is a backup in JSON output.
type backupJSON struct {
	File     string `json:"file"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
	Epoch    uint16 `json:"epoch"`
	Revision int64  `json:"revision"`
}

// Help is the long text of the command.
func (backupCmd) Help() string {
	return `The copy is consistent and checked on its way; it appears under its name only when it is whole. It takes as long as it takes: --timeout bounds only the connecting.`
}

func (c *backupCmd) Run(a *app, ctx *runContext) error {
	if a.globals.Engine != "" {
		return errNoNodes
	}
	ictx, stop := a.interruptible(ctx)
	defer stop()
	octx, cancel := context.WithTimeout(ictx, a.globals.Timeout)
	defer cancel()
	return a.dialed(octx, ictx, func(ctx context.Context, cl *client.Client) (err error) {
		file := a.env.Path(c.File)
		if _, err := os.Lstat(file); err == nil {
			return cli.Usage("backup: %s exists already", c.File)
		}
		f, err := os.CreateTemp(filepath.Dir(file), ".holdfast-backup-*")
		if err != nil {
			return cli.WithCode(err, cli.ExitUsage)
		}
		b, err := cl.Backup(ctx, f)
		err = errors.Join(err, f.Sync(), f.Close())
		if err == nil {
			err = os.Rename(f.Name(), file)
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		j := backupJSON{File: c.File, Size: b.Size, SHA256: hex.EncodeToString(b.SHA256), Epoch: b.Epoch, Revision: b.Revision}
		return a.printer().Object(j, func(t *cli.Text) {
			t.Printf("%s: %d bytes, revision %d, epoch %d\n", j.File, j.Size, j.Revision, j.Epoch)
		})
	})
}

type restoreCmd struct {
	File string `arg:"" help:"The backup."`

	Data         string `required:"" placeholder:"DIR" help:"The new node's data directory; it must not exist or be empty."`
	Name         string `default:"n1" help:"The node's name."`
	PeerListen   string `default:"127.0.0.1:7451" hidden:""`
	Peer         string `placeholder:"URL" help:"How other nodes reach it. Default: http://127.0.0.1:7451."`
	Peers        string `placeholder:"NAME=URL,…" help:"All nodes of the new cluster; restore each from the same file, with the same --cluster-token."`
	ClusterToken string `help:"Names the new incarnation; needed with --peers. Default: a random one."`
	RevisionBump uint64 `default:"1000000000" help:"How much the revision is raised: more than all writes since the backup."`
	MinEpoch     uint16 `placeholder:"N" help:"The least epoch afterwards; give it when a backup is restored a second time."`
}

func (restoreCmd) Examples() string {
	return `
holdfast restore holdfast.snap --data ./restored
holdfast serve --data ./restored`
}

// Help is the long text of the command.
func (restoreCmd) Help() string {
	return `The copy is verified. Epoch and revision are raised, so that every token issued afterwards is greater than every token issued before; sessions of the backup are refused; the cluster gets a new identity.`
}

// restoredJSON is a restored node in JSON output.
type restoredJSON struct {
	Data         string `json:"data"`
	ClusterToken string `json:"cluster_token"`
	Revision     int64  `json:"revision"` // of the backup
	Keys         int    `json:"keys"`
}

func (c *restoreCmd) Run(a *app, ctx *runContext) error {
	peer := c.Peer
	if peer == "" {
		peer = "http://" + c.PeerListen
	}
	if c.Peers != "" && c.ClusterToken == "" {
		return cli.Usage("restore: --peers needs --cluster-token, the same for all nodes")
	}
	rctx, stop := a.interruptible(ctx)
	defer stop()
	r, err := embed.Restore(rctx, embed.RestoreConfig{
		Snapshot: a.env.Path(c.File), Dir: a.env.Path(c.Data), Name: c.Name, AdvertisePeer: peer, InitialCluster: c.Peers,
		Token: c.ClusterToken, RevisionBump: c.RevisionBump, MinEpoch: c.MinEpoch,
		Logger: slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if errors.Is(err, embed.ErrBadSnapshot) {
		return cli.WithHint(err, "take another copy made by holdfast backup; its -o json gives the sha256 of the whole file to compare")
	}
	if err != nil {
		return err
	}
	j := restoredJSON{Data: c.Data, ClusterToken: r.Token, Revision: r.Revision, Keys: r.Keys}
	err = a.printer().Object(j, func(t *cli.Text) {
		t.Printf("%s: %d keys of revision %d, cluster token %s\n", j.Data, j.Keys, j.Revision, j.ClusterToken)
	})
	if err == nil {
		a.note("hint: start it with: holdfast serve --name %s --data %s", c.Name, c.Data)
	}
	return err
}
