package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
)

// Bounds of what a session carries.
const (
	maxMetadata      = 32      // entries
	maxMetadataBytes = 4 << 10 // of all together
	reservedMetadata = "holdfast."
)

// register is the sessions that exist and whose they are, as a watch tells.
// Safe for concurrent use.
type register struct {
	max  int
	each int

	mu      sync.Mutex // guards the fields below
	owner   map[engine.SessionID]string
	opening map[engine.SessionID]opening // counted already, not seen yet
	count   map[string]int               // of each principal, both kinds
}

func newRegister(most, each int) *register {
	return &register{max: most, each: each, owner: map[engine.SessionID]string{}, opening: map[engine.SessionID]opening{}, count: map[string]int{}}
}

// opening is a session that was asked for.
type opening struct {
	principal string
	since     time.Time
}

// openingAtMost is how long a session that was opened may stay unseen.
const openingAtMost = time.Minute

// apply takes in what the watch tells.
func (r *register) apply(u engine.Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.Snapshot {
		clear(r.owner)
		clear(r.count)
		for id, o := range r.opening {
			if time.Since(o.since) > openingAtMost { // it came and went unseen
				delete(r.opening, id)
				continue
			}
			r.count[o.principal]++
		}
		for _, kv := range u.KVs {
			r.add(kv)
		}
		return
	}
	for _, ev := range u.Events {
		id, ok := sessionOf(ev.KV.Key)
		switch {
		case !ok:
		case !ev.Deleted:
			r.add(ev.KV)
		default:
			if principal, ok := r.owner[id]; ok {
				r.drop(principal)
				delete(r.owner, id)
			}
		}
	}
}

// add takes in one session. r.mu is held.
func (r *register) add(kv engine.KV) {
	id, ok := sessionOf(kv.Key)
	if _, known := r.owner[id]; !ok || known {
		return
	}
	var rec engine.SessionRecord
	if json.Unmarshal(kv.Value, &rec) != nil {
		return
	}
	principal := rec.Metadata[wire.PrincipalKey]
	r.owner[id] = principal
	if _, ok := r.opening[id]; ok {
		delete(r.opening, id)
		return
	}
	r.count[principal]++
}

// drop counts one less. r.mu is held.
func (r *register) drop(principal string) {
	if r.count[principal]--; r.count[principal] <= 0 {
		delete(r.count, principal)
	}
}

// reserve counts a session that is about to be opened; failed takes it back.
func (r *register) reserve(id engine.SessionID, principal string) (failed func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.owner[id]; ok {
		return func() {}, nil
	}
	if _, ok := r.opening[id]; ok {
		return func() {}, nil
	}
	switch {
	case len(r.owner)+len(r.opening) >= r.max:
		return nil, exhausted(fmt.Errorf("%d sessions in this cluster", r.max))
	case r.count[principal] >= r.each:
		return nil, exhausted(fmt.Errorf("%d sessions of %s", r.each, principal))
	}
	r.opening[id] = opening{principal, time.Now()}
	r.count[principal]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.opening[id]; ok {
			delete(r.opening, id)
			r.drop(principal)
		}
	}, nil
}

// whose is the principal of a session, if the watch has told of it.
func (r *register) whose(id engine.SessionID) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	principal, ok := r.owner[id]
	return principal, ok
}

func (r *register) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.owner)
}

func sessionOf(key string) (engine.SessionID, bool) {
	prefix, _ := engine.SessionRange()
	id, err := engine.ParseSessionID(strings.TrimPrefix(key, prefix))
	return id, err == nil
}

// session finds the session that a request names and checks that it is the
// caller's. ErrLost when it is gone, ErrDenied when it is another's.
func (s *Server) session(ctx context.Context, text string) (engine.SessionID, error) {
	id, err := engine.ParseSessionID(text)
	if err != nil {
		return 0, err
	}
	principal, err := s.ownerOf(ctx, id)
	if err != nil {
		return 0, err
	}
	if principal != callerOf(ctx).Name {
		return 0, &holdfast.Error{
			Key: "session " + id.String(), Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied,
			Err: errors.New("it was opened by somebody else"),
		}
	}
	return id, nil
}

func (s *Server) ownerOf(ctx context.Context, id engine.SessionID) (string, error) {
	if principal, ok := s.register.whose(id); ok {
		return principal, nil
	}
	rec, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.SessionRecord, error) {
		return engine.LookupSession(ctx, s.cfg.Engine, id)
	})
	if errors.Is(err, holdfast.ErrNotFound) {
		err = &holdfast.Error{Key: "session " + id.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}
	}
	return rec.Metadata[wire.PrincipalKey], err
}

// sessionService is holdfast.v1.SessionService.
type sessionService struct{ *Server }

