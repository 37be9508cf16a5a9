package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// MaintainConfig says when [Node.Maintain] acts. The zero value is sensible.
type MaintainConfig struct {
	// Every is the pause between looks; default 10 s.
	Every time.Duration

	// AlertAt is the share of the quota at which OnQuota is called; default 0.7.
	AlertAt float64

	// DefragFree is the share of free pages above which the store is
	// defragmented; default 0.5. DefragFloor is the size below which it is not
	// worth it; default 64 MiB.
	DefragFree  float64
	DefragFloor int64

	// Stagger is the pause between members when all must be defragmented
	// because the store is full; default 10 s. It should be longer than one
	// defragmentation takes.
	Stagger time.Duration

	// OnQuota is called, from Maintain's goroutine, when the store's size on
	// disk passes AlertAt or falls below it again. May be nil; both are logged.
	OnQuota func(QuotaState)

	// Logger is told what is done; default the node's.
	Logger *slog.Logger
}

// QuotaState is how full a member's store is.
type QuotaState struct {
	Alert bool  // the size is above the share that was set
	Size  int64 // bytes on disk
	InUse int64 // bytes of it in use
	Quota int64
}

func (c MaintainConfig) withDefaults(n *Node) MaintainConfig {
	if c.Every == 0 {
		c.Every = 10 * time.Second
	}
	if c.AlertAt == 0 {
		c.AlertAt = 0.7
	}
	if c.DefragFree == 0 {
		c.DefragFree = 0.5
	}
	if c.DefragFloor == 0 {
		c.DefragFloor = 64 << 20
	}
	if c.Stagger == 0 {
		c.Stagger = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = n.cfg.Logger
	}
	return c
}

