package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
)

type statusCmd struct {
	Watch    bool          `short:"w" help:"Show it again and again."`
	Interval time.Duration `default:"1s" help:"How often."`
}

func (statusCmd) Examples() string {
	return `
holdfast status
holdfast status --watch
holdfast status --endpoints http://10.0.0.1:7450,http://10.0.0.2:7450 -o json`
}

// Help is the long text of the command.
func (statusCmd) Help() string {
	return `Exit code: 0 all nodes serve, 1 some do not, 69 none does.`
}

// nodeJSON is a node in JSON output; see docs/cli-json.md.
type nodeJSON struct {
	Name     string      `json:"name,omitempty"`
	Endpoint string      `json:"endpoint"`
	State    string      `json:"state"` // serving, not_serving or unreachable
	Problem  string      `json:"problem,omitempty"`
	Role     string      `json:"role,omitempty"` // leader, follower or learner
	Version  string      `json:"version,omitempty"`
	Uptime   cli.Seconds `json:"uptime,omitempty"`
	Skew     cli.Seconds `json:"clock_skew"`
	Epoch    uint16      `json:"epoch,omitempty"`
	Revision int64       `json:"revision,omitempty"`
	Term     uint64      `json:"term,omitempty"`
	Sessions int         `json:"sessions"`
	Waiters  int         `json:"waiters"`
	Streams  int         `json:"streams"`
	Store    *storeJSON  `json:"store,omitempty"`
}

// storeJSON is the store under a node.
type storeJSON struct {
	Kind      string   `json:"kind"`
	Version   string   `json:"version"`
	ClusterID string   `json:"cluster_id"`
	MemberID  string   `json:"member_id"`
	Size      int64    `json:"size"`
	InUse     int64    `json:"in_use"`
	Quota     int64    `json:"quota,omitempty"`
	Alarms    []string `json:"alarms,omitempty"`
}

// clusterJSON is all nodes.
type clusterJSON struct {
	Time  time.Time  `json:"time"`
	Nodes []nodeJSON `json:"nodes"`
}

func (c *statusCmd) Run(a *app, ctx *runContext) error {
	if a.globals.Engine != "" {
		return cli.Usage("status: it shows nodes, and with --engine there is none; use etcdctl endpoint status")
	}
	if !c.Watch {
		tctx, stop := a.timed(ctx)
		defer stop()
		s, err := look(tctx, a)
		if err != nil {
			return err
		}
		if err := a.printer().Object(s, s.write); err != nil {
			return err
		}
		return s.verdict()
	}
	wctx, stop := a.interruptible(ctx)
	defer stop()
	tick := time.NewTicker(max(c.Interval, 100*time.Millisecond))
	defer tick.Stop()
	pinned := a.env.Terminal(a.env.Stdout) && a.printer().Text()
	for {
		tctx, cancel := context.WithTimeout(wctx, a.globals.Timeout)
		s, err := look(tctx, a)
		cancel()
		if wctx.Err() != nil {
			return context.Cause(wctx)
		}
		if pinned {
			_, _ = fmt.Fprint(a.env.Stdout, "\x1b[H\x1b[2J") // home, clear
		}
		if err != nil {
			a.note("%s  %v", time.Now().UTC().Format(time.TimeOnly), err)
		} else if err := c.show(a, s); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-wctx.Done():
			return context.Cause(wctx)
		}
	}
}

// show writes one of many states: in both JSON formats on one line.
func (c *statusCmd) show(a *app, s clusterJSON) error {
	if a.printer().Text() {
		t := cli.NewText(a.env.Stdout)
		t.Printf("%s\n", s.Time.Format(time.RFC3339))
		s.write(t)
		return t.Err()
	}
	return a.printer().Event(s, "")
}

// look asks all nodes: those of --endpoints and those that they name.
func look(ctx context.Context, a *app) (clusterJSON, error) {
	where := a.where()
	c, err := access.Dial(ctx, where)
	if err != nil {
		return clusterJSON{}, err
	}
	defer c.Close() //nolint:errcheck // it always succeeds
	endpoints := withMembers(ctx, c, c.Endpoints())
	all := c
	if len(endpoints) > len(c.Endpoints()) {
		where.Endpoints = endpoints
		if all, err = access.Dial(ctx, where); err != nil {
			return clusterJSON{}, err
		}
		defer all.Close() //nolint:errcheck // it always succeeds
	}
	s := clusterJSON{Time: time.Now().UTC(), Nodes: make([]nodeJSON, len(endpoints))}
	var wg sync.WaitGroup
	for i, e := range endpoints {
		wg.Go(func() { s.Nodes[i] = ask(ctx, all, e) })
	}
	wg.Wait()
	slices.SortFunc(s.Nodes, func(a, b nodeJSON) int {
		return strings.Compare(a.Name+" "+a.Endpoint, b.Name+" "+b.Endpoint)
	})
	return s, nil
}

