package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"holdfast.dev/engine/etcd"
)

// Serve is the configuration of one node. The zero configuration with defaults
// is a single node on loopback with its data in ./holdfast-data.
type Serve struct {
	Name string `default:"n1" from:"env,file" group:"node" help:"The node's name, unique in its cluster."`
	Data string `default:"holdfast-data" from:"env,file" group:"node" placeholder:"DIR" help:"Where the node keeps its data."`

	Listen        string `default:"127.0.0.1:7450" from:"env,file" group:"addresses" placeholder:"HOST:PORT" help:"Where the API listens. Anything but loopback needs --tls-cert or --insecure."`
	Advertise     string `from:"env,file" group:"addresses" placeholder:"URL" help:"How clients and other nodes reach the API. Default: what --listen says."`
	PeerListen    string `default:"127.0.0.1:7451" from:"env,file" group:"addresses" placeholder:"HOST:PORT" help:"Where other nodes reach this one's consensus."`
	PeerAdvertise string `from:"env,file" group:"addresses" placeholder:"URL" help:"How other nodes reach it. Default: this node's entry in --peers, or what --peer-listen says."`
	EtcdListen    string `from:"env,file" group:"addresses" placeholder:"HOST:PORT" help:"Also serve etcd's own API here, for etcdctl; loopback only. It knows no roles: whoever reaches it may change everything. Default: not at all."`

	Peers        []string `from:"env,file" group:"cluster" placeholder:"NAME=URL" help:"All first nodes of a new cluster (1, 3 or 5) with their peer URLs, the same on each."`
	Join         string   `from:"env,file" group:"cluster" placeholder:"URL" help:"Join the cluster of the node whose API is at URL: as a learner, promoted when it has caught up."`
	Engine       string   `kong:"-"` // the global flag: an etcd cluster to keep everything in instead of an embedded one
	ClusterToken string   `from:"env,file" group:"cluster" help:"Tells clusters apart that have used the same addresses. The same on each node."`

	TLSCert     string `name:"tls-cert" from:"env,file" group:"security" placeholder:"FILE" help:"The API's certificate; read again on SIGHUP."`
	TLSKey      string `name:"tls-key" from:"env,file" group:"security" placeholder:"FILE" help:"Its key."`
	TLSCA       string `name:"tls-ca" from:"env,file" group:"security" placeholder:"FILE" help:"Demand client certificates of this authority; with --tokens, a token will do instead."`
	PeerTLSCert string `name:"peer-tls-cert" from:"env,file" group:"security" placeholder:"FILE" help:"Certificate for the traffic between nodes."`
	PeerTLSKey  string `name:"peer-tls-key" from:"env,file" group:"security" placeholder:"FILE" help:"Its key."`
	PeerTLSCA   string `name:"peer-tls-ca" from:"env,file" group:"security" placeholder:"FILE" help:"The authority all nodes' certificates come from."`
	Tokens      string `from:"env,file" group:"security" placeholder:"FILE" help:"Bearer tokens with their roles, as above; read again on SIGHUP. Without it every caller may do everything."`
	Insecure    bool   `from:"env,file" group:"security" help:"Listen beyond loopback without TLS. Everybody on the network can read and change everything."`

	ElectionTimeout Setting[time.Duration] `default:"500ms" from:"env,file" group:"limits" placeholder:"DURATION" help:"How long a node hears nothing from the leader before it stands for election."`
	Heartbeat       Setting[time.Duration] `default:"100ms" from:"env,file" group:"limits" placeholder:"DURATION" help:"How often the leader is heard; at most a fifth of the election timeout."`
	Quota           Setting[Bytes]         `default:"2GiB" from:"env,file" group:"limits" placeholder:"SIZE" help:"How large the store may grow before it refuses writes; an alert comes at 70 %."`
	History         Setting[time.Duration] `default:"10m" from:"env,file" group:"limits" placeholder:"DURATION" help:"How long old revisions are kept, for watches that go on after a break."`
	LogEntries      Setting[int64]         `default:"10000" from:"env,file" group:"limits" placeholder:"N" help:"After how many entries the log is cut. A node that is further behind gets all of the store at once."`
	SessionTTL      Setting[time.Duration] `name:"session-ttl" default:"10s" from:"env,file" group:"limits" placeholder:"DURATION" help:"TTL of the node's own session."`
	MaxSessions     Setting[int64]         `default:"100000" from:"env,file" group:"limits" placeholder:"N" help:"Sessions of all clients together."`
	MaxSessionsEach Setting[int64]         `default:"10000" from:"env,file" group:"limits" placeholder:"N" help:"Sessions of one client (bearer token, certificate or address)."`
	MaxWatchesEach  Setting[int64]         `default:"1000" from:"env,file" group:"limits" placeholder:"N" help:"Watches and waiters of one client."`
	RateEach        Setting[int64]         `default:"20000" from:"env,file" group:"limits" placeholder:"N" help:"Requests per second of one client."`

	LogLevel  string `default:"info" enum:"debug,info,warn,error" from:"env,file" group:"observability" help:"The least level that is logged: ${enum}."`
	LogFormat string `default:"text" enum:"text,json" from:"env,file" group:"observability" help:"How it is logged: ${enum}."`
	Traces    string `from:"env,file" group:"observability" placeholder:"URL" help:"Send OpenTelemetry traces here (OTLP over HTTP). Default: nowhere."`
}

