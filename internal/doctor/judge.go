package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "holdfast.dev/internal/gen/holdfast/v1"
)

// What counts as much.
const (
	quotaWarning  = 0.70 // of the quota
	quotaProblem  = 0.95
	fragmented    = 0.50      // of the file in use
	fragmentedMin = 128 << 20 // bytes, below which it does not matter
	skewWarning   = 500 * time.Millisecond
	skewProblem   = 30 * time.Second
	slowWrite     = 100 * time.Millisecond
	slowProbe     = 50 * time.Millisecond
	behind        = 5000 // revisions
	expiresSoon   = 14 * 24 * time.Hour
)

// findings collects what judge says.
type findings []Finding

func (f *findings) add(s Severity, node, what, why, hint string) {
	*f = append(*f, Finding{Severity: s, Node: node, What: what, Why: why, Hint: hint})
}

// judge says what it means.
func judge(all []*seen, steps []timed, now time.Time) []Finding {
	var f findings
	if len(all) == 0 {
		f.add(Problem, "", "no endpoints", "there is nobody to ask", "name the nodes' addresses with --endpoints")
		return f
	}
	var answering []*seen
	for _, s := range all {
		if s.err != nil {
			f.unreachable(s)
			continue
		}
		answering = append(answering, s)
		f.node(s)
		f.store(s)
		f.certificate(s, now)
	}
	f.quorum(answering)
	f.together(answering)
	f.membership(all, answering)
	f.steps(answering, steps)
	return f
}

// node judges whether a node serves.
func (f *findings) node(s *seen) {
	st := s.status.GetStore()
	switch {
	case st.GetLearner():
		f.add(Warning, s.name(), "it is a learner", "it follows without a vote and does not count for the majority",
			"holdfast cluster promote "+st.GetMemberId()+", as soon as it has caught up")
	case st.GetKind() == "embed" && st.GetLeaderId() == "":
		f.add(Problem, s.name(), "it knows no leader", "it cannot reach a majority of the members, or they have just lost theirs",
			"check the network between the peer addresses, and that the other nodes run")
	case s.probed != nil:
		f.add(Problem, s.name(), "it does not serve: "+text(s.probed), "a linearizable read got no answer from a majority",
			"check the network between the nodes, and their disks")
	case !s.status.GetReady():
		f.add(Problem, s.name(), "it is not ready: "+s.status.GetNotReady(), "clients go to other nodes",
			"it may be starting or stopping; look again in a few seconds, then at its log")
	}
}

// store judges size and alarms.
func (f *findings) store(s *seen) {
	st := s.status.GetStore()
	for _, a := range st.GetAlarms() {
		switch kind := strings.ToLower(a); {
		case strings.Contains(kind, "nospace"):
			f.add(Problem, s.name(), "alarm: no space", "the store has reached its quota: writes are refused in the whole cluster",
				"delete keys (that is still allowed): the nodes compact, defragment and end the alarm by themselves; or restart them with a higher --quota")
		case strings.Contains(kind, "corrupt"):
			f.add(Problem, s.name(), "alarm: corrupt", "the members' stores differ: one of them has lost or changed data",
				"take the member whose data is wrong out (holdfast cluster remove) and start it anew with an empty directory and --join")
		default:
			f.add(Problem, s.name(), "alarm: "+a, "the store complains", "see the node's log")
		}
	}
	if st.GetQuota() > 0 {
		used := float64(st.GetSize()) / float64(st.GetQuota())
		what := fmt.Sprintf("the store takes %.0f %% of its quota (%s of %s)", used*100, bytes(st.GetSize()), bytes(st.GetQuota()))
		why := "at 100 % every write in the cluster is refused"
		switch {
		case used >= quotaProblem:
			f.add(Problem, s.name(), what, why, "delete keys, or restart the nodes with a higher --quota")
		case used >= quotaWarning:
			f.add(Warning, s.name(), what, why, "find what fills it (holdfast kv ls) and delete it, or restart the nodes with a higher --quota")
		}
	}
	if st.GetSize() >= fragmentedMin && float64(st.GetInUse()) < fragmented*float64(st.GetSize()) {
		f.add(Warning, s.name(), fmt.Sprintf("only %s of the store's %s are in use", bytes(st.GetInUse()), bytes(st.GetSize())),
			"the rest counts against the quota all the same", "nodes defragment themselves, one after another; if this stays, see the node's log")
	}
}

// certificate judges how long TLS will work.
func (f *findings) certificate(s *seen, now time.Time) {
	if s.expires.IsZero() || s.expires.Sub(now) > expiresSoon {
		return
	}
	f.add(Warning, s.name(), "its certificate expires on "+s.expires.UTC().Format(time.DateOnly), "after that nobody can connect",
		"issue another one with holdfast cert node and replace the files; no restart is needed")
}

// quorum judges whether anybody serves.
func (f *findings) quorum(answering []*seen) {
	serving := 0
	for _, s := range answering {
		if s.probed == nil {
			serving++
		}
	}
	if serving == 0 {
		f.add(Problem, "", "no quorum", "no node that was asked can reach a majority: nothing can be acquired, written or read",
			"start the nodes that are down; a majority of all members must run and reach each other")
	}
}

