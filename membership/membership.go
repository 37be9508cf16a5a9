package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Registry registers members and reads rosters. It has no state of its own and
// is safe for concurrent use. Errors are *holdfast.Error with Key
// "member <group>/<id>" or "group <group>".
type Registry struct {
	engine  engine.Engine
	attempt time.Duration
	session *engine.Session // nil: none of its own
}

// New is the registry as a session sees it.
func New(s *engine.Session) *Registry {
	return &Registry{engine: s.Engine(), attempt: s.Attempt(), session: s}
}

// NewFor is the registry without a session: for readers, and for nodes that
// register members for others. Attempt is how long one request may take before
// it is sent again, where that is safe; 0 is engine.DefaultAttempt.
func NewFor(e engine.Engine, attempt time.Duration) *Registry {
	if attempt <= 0 {
		attempt = engine.DefaultAttempt
	}
	return &Registry{engine: e, attempt: attempt}
}

// Roster is who was in a group at one revision.
type Roster struct {
	Revision int64
	Members  []Member // by id
}

// Roster reads who is in a group now; nobody is no error.
func (r *Registry) Roster(ctx context.Context, group string) (Roster, error) {
	if err := invalid("roster", group, checkName("group", group)); err != nil {
		return Roster{}, err
	}
	kvs, rev, err := r.list(ctx, group)
	if err != nil {
		return Roster{}, wrap("roster", groupSubject(group), err)
	}
	roster := Roster{Revision: rev}
	for _, kv := range kvs {
		m, gone, err := decode(group, kv)
		if err != nil {
			return Roster{}, wrap("roster", groupSubject(group), err)
		}
		if !gone {
			roster.Members = append(roster.Members, m)
		}
	}
	return roster, nil
}

// Groups reads the names of the groups that begin with prefix, "" for all, and
// have members, in order. It costs one read for each group.
func (r *Registry) Groups(ctx context.Context, namePrefix string) ([]string, error) {
	var (
		groups []string
		req    = engine.RangeRequest{
			Key: prefix + namePrefix, End: engine.PrefixEnd(prefix + namePrefix), KeysOnly: true, Limit: 1,
		}
	)
	for req.Key < req.End {
		res, err := r.read(ctx, req)
		if err != nil {
			return nil, wrap("groups", "members", err)
		}
		if len(res.KVs) == 0 {
			break
		}
		req.Revision = cmp.Or(req.Revision, res.Revision)
		group, _, _ := strings.Cut(strings.TrimPrefix(res.KVs[0].Key, prefix), "/")
		groups = append(groups, group)
		req.Key = engine.PrefixEnd(groupPrefix(group))
	}
	slices.Sort(groups)
	return groups, nil
}

// pageSize is how many records are read at once.
const pageSize = 500

// list reads all records of a group at one revision.
func (r *Registry) list(ctx context.Context, group string) ([]engine.KV, int64, error) {
	req := engine.RangeRequest{Key: groupPrefix(group), End: engine.PrefixEnd(groupPrefix(group)), Limit: pageSize}
	var kvs []engine.KV
	for {
		res, err := r.read(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		req.Revision = cmp.Or(req.Revision, res.Revision)
		kvs = append(kvs, res.KVs...)
		if !res.More {
			return kvs, req.Revision, nil
		}
		req.Key = kvs[len(kvs)-1].Key + "\x00"
	}
}

// read repeats a read until it succeeds, fails for good, or ctx ends.
func (r *Registry) read(ctx context.Context, req engine.RangeRequest) (engine.RangeResult, error) {
	return engine.Read(ctx, r.engine, r.attempt, req)
}

func groupSubject(group string) string { return fmt.Sprintf("group %.128s", group) }

func memberSubject(group, id string) string { return fmt.Sprintf("member %.128s/%.128s", group, id) }

// invalid joins faults to one holdfast.ErrInvalid, or nil.
func invalid(op, group string, faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return &holdfast.Error{
		Op: op, Key: groupSubject(group), Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.Join(faults...),
	}
}

// wrap gives an engine's error the words of this package.
func wrap(op, key string, err error) error {
	e := &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Err: err}
	for cause := err; e.Request == ""; {
		inner, ok := errors.AsType[*holdfast.Error](cause)
		if !ok {
			break
		}
		e.Request, cause = inner.Request, inner.Err
	}
	return e
}