func (s sessionService) Open(ctx context.Context, req *v1.OpenRequest) (*v1.OpenResponse, error) {
	c := callerOf(ctx)
	if err := c.May(auth.Write); err != nil {
		return nil, err
	}
	rec, err := s.record(req)
	if err != nil {
		return nil, err
	}
	if req.GetSession() == "" {
		rec.ID = engine.NewSessionID()
	} else {
		if rec.ID, err = engine.ParseSessionID(req.GetSession()); err != nil {
			return nil, err
		}
		// Repeating one's own request is fine; another's session stays his.
		if _, err := s.session(ctx, req.GetSession()); err != nil && !errors.Is(err, holdfast.ErrLost) {
			return nil, err
		}
	}
	rec.Metadata[wire.PrincipalKey] = c.Name
	failed, err := s.register.reserve(rec.ID, c.Name)
	if err != nil {
		return nil, err
	}
	info, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.SessionInfo, error) {
		return s.leases.OpenSession(ctx, rec)
	})
	if err != nil {
		failed()
		return nil, err
	}
	if req.GetSession() != "" {
		if _, err := s.session(ctx, rec.ID.String()); err != nil { // somebody else was quicker with the same id
			failed()
			return nil, err
		}
	}
	return &v1.OpenResponse{Session: rec.ID.String(), Ttl: durationpb.New(info.TTL), Epoch: uint32(info.Epoch)}, nil
}

// record is the session that a request asks for, or all its faults.
func (s *Server) record(req *v1.OpenRequest) (engine.SessionRecord, error) {
	rec := engine.SessionRecord{Name: req.GetName(), TTL: engine.DefaultTTL, Metadata: map[string]string{}}
	if d := wire.Duration(req.GetTtl()); d != nil {
		rec.TTL = *d
	}
	var faults []error
	if rec.TTL < engine.MinTTL || rec.TTL > s.cfg.Limits.TTL {
		faults = append(faults, fmt.Errorf("ttl %v: want %v to %v", rec.TTL, engine.MinTTL, s.cfg.Limits.TTL))
	}
	if len(rec.Name) > 256 {
		faults = append(faults, fmt.Errorf("name of %d bytes: want at most 256", len(rec.Name)))
	}
	size := 0
	for k, v := range req.GetMetadata() {
		size += len(k) + len(v)
		rec.Metadata[k] = v
		if strings.HasPrefix(k, reservedMetadata) {
			faults = append(faults, fmt.Errorf("metadata %q: names beginning with %q are the node's own", k, reservedMetadata))
		}
	}
	if len(rec.Metadata) > maxMetadata || size > maxMetadataBytes {
		faults = append(faults, fmt.Errorf("metadata: %d entries of %d bytes, want at most %d of %d", len(rec.Metadata), size, maxMetadata, maxMetadataBytes))
	}
	if err := errors.Join(faults...); err != nil {
		return rec, &holdfast.Error{Op: "open session", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	return rec, nil
}

func (s sessionService) KeepAlive(ctx context.Context, req *v1.KeepAliveRequest) (*v1.KeepAliveResponse, error) {
	id, err := s.session(ctx, req.GetSession())
	if err != nil {
		return nil, err
	}
	ttl, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (time.Duration, error) {
		return s.leases.RenewSession(ctx, id)
	})
	if err != nil {
		return nil, err
	}
	return &v1.KeepAliveResponse{Ttl: durationpb.New(ttl)}, nil
}

func (s sessionService) Close(ctx context.Context, req *v1.CloseRequest) (*v1.CloseResponse, error) {
	id, err := s.session(ctx, req.GetSession())
	if errors.Is(err, holdfast.ErrDenied) && callerOf(ctx).May(auth.Admin) == nil {
		id, err = engine.ParseSessionID(req.GetSession())
	}
	if err == nil {
		_, err = retry(ctx, s.cfg.Attempt, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.leases.CloseSession(ctx, id)
		})
	}
	if err != nil && !errors.Is(err, holdfast.ErrLost) { // gone is what was wanted
		return nil, err
	}
	return &v1.CloseResponse{}, nil
}

func (s sessionService) Get(ctx context.Context, req *v1.SessionServiceGetRequest) (*v1.SessionServiceGetResponse, error) {
	id, err := engine.ParseSessionID(req.GetSession())
	if err != nil {
		return nil, err
	}
	rec, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.SessionRecord, error) {
		return engine.LookupSession(ctx, s.cfg.Engine, id)
	})
	if err != nil {
		return nil, err
	}
	if !s.shows(ctx, rec) {
		return nil, &holdfast.Error{
			Key: "session " + id.String(), Op: "get", Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied,
			Err: errors.New("it was opened by somebody else"),
		}
	}
	return &v1.SessionServiceGetResponse{Session: wire.SessionToProto(rec)}, nil
}

func (s sessionService) List(ctx context.Context, _ *v1.SessionServiceListRequest) (*v1.SessionServiceListResponse, error) {
	recs, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) ([]engine.SessionRecord, error) {
		return engine.Sessions(ctx, s.cfg.Engine)
	})
	if err != nil {
		return nil, err
	}
	resp := &v1.SessionServiceListResponse{}
	for _, rec := range recs {
		if s.shows(ctx, rec) {
			resp.Sessions = append(resp.Sessions, wire.SessionToProto(rec))
		}
	}
	return resp, nil
}

// shows says whether the caller may see a session: his own, or all as admin.
func (s *Server) shows(ctx context.Context, rec engine.SessionRecord) bool {
	c := callerOf(ctx)
	return c.May(auth.Admin) == nil || rec.Metadata[wire.PrincipalKey] == c.Name
}