// withMembers adds the nodes that the cluster names to the endpoints.
func withMembers(ctx context.Context, c *client.Client, endpoints []string) []string {
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	members, err := c.Members(ctx)
	if err != nil {
		return endpoints // without a majority nobody can name them
	}
	for _, m := range members {
		known := slices.ContainsFunc(m.APIURLs, func(u string) bool { return slices.Contains(endpoints, u) })
		if len(m.APIURLs) > 0 && !known {
			endpoints = append(endpoints, m.APIURLs[0])
		}
	}
	return endpoints
}

// memberPatience is how long the list of nodes may take; without a majority
// there is none.
const memberPatience = 2 * time.Second

// ask asks one node.
func ask(ctx context.Context, c *client.Client, endpoint string) nodeJSON {
	n := nodeJSON{Endpoint: endpoint}
	sent := time.Now()
	st, err := c.Status(ctx, endpoint)
	if err != nil {
		n.State, n.Problem = "unreachable", err.Error()
		if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Err != nil {
			n.Problem = e.Err.Error() // one node is no quorum, and its name stands beside
		}
		return n
	}
	middle := sent.Add(time.Since(sent) / 2)
	n.Name, n.Version, n.Uptime, n.Epoch = st.Node, st.Version, cli.Seconds(st.Uptime), st.Epoch
	n.Skew = cli.Seconds(st.Clock.Sub(middle.Round(0)))
	n.Revision, n.Term = st.Store.Revision, st.Store.Term
	n.Sessions, n.Waiters, n.Streams = st.Sessions, st.Waiters, st.Streams
	n.Store = &storeJSON{
		Kind: st.Store.Kind, Version: st.Store.Version, ClusterID: st.Store.ClusterID, MemberID: st.Store.MemberID,
		Size: st.Store.Size, InUse: st.Store.InUse, Quota: st.Store.Quota, Alarms: st.Store.Alarms,
	}
	switch {
	case st.Store.Learner:
		n.Role = "learner"
	case st.Store.LeaderID != "" && st.Store.LeaderID == st.Store.MemberID:
		n.Role = "leader"
	default:
		n.Role = "follower"
	}
	n.State = "serving"
	if !st.Ready {
		n.State, n.Problem = "not_serving", st.NotReady
	}
	return n
}

// verdict is the exit code.
func (s clusterJSON) verdict() error {
	serving := 0
	for _, n := range s.Nodes {
		if n.State == "serving" {
			serving++
		}
	}
	switch serving {
	case len(s.Nodes):
		return nil
	case 0:
		return cli.WithHint(cli.WithCode(fmt.Errorf("none of %d nodes serves", len(s.Nodes)), cli.ExitNoQuorum), "holdfast doctor explains what is wrong")
	}
	return cli.Silent(cli.ExitNo)
}

func (s clusterJSON) write(t *cli.Text) {
	cli.Table(t, "NODE STATE ROLE ENDPOINT REVISION SESSIONS WAITERS STREAMS SIZE UP", s.Nodes, func(n nodeJSON) []any {
		size := "-"
		if n.Store != nil {
			size = fmt.Sprintf("%.1f MiB", float64(n.Store.Size)/(1<<20))
		}
		return []any{
			cli.Dash(n.Name), strings.ReplaceAll(n.State, "_", " "), cli.Dash(n.Role), n.Endpoint, n.Revision,
			n.Sessions, n.Waiters, n.Streams, size, n.Uptime,
		}
	})
	for _, n := range s.Nodes {
		if n.Problem != "" {
			t.Printf("%s: %s\n", n.Endpoint, n.Problem)
		}
		if skew := time.Duration(n.Skew).Abs(); skew > maxSkew {
			t.Printf("%s: its clock is %v off this machine's; nothing depends on it but certificates and logs\n", n.Endpoint, n.Skew)
		}
		if n.Store == nil {
			continue
		}
		for _, alarm := range n.Store.Alarms {
			t.Printf("%s: alarm: %s\n", n.Endpoint, alarm)
		}
		if n.Store.Quota > 0 && n.Store.InUse*10 > n.Store.Quota*7 {
			t.Printf("%s: the store has used %d %% of its quota\n", n.Endpoint, n.Store.InUse*100/n.Store.Quota)
		}
	}
}

// maxSkew is how far clocks may be apart before it is mentioned.
const maxSkew = 500 * time.Millisecond