// Peer is one node of a static cluster.
type Peer struct{ Name, URL string }

// PeerList is Peers taken apart, in order. Entries that are wrong are left
// out; Validate reports them.
func (c *Serve) PeerList() []Peer {
	var out []Peer
	for _, p := range c.Peers {
		name, u, ok := strings.Cut(strings.TrimSpace(p), "=")
		if ok && name != "" && urlFault(u) == "" {
			out = append(out, Peer{name, strings.TrimRight(u, "/")})
		}
	}
	return out
}

// AdvertisedAPI is the URL under which the API is reached.
func (c *Serve) AdvertisedAPI() string {
	if c.Advertise != "" {
		return strings.TrimRight(c.Advertise, "/")
	}
	return scheme(c.TLSCert) + c.Listen
}

// AdvertisedPeer is the URL under which other nodes reach this one.
func (c *Serve) AdvertisedPeer() string {
	if c.PeerAdvertise != "" {
		return strings.TrimRight(c.PeerAdvertise, "/")
	}
	for _, p := range c.PeerList() {
		if p.Name == c.Name {
			return p.URL
		}
	}
	return scheme(c.PeerTLSCert) + c.PeerListen
}

func scheme(cert string) string {
	if cert != "" {
		return "https://"
	}
	return "http://"
}

// Validate reports everything that is wrong, each fault with where the value
// came from.
func (c *Serve) Validate(s *Sources) error {
	f := &faults{sources: s}
	if c.Name == "" || strings.ContainsAny(c.Name, "=, \t\n/") {
		f.add("name", "%q: want a word without space, comma, slash or =", c.Name)
	}
	if c.Data == "" {
		f.add("data", "want a directory")
	}
	c.addresses(f)
	c.cluster(f)
	c.security(f)
	check(f, "election-timeout", c.ElectionTimeout, 50*time.Millisecond, 50*time.Second)
	check(f, "heartbeat", c.Heartbeat, 10*time.Millisecond, 10*time.Second)
	if c.ElectionTimeout.fault == nil && c.Heartbeat.fault == nil && c.ElectionTimeout.Value < 5*c.Heartbeat.Value {
		f.add("election-timeout", "%v: want at least five heartbeats, %v", c.ElectionTimeout, 5*c.Heartbeat.Value)
	}
	check(f, "quota", c.Quota, 16<<20, 8<<30)
	check(f, "history", c.History, time.Second, 30*24*time.Hour)
	check(f, "log-entries", c.LogEntries, 10, 10_000_000)
	check(f, "session-ttl", c.SessionTTL, time.Second, 24*time.Hour)
	check(f, "max-sessions", c.MaxSessions, 1, 10_000_000)
	check(f, "max-sessions-each", c.MaxSessionsEach, 1, 10_000_000)
	check(f, "max-watches-each", c.MaxWatchesEach, 1, 1_000_000)
	check(f, "rate-each", c.RateEach, 1, 10_000_000)
	if c.Traces != "" {
		if why := urlFault(c.Traces); why != "" {
			f.add("traces", "%s", why)
		}
	}
	return f.join()
}