func (c MaintainConfig) validate() error {
	var errs []error
	if c.Every < 0 || c.Stagger < 0 {
		errs = append(errs, fmt.Errorf("pauses must not be negative: every %v, stagger %v", c.Every, c.Stagger))
	}
	if c.AlertAt < 0 || c.AlertAt > 1 || c.DefragFree < 0 || c.DefragFree > 1 {
		errs = append(errs, fmt.Errorf("shares must be between 0 and 1: alert %v, free %v", c.AlertAt, c.DefragFree))
	}
	if c.DefragFloor < 0 {
		errs = append(errs, fmt.Errorf("floor is negative: %d", c.DefragFloor))
	}
	if err := errors.Join(errs...); err != nil {
		return &holdfast.Error{Op: "maintain", Key: "store", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	return nil
}

// defragKey is held, leased, by the member that defragments.
const defragKey = "cluster/defrag"

// Maintain keeps the node's store in order until ctx ends or the node is
// closed: it tells when the store fills up, gives free pages back to the disk,
// one member at a time, and brings a full store back into service once enough
// has been deleted. Run one per node.
func (n *Node) Maintain(ctx context.Context, cfg MaintainConfig) error {
	cfg = cfg.withDefaults(n)
	if err := cfg.validate(); err != nil {
		return err
	}
	m := &maintainer{n: n, cfg: cfg}
	for {
		select {
		case <-n.Done():
			return nil
		default:
		}
		if err := m.look(ctx); err != nil && ctx.Err() == nil && holdfast.CodeOf(err) != holdfast.CodeClosed {
			cfg.Logger.Warn("maintenance", slog.Any("error", err))
		}
		if !pause(ctx, cfg.Every) {
			return nil
		}
	}
}

// maintainer is what Maintain remembers between looks.
type maintainer struct {
	n     *Node
	cfg   MaintainConfig
	alert bool
}

// look looks at the store once and does what is due.
func (m *maintainer) look(ctx context.Context) error {
	st, err := m.n.Status(ctx)
	if err != nil {
		return err
	}
	m.tell(ctx, st)
	if slices.Contains(st.Alarms, etcdserverpb.AlarmType_NOSPACE.String()) {
		return m.recover(ctx)
	}
	free := st.DBSize - st.DBInUse
	if st.DBSize < m.cfg.DefragFloor || float64(free) <= m.cfg.DefragFree*float64(st.DBSize) {
		return nil
	}
	return m.defragment(ctx)
}

// tell reports when the store's fill passes the alert's level.
func (m *maintainer) tell(ctx context.Context, st engine.Status) {
	q := QuotaState{Alert: float64(st.DBSize) >= m.cfg.AlertAt*float64(st.Quota), Size: st.DBSize, InUse: st.DBInUse, Quota: st.Quota}
	if q.Alert == m.alert {
		return
	}
	m.alert = q.Alert
	attrs := []any{slog.Int64("size", q.Size), slog.Int64("inUse", q.InUse), slog.Int64("quota", q.Quota)}
	if q.Alert {
		m.cfg.Logger.WarnContext(ctx, "store is filling up", attrs...)
	} else {
		m.cfg.Logger.InfoContext(ctx, "store is below the quota's alert again", attrs...)
	}
	if m.cfg.OnQuota != nil {
		m.cfg.OnQuota(q)
	}
}

// defragment does so when no other member does at the moment.
func (m *maintainer) defragment(ctx context.Context) error {
	lease := newLease()
	if _, err := m.n.Grant(ctx, lease, leaseTTL); err != nil {
		return err
	}
	defer m.release(ctx, lease)
	res, err := m.n.Txn(ctx, engine.Txn{
		If:   []engine.Compare{engine.Missing(defragKey)},
		Then: []engine.Op{engine.PutLeased(defragKey, []byte(m.n.cfg.Name), lease)},
	})
	if err != nil || !res.Succeeded {
		return err
	}
	return m.n.Defragment(ctx)
}

// release gives the defragmentation back; if that fails it is free when the
// lease runs out.
func (m *maintainer) release(ctx context.Context, lease engine.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.n.cfg.Attempt)
	defer cancel()
	if err := m.n.Revoke(ctx, lease); err != nil {
		m.cfg.Logger.Info("defragmentation not given back; its lease will end", slog.Any("error", err))
	}
}

// recover brings a store that is full back into service. Nothing can be written
// then, not even who defragments, so the members take turns by their ids; all
// history is forgotten first.
func (m *maintainer) recover(ctx context.Context) error {
	n := m.n
	members, err := n.Members(ctx)
	if err != nil {
		return err
	}
	for i := range members {
		if members[i].Self {
			break
		}
		if !pause(ctx, m.cfg.Stagger) {
			return nil
		}
	}
	now, err := n.Range(ctx, engine.RangeRequest{Key: defragKey, Count: true})
	if err != nil {
		return err
	}
	if err := n.compactFully(ctx, now.Revision); err != nil {
		return err
	}
	if err := n.Defragment(ctx); err != nil {
		return err
	}
	st, err := n.Status(ctx)
	if err != nil {
		return err
	}
	m.tell(ctx, st)
	if float64(st.DBSize) >= 0.9*float64(st.Quota) {
		return &holdfast.Error{
			Op: "recover", Key: "store", Code: holdfast.CodeExhausted, Outcome: holdfast.NotApplied,
			Err: fmt.Errorf("%d of %d bytes are in use after compaction and defragmentation: delete keys or raise the quota", st.DBSize, st.Quota),
		}
	}
	for _, a := range n.Alarms() {
		gone := !slices.ContainsFunc(members, func(m Member) bool { return m.ID == a.Member })
		if a.Name != etcdserverpb.AlarmType_NOSPACE.String() || a.Member != uint64(n.srv.Server.MemberID()) && !gone {
			continue
		}
		if err := n.Disarm(ctx, a); err != nil {
			return err
		}
		m.cfg.Logger.Warn("store is back in service", slog.Int64("size", st.DBSize), slog.Int64("quota", st.Quota))
	}
	return nil
}

// compactFully forgets all history up to rev and waits until its pages are
// free.
func (n *Node) compactFully(ctx context.Context, rev int64) error {
	_, err := n.srv.Server.Compact(n.root(ctx), &etcdserverpb.CompactionRequest{Revision: rev, Physical: true})
	if err = failed(ctx, "compact", "store", err); holdfast.CodeOf(err) == holdfast.CodeCompacted {
		return nil
	}
	return err
}
