package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// healthy is three nodes that serve, n1 leading.
func healthy() []*seen {
	var members []*v1.ClusterMember
	for i := range 3 {
		members = append(members, &v1.ClusterMember{Id: id(i), Name: fmt.Sprintf("n%d", i+1), Leader: i == 0})
	}
	var all []*seen
	for i := range 3 {
		all = append(all, &seen{
			url: fmt.Sprintf("http://n%d", i+1), sent: now, trip: 2 * time.Millisecond, probe: 3 * time.Millisecond, members: members,
			status: &v1.StatusResponse{
				Node: fmt.Sprintf("n%d", i+1), Version: "1.0", Ready: true, Clock: timestamppb.New(now.Add(time.Millisecond)),
				Store: &v1.StoreStatus{
					Kind: "embed", Version: "3.7.3", ClusterId: "c", MemberId: id(i), LeaderId: id(0), Revision: 1000,
					Size: 10 << 20, InUse: 8 << 20, Quota: 2 << 30,
				},
			},
		})
	}
	return all
}

func id(i int) string { return fmt.Sprintf("%016x", i+1) }

func writes(d time.Duration) []timed {
	return []timed{{stepOpen, time.Millisecond, nil}, {stepWrite, d, nil}, {stepWrite, d, nil}, {stepWrite, time.Millisecond, nil}}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		title string
		harm  func(all []*seen) ([]*seen, []timed)
		want  []string // "SEVERITY NODE: WHAT" begins so, in any order; nothing else
	}{
		{"healthy", func(a []*seen) ([]*seen, []timed) { return a, writes(time.Millisecond) }, nil},
		{"nobody", func([]*seen) ([]*seen, []timed) { return nil, nil }, []string{"problem : no endpoints"}},
		{"one down", func(a []*seen) ([]*seen, []timed) {
			a[2] = &seen{url: "http://n3", err: errors.New("boom")}
			return a, nil
		}, []string{"problem http://n3: it gives no answer", "warning : 2 of 3 voters serve: exactly a majority"}},
		{"no quorum", func(a []*seen) ([]*seen, []timed) {
			for _, s := range a {
				s.probed, s.status.Ready = errors.New("no quorum"), false
			}
			return a, nil
		}, []string{"problem n1: it does not serve", "problem n2: it does not serve", "problem n3: it does not serve", "problem : no quorum"}},
		{"no leader", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Store.LeaderId, a[1].probed = "", errors.New("no quorum")
			return a, nil
		}, []string{"problem n2: it knows no leader", "warning : 2 of 3 voters"}},
		{"learner", func(a []*seen) ([]*seen, []timed) {
			a[2].status.Store.Learner = true
			for _, s := range a {
				s.members[2].Learner = true
			}
			return a, nil
		}, []string{"warning n3: it is a learner", "warning : 2 voters, an even number", "warning : 2 of 2 voters serve"}},
		{"not ready", func(a []*seen) ([]*seen, []timed) {
			a[0].status.Ready, a[0].status.NotReady = false, "the node is stopping"
			return a, nil
		}, []string{"problem n1: it is not ready: the node is stopping"}},
		{"alarms", func(a []*seen) ([]*seen, []timed) {
			a[0].status.Store.Alarms = []string{"NOSPACE", "CORRUPT", "odd"}
			return a, nil
		}, []string{"problem n1: alarm: no space", "problem n1: alarm: corrupt", "problem n1: alarm: odd"}},
		{"quota", func(a []*seen) ([]*seen, []timed) {
			a[0].status.Store.Size, a[0].status.Store.InUse = 1600<<20, 1500<<20
			a[1].status.Store.Size, a[1].status.Store.InUse = 2000<<20, 200<<20
			return a, nil
		}, []string{"warning n1: the store takes 78 %", "problem n2: the store takes 98 %", "warning n2: only 200 MiB of the store's 1.953 GiB"}},
		{"certificate", func(a []*seen) ([]*seen, []timed) {
			a[0].expires, a[1].expires = now.Add(24*time.Hour), now.Add(100*24*time.Hour)
			return a, nil
		}, []string{"warning n1: its certificate expires on 2026-03-02"}},
		{"other cluster", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Store.ClusterId = "d"
			return a, nil
		}, []string{"problem : the endpoints belong to different clusters: c, d"}},
		{"versions", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Version, a[2].status.Store.Version = "1.1", "3.8.0"
			return a, nil
		}, []string{"warning : the nodes run different versions: 1.0, 1.1", "warning : the stores run different versions"}},
		{"skew", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Clock = timestamppb.New(now.Add(2 * time.Second))
			return a, nil
		}, []string{"warning : the clock of n2 is at least 2s ahead of that of n1"}},
		{"great skew", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Clock = timestamppb.New(now.Add(-time.Hour))
			return a, nil
		}, []string{"problem : the clock of n1 is at least 1h0m0s ahead of that of n2"}},
		{"skew within the round trip", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Clock, a[1].trip = timestamppb.New(now.Add(2*time.Second)), 4*time.Second
			return a, nil
		}, nil},
		{"behind", func(a []*seen) ([]*seen, []timed) {
			a[1].status.Store.Revision = 100_000
			return a, nil
		}, []string{"warning n1: it is 99000 revisions behind", "warning n3: it is 99000"}},
		{"never started", func(a []*seen) ([]*seen, []timed) {
			for _, s := range a {
				s.members = append(slices.Clip(s.members), &v1.ClusterMember{Id: id(9), Learner: true})
			}
			return a, nil
		}, []string{"warning " + id(9) + ": it was added and has never been started"}},
		{"one node", func(a []*seen) ([]*seen, []timed) {
			a[0].members = a[0].members[:1]
			return a[:1], nil
		}, []string{"info : one node"}},
		{"slow disk", func(a []*seen) ([]*seen, []timed) { return a, writes(time.Second) }, []string{"warning : a write takes 1s"}},
		{"failed step", func(a []*seen) ([]*seen, []timed) {
			return a, []timed{{"acquire lock", time.Second, wire.ToConnect(&holdfast.Error{Code: holdfast.CodeNoQuorum})}}
		}, []string{"problem : acquire lock: no quorum"}},
		{"denied step", func(a []*seen) ([]*seen, []timed) {
			return a, []timed{{"acquire lock", time.Second, wire.ToConnect(&holdfast.Error{Code: holdfast.CodeDenied})}}
		}, []string{"info : acquire lock: denied"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			all, steps := c.harm(healthy())
			var got []string
			for _, f := range judge(all, steps, now) {
				got = append(got, fmt.Sprintf("%v %s: %s", f.Severity, f.Node, f.What))
				if f.Why == "" {
					t.Errorf("%s: without a reason", f.What)
				}
			}
			for _, want := range c.want {
				i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, want) })
				if i < 0 {
					t.Errorf("%q is missing in %q", want, got)
					continue
				}
				got = slices.Delete(got, i, i+1)
			}
			if len(got) > 0 {
				t.Errorf("besides: %q", got)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{x509.UnknownAuthorityError{}, "its certificate is not trusted"},
		{x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{}}, "its certificate is expired"},
		{errors.New("remote error: tls: certificate required"), "it refuses the TLS connection"},
		{wire.Unauthenticated("who"), "it does not know you"},
		{connect.NewError(connect.CodePermissionDenied, errors.New("no")), "it does not let you ask"},
		{errors.New("x"), "it gives no answer"},
	} {
		var f findings
		f.unreachable(&seen{url: "https://n1", err: fmt.Errorf("get: %w", c.err)})
		if !strings.HasPrefix(f[0].What, c.want) || f[0].Why == "" || f[0].Hint == "" {
			t.Errorf("%v: %+v", c.err, f[0])
		}
	}
}