func (c *Serve) addresses(f *faults) {
	seen := map[string]string{}
	for _, a := range []struct{ name, value string }{
		{"listen", c.Listen}, {"peer-listen", c.PeerListen}, {"etcd-listen", c.EtcdListen},
	} {
		if a.value == "" && a.name == "etcd-listen" {
			continue
		}
		host, port, err := net.SplitHostPort(a.value)
		switch {
		case err != nil || port == "":
			f.add(a.name, "%q: want HOST:PORT, as in 127.0.0.1:7450", a.value)
			continue
		case seen[a.value] != "" && port != "0":
			f.add(a.name, "%s is --%s already", a.value, seen[a.value])
		case a.name == "etcd-listen" && !loopback(host):
			f.add(a.name, "%s: etcd's API knows no roles, so it is served on loopback only", a.value)
		}
		seen[a.value] = a.name
	}
	for _, a := range []struct{ name, value string }{{"advertise", c.Advertise}, {"peer-advertise", c.PeerAdvertise}} {
		if why := urlFault(a.value); a.value != "" && why != "" {
			f.add(a.name, "%s", why)
		}
	}
	for _, a := range []struct{ name, listen, advertise string }{
		{"advertise", c.Listen, c.Advertise}, {"peer-advertise", c.PeerListen, c.AdvertisedPeer()},
	} {
		host, _, err := net.SplitHostPort(a.listen)
		if err == nil && unspecified(host) && (a.advertise == "" || strings.Contains(a.advertise, "//"+a.listen)) {
			f.add(a.name, "needed, because %s is not an address others can reach", a.listen)
		}
	}
}

func (c *Serve) cluster(f *faults) {
	var used []string
	for _, w := range []struct {
		name string
		on   bool
	}{{"peers", len(c.Peers) > 0}, {"join", c.Join != ""}, {"engine", c.Engine != ""}} {
		if w.on {
			used = append(used, w.name)
		}
	}
	if len(used) > 1 {
		f.add(used[1], "does not go together with --%s", used[0])
	}
	names := map[string]bool{}
	for _, p := range c.Peers {
		name, u, ok := strings.Cut(strings.TrimSpace(p), "=")
		switch {
		case !ok || name == "":
			f.add("peers", "%q: want NAME=URL", p)
		case names[name]:
			f.add("peers", "%q stands twice", name)
		case urlFault(u) != "":
			f.add("peers", "%s: %s", name, urlFault(u))
		}
		names[name] = true
	}
	if n := len(c.Peers); n > 0 {
		if !slices.Contains([]int{1, 3, 5}, n) {
			f.add("peers", "%d nodes: want 1, 3 or 5; an even number fails no later and no less often", n)
		}
		if !names[c.Name] {
			f.add("peers", "this node, %q, is not among them", c.Name)
		}
	}
	if why := urlFault(c.Join); c.Join != "" && why != "" {
		f.add("join", "%s", why)
	}
	if c.Engine != "" {
		if _, err := etcd.ParseURL(c.Engine); err != nil {
			f.add("engine", "%v", err)
		}
	}
	if c.Engine != "" && c.EtcdListen != "" {
		f.add("etcd-listen", "there is no embedded etcd with --engine")
	}
}

func (c *Serve) security(f *faults) {
	pair := func(certName, cert, keyName, key string) {
		if cert != "" && key == "" {
			f.add(keyName, "needed with --%s", certName)
		}
		if key != "" && cert == "" {
			f.add(certName, "needed with --%s", keyName)
		}
	}
	pair("tls-cert", c.TLSCert, "tls-key", c.TLSKey)
	pair("peer-tls-cert", c.PeerTLSCert, "peer-tls-key", c.PeerTLSKey)
	if c.TLSCA != "" && c.TLSCert == "" {
		f.add("tls-ca", "needs --tls-cert: client certificates travel over TLS only")
	}
	if (c.PeerTLSCA == "") != (c.PeerTLSCert == "") {
		f.add("peer-tls-ca", "--peer-tls-cert, --peer-tls-key and --peer-tls-ca go together: nodes check each other")
	}
	if c.Insecure {
		return
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && c.TLSCert == "" && !loopback(host) {
		f.add("listen", "%s is reachable by others, and there is no TLS: give --tls-cert and --tls-key (holdfast cert makes them), or --insecure", c.Listen)
	}
	alone := c.Engine != ""
	if host, _, err := net.SplitHostPort(c.PeerListen); err == nil && c.PeerTLSCert == "" && !loopback(host) && !alone {
		f.add("peer-listen", "%s is reachable by others, and there is no TLS between nodes: give --peer-tls-cert, --peer-tls-key and --peer-tls-ca, or --insecure", c.PeerListen)
	}
}

func urlFault(s string) string {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Sprintf("%q: want http://HOST:PORT or https://HOST:PORT", s)
	}
	if u.Port() == "" {
		return fmt.Sprintf("%q: the port is missing", s)
	}
	return ""
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || (ip != nil && ip.IsUnspecified())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
