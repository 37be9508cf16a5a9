package embed

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// RestoreConfig says from what, to where and as whom a member is restored. For
// a cluster, every member is restored from the same file, with the same
// InitialCluster, Token and MinEpoch. Snapshot and Dir must be set.
type RestoreConfig struct {
	Snapshot string // file that Node.Snapshot or etcdctl wrote
	Dir      string // of the new member; must not exist, or be empty

	// Name, AdvertisePeer and InitialCluster are those of [Config].
	Name           string
	AdvertisePeer  string
	InitialCluster string

	// Token is the cluster token of the new incarnation: random when empty,
	// which is for one member only. The restore is known by it.
	Token string

	// RevisionBump is how much the revision is raised above that of the
	// snapshot, so that it is higher than any there was: more than all writes
	// made since the backup; default 1e9, which is a week of 1,500 a second.
	RevisionBump uint64

	// MinEpoch is the least epoch after the restore. By default it is that of
	// the snapshot plus one, which is not enough when the same snapshot was
	// restored before: the epoch must be above every one there was.
	MinEpoch uint16

	Logger *slog.Logger // default slog.Default(); gets warnings
}

// Restored says what was restored.
type Restored struct {
	Token    string // of the new incarnation, for the other members
	Revision int64  // the last one in the snapshot
	Keys     int
}

// mark is what Restore leaves in the data directory for the first start.
type mark struct {
	ID       string `json:"id"`
	MinEpoch uint16 `json:"minEpoch,omitempty"`
}

const markFile = "holdfast-restore.json"

// restoredKey holds the id of the last restore that was finished.
const restoredKey = "cluster/restored"

// Restore makes the data directory of a new cluster's member from a snapshot,
// whose checksum it verifies. The revision is raised, all history before is
// compacted, and the cluster id is a new one, so that no client mistakes the
// new store for the old. The directory appears whole or not at all. What is
// left to do is done by [Start].
func Restore(ctx context.Context, cfg RestoreConfig) (Restored, error) {
	fail := func(code holdfast.Code, err error) error {
		return &holdfast.Error{Op: "restore", Key: cfg.Dir, Code: code, Outcome: holdfast.NotApplied, Err: err}
	}
	if cfg.Token == "" {
		var b [8]byte
		rand.Read(b[:])
		cfg.Token = "holdfast-" + hex.EncodeToString(b[:])
	}
	if cfg.RevisionBump == 0 {
		cfg.RevisionBump = 1e9
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	// The rules for names and addresses are those of a node.
	node := Config{Dir: cfg.Dir, Name: cfg.Name, AdvertisePeer: cfg.AdvertisePeer, ListenPeer: cfg.AdvertisePeer, InitialCluster: cfg.InitialCluster}.withDefaults()
	errs := []error{node.checkNames()}
	if cfg.Snapshot == "" {
		errs = append(errs, errors.New("no snapshot file"))
	}
	if cfg.Dir == "" {
		errs = append(errs, errors.New("no data directory"))
	}
	if cfg.MinEpoch > holdfast.MaxEpoch {
		errs = append(errs, fmt.Errorf("epoch %d is above the highest, %d", cfg.MinEpoch, holdfast.MaxEpoch))
	}
	if err := errors.Join(errs...); err != nil {
		return Restored{}, fail(holdfast.CodeInvalid, err)
	}
	if err := verify(ctx, cfg.Snapshot); err != nil {
		return Restored{}, fail(holdfast.CodeInvalid, err)
	}
	// Removing fails unless the directory is empty, which is what is wanted.
	if err := os.Remove(cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Restored{}, fail(holdfast.CodeConflict, fmt.Errorf("data directory is in use: %w", err))
	}
	manager := snapshot.NewV3(zapLogger(cfg.Logger, slog.LevelWarn))
	part := filepath.Clean(cfg.Dir) + ".restoring"
	if err := os.RemoveAll(part); err != nil {
		return Restored{}, fail(holdfast.CodeUnknown, err)
	}
	discard := func(err error) error {
		return errors.Join(fail(holdfast.CodeInvalid, err), os.RemoveAll(part))
	}
	if err := manager.Restore(snapshot.RestoreConfig{
		SnapshotPath: cfg.Snapshot, Name: node.Name, OutputDataDir: part,
		PeerURLs: []string{node.AdvertisePeer}, InitialCluster: node.InitialCluster, InitialClusterToken: cfg.Token,
		RevisionBump: cfg.RevisionBump, MarkCompacted: true,
	}); err != nil {
		return Restored{}, discard(err)
	}
	info, err := manager.Status(cfg.Snapshot)
	if err != nil {
		return Restored{}, discard(err)
	}
	if err := ctx.Err(); err != nil {
		return Restored{}, discard(err)
	}
	id, err := restoreID(cfg)
	if err != nil {
		return Restored{}, discard(err)
	}
	if err := errors.Join(writeMark(part, mark{ID: id, MinEpoch: cfg.MinEpoch}), syncTree(part)); err != nil {
		return Restored{}, discard(err)
	}
	if err := os.Rename(part, cfg.Dir); err != nil {
		return Restored{}, discard(err)
	}
	return Restored{Token: cfg.Token, Revision: info.Revision, Keys: info.TotalKey}, syncDir(filepath.Dir(filepath.Clean(cfg.Dir)))
}

// ErrBadSnapshot is what [Restore] says of a file that is not a whole snapshot.
var ErrBadSnapshot = errors.New("not a whole snapshot")

// verify checks that the file is a snapshot as it was written: pages of a store,
// and the sum of them.
func verify(ctx context.Context, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	bad := func(why string) error { return fmt.Errorf("%s: %w: %s", file, ErrBadSnapshot, why) }
	pages := info.Size() - sha256.Size
	switch {
	case !info.Mode().IsRegular():
		return bad("it is not a file")
	case info.Size() == 0:
		return bad("it is empty")
	case pages < pageSize || pages%sectorSize != 0:
		return bad(fmt.Sprintf("it was cut off, or is another kind of file: no snapshot has %d bytes", info.Size()))
	}
	sum, want := sha256.New(), make([]byte, sha256.Size)
	head := make([]byte, pageSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	if binary.NativeEndian.Uint32(head[magicAt:]) != magic {
		return bad("it is another kind of file")
	}
	if _, err := io.Copy(contextWriter{ctx, sum}, io.LimitReader(f, pages)); err != nil {
		return err
	}
	if _, err := io.ReadFull(f, want); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return bad("its content does not match the checksum at its end")
	}
	return nil
}

// How bbolt lays out a store; etcd takes a file for one with a checksum when
// its size is a number of sectors and the checksum.
const (
	pageSize   = 4096
	sectorSize = 512
	magicAt    = 16 // after the header of the first page
	magic      = 0xED0CDAED
)

// restoreID is what a restore is known by: the new incarnation and the sum at
// the end of the snapshot, which has been verified.
func restoreID(cfg RestoreConfig) (string, error) {
	f, err := os.Open(cfg.Snapshot)
	if err != nil {
		return "", err
	}
	var sum [sha256.Size]byte
	_, err = f.Seek(-sha256.Size, io.SeekEnd)
	if err == nil {
		_, err = io.ReadFull(f, sum[:])
	}
	return cfg.Token + " " + hex.EncodeToString(sum[:8]), errors.Join(err, f.Close())
}

// writeMark writes the mark so that it is on disk when the directory gets its
// final name.
func writeMark(dir string, m mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, markFile), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(dir))
}