// together judges what only shows in comparison.
func (f *findings) together(answering []*seen) {
	distinct := func(of func(*seen) string) []string {
		var values []string
		for _, s := range answering {
			if v := of(s); v != "" {
				values = append(values, v)
			}
		}
		slices.Sort(values)
		return slices.Compact(values)
	}
	if ids := distinct(func(s *seen) string { return s.status.GetStore().GetClusterId() }); len(ids) > 1 {
		f.add(Problem, "", "the endpoints belong to different clusters: "+strings.Join(ids, ", "),
			"a lock in one says nothing about the other: two clients may hold the same name", "correct the list of endpoints")
		return
	}
	if vs := distinct(func(s *seen) string { return s.status.GetVersion() }); len(vs) > 1 {
		f.add(Warning, "", "the nodes run different versions: "+strings.Join(vs, ", "), "fine during an upgrade, not for long", "finish the upgrade")
	}
	if vs := distinct(func(s *seen) string { return s.status.GetStore().GetVersion() }); len(vs) > 1 {
		f.add(Warning, "", "the stores run different versions: "+strings.Join(vs, ", "), "fine during an upgrade, not for long", "finish the upgrade")
	}
	f.skew(answering)
	var newest int64
	for _, s := range answering {
		newest = max(newest, s.status.GetStore().GetRevision())
	}
	for _, s := range answering {
		if rev := s.status.GetStore().GetRevision(); newest-rev > behind {
			f.add(Warning, s.name(), fmt.Sprintf("it is %d revisions behind", newest-rev), "its disk or its network is slower than the others'",
				"if that grows, look at its disk's latency")
		}
	}
}

// skew judges the clocks against one another.
func (f *findings) skew(answering []*seen) {
	if len(answering) < 2 {
		return
	}
	first, last := answering[0], answering[0]
	ahead := func(s *seen) time.Duration { d, _ := s.skew(); return d }
	for _, s := range answering[1:] {
		if ahead(s) < ahead(first) {
			first = s
		}
		if ahead(s) > ahead(last) {
			last = s
		}
	}
	_, e1 := first.skew()
	_, e2 := last.skew()
	apart := ahead(last) - ahead(first) - e1 - e2 // at least
	what := fmt.Sprintf("the clock of %s is at least %v ahead of that of %s", last.name(), apart.Round(10*time.Millisecond), first.name())
	why := "no decision of Holdfast looks at the time of day, but certificates, logs and people do"
	switch {
	case apart >= skewProblem:
		f.add(Problem, "", what, why+"; TLS may fail", "let all machines follow one time service")
	case apart >= skewWarning:
		f.add(Warning, "", what, why, "let all machines follow one time service")
	}
}

// membership judges the cluster's shape.
func (f *findings) membership(all, answering []*seen) {
	var members []*v1.ClusterMember
	for _, s := range answering {
		if len(s.members) > len(members) {
			members = s.members
		}
	}
	voters, up := 0, 0
	for _, m := range members {
		if m.GetId() == "" { // not managed by Holdfast
			return
		}
		if m.GetName() == "" {
			f.add(Warning, m.GetId(), "it was added and has never been started", "it counts, and is not there",
				"start it with --join, or holdfast cluster remove "+m.GetId())
		}
		if m.GetLearner() {
			continue
		}
		voters++
		if slices.ContainsFunc(answering, func(s *seen) bool { return s.status.GetStore().GetMemberId() == m.GetId() && s.probed == nil }) {
			up++
		}
	}
	if voters == 0 || len(all) < voters {
		return // not all were asked
	}
	spare := up - (voters/2 + 1)
	switch {
	case voters == 1:
		f.add(Info, "", "one node", "when it is down, so is everything", "three nodes survive the loss of any one")
	case voters%2 == 0:
		f.add(Warning, "", fmt.Sprintf("%d voters, an even number", voters), "it survives no more losses than one voter fewer", "add a node, or remove one")
	}
	if voters > 1 && spare == 0 {
		f.add(Warning, "", fmt.Sprintf("%d of %d voters serve: exactly a majority", up, voters), "one more loss stops everything", "bring the missing nodes back")
	}
}

// steps judges the synthetic transaction.
func (f *findings) steps(answering []*seen, steps []timed) {
	var writes []time.Duration
	for _, s := range steps {
		if s.err != nil {
			f.failed(s)
		} else if s.name == stepWrite {
			writes = append(writes, s.took)
		}
	}
	if len(writes) == 0 {
		return
	}
	slices.Sort(writes)
	median := writes[len(writes)/2]
	if median < slowWrite {
		return
	}
	var probe time.Duration
	for _, s := range answering {
		probe = max(probe, s.probe)
	}
	what := fmt.Sprintf("a write takes %v", median.Round(time.Millisecond))
	if probe < slowProbe {
		f.add(Warning, "", what, fmt.Sprintf("reads through the majority take %v, so it is not the network: a majority of the disks is slow to sync", probe.Round(time.Millisecond)),
			"look at etcd_disk_wal_fsync_duration_seconds in /metrics of each node; give the data directory a disk of its own")
		return
	}
	f.add(Warning, "", what, fmt.Sprintf("reads through the majority take %v too: the network between the nodes, or their processors, are slow", probe.Round(time.Millisecond)),
		"look at round trips between the nodes and at their load")
}

// bytes is a size for people.
func bytes(n int64) string {
	const unit = 1 << 10
	v, i := float64(n), 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.4g %s", v, [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[i])
}
