package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
)

type clusterCmd struct {
	Members clusterMembersCmd `cmd:"" help:"List the nodes of the cluster."`
	Add     clusterAddCmd     `cmd:"" help:"Announce a new node, as a learner, before it is started."`
	Promote clusterPromoteCmd `cmd:"" help:"Give a learner its vote. Exit 1: it has not caught up."`
	Remove  clusterRemoveCmd  `cmd:"" help:"Take a node out for good."`
}

// clusterMemberJSON is a node of the cluster in JSON output.
type clusterMemberJSON struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Role     string   `json:"role"` // leader, voter or learner
	PeerURLs []string `json:"peer_urls"`
	APIURLs  []string `json:"api_urls"`
}

func toClusterMemberJSON(m client.Member) clusterMemberJSON {
	j := clusterMemberJSON{ID: m.ID, Name: m.Name, Role: "voter", PeerURLs: m.PeerURLs, APIURLs: m.APIURLs}
	switch {
	case m.Learner:
		j.Role = "learner"
	case m.Leader:
		j.Role = "leader"
	}
	return j
}

var errNoNodes = cli.Usage("--engine: there are no nodes to operate; use etcd's own tools")

// nodes connects to nodes, for what an etcd cluster alone does not have.
func (a *app) nodes(ctx context.Context, f func(context.Context, *client.Client) error) error {
	if a.globals.Engine != "" {
		return errNoNodes
	}
	ctx, stop := a.timed(ctx)
	defer stop()
	return a.dialed(ctx, ctx, f)
}

// dialed connects to nodes until f returns. Dialling ends with octx.
func (a *app) dialed(octx, ctx context.Context, f func(context.Context, *client.Client) error) error {
	c, err := access.Dial(octx, a.where())
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // it always succeeds
	return f(ctx, c)
}

type clusterMembersCmd struct{}

func (clusterMembersCmd) Run(a *app, ctx *runContext) error {
	return a.nodes(ctx, func(ctx context.Context, c *client.Client) error {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		var list []clusterMemberJSON
		for _, m := range members {
			list = append(list, toClusterMemberJSON(m))
		}
		return cli.List(a.printer(), "members", list, "ID NAME ROLE PEER API", func(m clusterMemberJSON) []any {
			return []any{cli.Dash(m.ID), cli.Dash(m.Name), m.Role, cli.Dash(strings.Join(m.PeerURLs, ",")), cli.Dash(strings.Join(m.APIURLs, ","))}
		})
	})
}

// find is the member that has the given name, id or peer URL. A member that was
// added with other tools has no name before it starts.
func find(ctx context.Context, c *client.Client, who string) (client.Member, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return client.Member{}, err
	}
	var named []client.Member
	for _, m := range members {
		if m.ID == who || slices.Contains(m.PeerURLs, who) {
			return m, nil
		}
		if m.Name == who {
			named = append(named, m)
		}
	}
	if len(named) == 1 {
		return named[0], nil
	}
	return client.Member{}, cli.WithHint(&holdfast.Error{
		Key: "node " + who, Code: holdfast.CodeNotFound, Outcome: holdfast.NotApplied,
		Err: fmt.Errorf("%w: %d nodes have this name, id or peer URL", holdfast.ErrNotFound, len(named)),
	}, "give a name, an id or a peer URL as shown by: holdfast cluster members")
}

// admissionJSON is what a new node starts with.
type admissionJSON struct {
	clusterMemberJSON
	InitialCluster string `json:"initial_cluster"`
	ClusterToken   string `json:"cluster_token,omitempty"`
}

type clusterAddCmd struct {
	Name string `arg:"" help:"The new node's name."`
	Peer string `arg:"" help:"The URL at which other nodes will reach it."`
}

func (clusterAddCmd) Examples() string {
	return `
holdfast cluster add n4 http://10.0.0.4:7451`
}

// check says what no cluster would take.
func (c *clusterAddCmd) check() error {
	var errs []error
	if c.Name == "" || c.Name[0] == '-' || strings.ContainsAny(c.Name, "=,") || !utf8.ValidString(c.Name) ||
		strings.ContainsFunc(c.Name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		errs = append(errs, fmt.Errorf("name %q: want printable characters without space, = and comma, and no - at the start", c.Name))
	}
	u, err := url.Parse(c.Peer)
	if err == nil {
		var port uint64
		port, err = strconv.ParseUint(u.Port(), 10, 16)
		if port == 0 || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			err = errors.New("not such a URL")
		}
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("peer URL %q: want http://HOST:PORT or https://HOST:PORT", c.Peer))
	}
	return cli.WithCode(errors.Join(errs...), cli.ExitUsage)
}

func (c *clusterAddCmd) Run(a *app, ctx *runContext) error {
	if err := c.check(); err != nil {
		return cli.WithHint(err, "see: holdfast cluster add --help")
	}
	return a.nodes(ctx, func(ctx context.Context, cl *client.Client) error {
		in, err := cl.AddMember(ctx, c.Name, []string{c.Peer})
		if err != nil {
			return err
		}
		j := admissionJSON{toClusterMemberJSON(in.Member), in.InitialCluster, in.ClusterToken}
		err = a.printer().Object(j, func(t *cli.Text) { t.Printf("%v\n", j.ID) })
		if err == nil {
			a.note("hint: start it with: holdfast serve --name %s --peer-advertise %s --join %s", c.Name, c.Peer, cl.Endpoint())
		}
		return err
	})
}

type clusterPromoteCmd struct {
	Node string `arg:"" help:"Name, id or peer URL of the learner."`
}

func (c *clusterPromoteCmd) Run(a *app, ctx *runContext) error {
	return a.nodes(ctx, func(ctx context.Context, cl *client.Client) error {
		m, err := find(ctx, cl, c.Node)
		if err != nil {
			return err
		}
		if !m.Learner {
			a.note("node %s has its vote already", c.Node)
			return nil
		}
		err = cl.Promote(ctx, m.ID)
		if errors.Is(err, holdfast.ErrConflict) {
			return cli.WithHint(err, "try again when it has caught up")
		}
		return err
	})
}

type clusterRemoveCmd struct {
	Node string `arg:"" help:"Name, id or peer URL of the node."`
}

func (clusterRemoveCmd) Examples() string {
	return `
holdfast cluster remove n2`
}

func (c *clusterRemoveCmd) Run(a *app, ctx *runContext) error {
	return a.nodes(ctx, func(ctx context.Context, cl *client.Client) error {
		m, err := find(ctx, cl, c.Node)
		if err != nil {
			return err
		}
		return cl.Remove(ctx, m.ID)
	})
}