// readMark reads the mark of a data directory; nil when it was not restored.
func readMark(dir string) (*mark, error) {
	b, err := os.ReadFile(filepath.Join(dir, markFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // no mark, no error
	}
	if err != nil {
		return nil, err
	}
	var m mark
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", markFile, err)
	}
	return &m, nil
}

// FinishRestore makes a restored store fit to be served from: it ends all old
// sessions, with their leases, dedup records, grants and registrations, raises
// the epoch and notes id, in one guarded transaction, so that it happens once
// however many members do it, however often. [Start] calls it with what
// [Restore] left in the data directory.
func FinishRestore(ctx context.Context, n *Node, id string) error {
	return n.retry(ctx, func() error { return finishRestore(ctx, n, mark{ID: id}) })
}

func finishRestore(ctx context.Context, n *Node, m mark) error {
	// The leases are listed before it is asked whether all is done: none of
	// them can then belong to a session of the new incarnation.
	leases, err := n.leases(ctx)
	if err != nil {
		return err
	}
	now, err := n.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Get(restoredKey), engine.Get("epoch")}})
	if err != nil {
		return err
	}
	done, epoch := now.Results[0].Range.KVs, now.Results[1].Range.KVs
	var doneRev, epochRev int64
	if len(done) > 0 {
		if doneRev = done[0].ModRevision; string(done[0].Value) == m.ID {
			return nil
		}
	}
	was := uint64(1) // an epoch that was never written is 1
	if len(epoch) > 0 {
		epochRev = epoch[0].ModRevision
		if was, err = strconv.ParseUint(string(epoch[0].Value), 10, 16); err != nil {
			return &holdfast.Error{Op: "finish restore", Key: "epoch", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
		}
	}
	raised := max(was+1, uint64(m.MinEpoch))
	if raised > holdfast.MaxEpoch {
		return &holdfast.Error{
			Op: "finish restore", Key: "epoch", Code: holdfast.CodeExhausted, Outcome: holdfast.NotApplied,
			Err: fmt.Errorf("epoch %d is above the highest, %d", raised, holdfast.MaxEpoch),
		}
	}
	// Most of what old sessions hold goes with their leases.
	for _, lease := range leases {
		if err := n.Revoke(ctx, lease); err != nil && holdfast.CodeOf(err) != holdfast.CodeNotFound {
			return err
		}
	}
	then := []engine.Op{
		engine.Put("epoch", strconv.AppendUint(nil, raised, 10)),
		engine.Put(restoredKey, []byte(m.ID)),
	}
	for _, prefix := range []string{"session/", "dedup/", "lock/", "election/", "member/"} {
		then = append(then, engine.DeleteRange(prefix, engine.PrefixEnd(prefix)))
	}
	res, err := n.Txn(ctx, engine.Txn{
		If:   []engine.Compare{engine.ModIs(restoredKey, doneRev), engine.ModIs("epoch", epochRev)},
		Then: then,
	})
	if err != nil {
		return err
	}
	if !res.Succeeded { // another member was faster: look again
		return &holdfast.Error{Op: "finish restore", Key: m.ID, Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied}
	}
	return nil
}

// leases lists all leases that this member knows of.
func (n *Node) leases(ctx context.Context) ([]engine.LeaseID, error) {
	stubs := stubs(n.srv.Server)
	resp, err := stubs.Lease.LeaseLeases(n.root(ctx), &etcdserverpb.LeaseLeasesRequest{})
	if err != nil {
		return nil, failed(ctx, "list", "leases", err)
	}
	out := make([]engine.LeaseID, len(resp.GetLeases()))
	for i, l := range resp.GetLeases() {
		out[i] = engine.LeaseID(l.GetID())
	}
	return out, nil
}
