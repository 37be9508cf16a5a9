package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/features"

	"holdfast.dev"
	"holdfast.dev/engine/etcd"
)

// Config says how a node runs. Only Dir must be set: the result is a store of
// its own, alone, that listens nowhere.
type Config struct {
	// Dir holds the data; created when missing. One node at a time may use it.
	Dir string

	// Name of this member in InitialCluster; default "single". Members of one
	// cluster have different names.
	Name string

	// ListenPeer is the URL to listen on for the other members, such as
	// "https://10.0.0.1:2380"; empty: none, which is for a node alone.
	ListenPeer string

	// AdvertisePeer is the URL at which the others reach ListenPeer; default:
	// ListenPeer. It may change between starts.
	AdvertisePeer string

	// ListenClient is the URL to serve etcd's own API on, such as
	// "http://127.0.0.1:2379", for etcdctl and the like; empty: none. Whoever
	// reaches it without TLS can do everything.
	ListenClient string

	// InitialCluster names all first members, "n1=http://a:2380,n2=http://b:2380";
	// default: this one. It matters only while Dir is empty.
	InitialCluster string

	// Existing is set when this node joins a cluster that runs and has added it
	// with AddLearner, which gives the InitialCluster to use.
	Existing bool

	// ClusterToken keeps clusters apart that were made from the same names and
	// addresses: unique per incarnation; default "holdfast". It matters only
	// while Dir is empty.
	ClusterToken string

	// Heartbeat is the pace of the consensus; default 100 ms. Election is after
	// how long without one a new leader is chosen; default 500 ms, at least five
	// heartbeats, at most 50 s. Both are the same on all members; Election
	// should be five times the slowest disk's sync and ten times the slowest
	// round trip. The shortest lease is 1.5 × Election, rounded up to a second.
	Heartbeat time.Duration
	Election  time.Duration

	// CompactAfter is how long history is kept; default 10 min, negative:
	// forever.
	CompactAfter time.Duration

	// Quota is the most bytes the store may have on disk; default 4 GiB. At the
	// quota only deletions are taken.
	Quota int64

	// MaxTxnOps is the most compares or operations in one branch of a
	// transaction, with those around it; default and least 128, which is what
	// other engines allow.
	MaxTxnOps int

	// SnapshotCount is after how many log entries the log is cut; default 10,000. A
	// member that is further behind than that gets the whole store.
	SnapshotCount uint64

	// PeerTLS secures the traffic between members, ClientTLS ListenClient. All
	// files or none; the other side must show a certificate signed by CA.
	// Certificates are read again at every handshake.
	PeerTLS   TLS
	ClientTLS TLS

	// Prefix stands before every key; default etcd.DefaultPrefix.
	Prefix string

	// Attempt bounds one request whose context would wait longer; default
	// etcd.DefaultAttempt.
	Attempt time.Duration

	// NoWait makes Start return before the member has found its cluster; then
	// wait with [Node.Wait] before serving.
	NoWait bool

	// Logger gets what etcd logs at LogLevel or above; default slog.Default().
	Logger   *slog.Logger
	LogLevel slog.Leveler // default slog.LevelWarn

	// UnsafeNoFsync keeps nothing safe across a power cut. For tests only.
	UnsafeNoFsync bool
}

// TLS names the files of one side of a connection.
type TLS struct {
	Cert string // PEM file of the certificate, for server and client use
	Key  string // PEM file of its key
	CA   string // PEM file of the authorities that sign the other side's
}

func (t TLS) used() bool { return t != TLS{} }

func (t TLS) info() transport.TLSInfo {
	return transport.TLSInfo{CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: t.used()}
}

const (
	defaultName  = "single"
	defaultToken = "holdfast"
	// nowhere is the address of a member that listens for no others.
	nowhere = "http://127.0.0.1:1"
)

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = defaultName
	}
	if c.AdvertisePeer == "" {
		c.AdvertisePeer = c.ListenPeer
	}
	if c.AdvertisePeer == "" {
		c.AdvertisePeer = nowhere
	}
	if c.InitialCluster == "" {
		c.InitialCluster = c.Name + "=" + c.AdvertisePeer
	}
	if c.ClusterToken == "" {
		c.ClusterToken = defaultToken
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 100 * time.Millisecond
	}
	if c.Election == 0 {
		c.Election = 500 * time.Millisecond
	}
	if c.CompactAfter == 0 {
		c.CompactAfter = 10 * time.Minute
	}
	if c.Quota == 0 {
		c.Quota = 4 << 30
	}
	if c.MaxTxnOps == 0 {
		c.MaxTxnOps = 128
	}
	if c.SnapshotCount == 0 {
		c.SnapshotCount = 10_000
	}
	if c.Prefix == "" {
		c.Prefix = etcd.DefaultPrefix
	}
	if c.Attempt == 0 {
		c.Attempt = etcd.DefaultAttempt
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.LogLevel == nil {
		c.LogLevel = slog.LevelWarn
	}
	return c
}

// validate finds all faults.
func (c Config) validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(c.Dir == "", "no data directory")
	fault(c.Heartbeat < time.Millisecond, "heartbeat is shorter than 1 ms: %v", c.Heartbeat)
	fault(c.Election < 5*c.Heartbeat, "election timeout %v is shorter than five heartbeats of %v", c.Election, c.Heartbeat)
	fault(c.Election > 50*time.Second, "election timeout is longer than 50 s: %v", c.Election)
	fault(c.Heartbeat%time.Millisecond != 0 || c.Election%time.Millisecond != 0, "heartbeat and election timeout must be whole milliseconds")
	fault(c.Quota < 1<<20, "quota is smaller than 1 MiB: %d", c.Quota)
	fault(c.MaxTxnOps < 128, "transactions must be allowed at least 128 operations: %d", c.MaxTxnOps)
	fault(c.CompactAfter > 0 && c.CompactAfter < time.Second, "history is kept for less than 1 s: %v", c.CompactAfter)
	fault(c.Attempt < 0, "attempt is negative: %v", c.Attempt)
	for _, u := range []struct {
		name, url string
		tls       TLS
	}{
		{"peer listen", c.ListenPeer, c.PeerTLS},
		{"peer advertise", c.AdvertisePeer, c.PeerTLS},
		{"client listen", c.ListenClient, c.ClientTLS},
	} {
		if u.url == "" || u.url == nowhere {
			continue
		}
		parsed, err := parseURL(u.url)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s URL: %w", u.name, err))
			continue
		}
		fault(parsed.Scheme == "https" && !u.tls.used(), "%s URL %s needs TLS files", u.name, u.url)
		fault(parsed.Scheme == "http" && u.tls.used(), "%s URL %s must be https with TLS files", u.name, u.url)
	}
	for name, t := range map[string]TLS{"peer": c.PeerTLS, "client": c.ClientTLS} {
		fault(t.used() && (t.Cert == "" || t.Key == "" || t.CA == ""), "%s TLS needs certificate, key and CA", name)
	}
	if err := errors.Join(append(errs, c.checkNames())...); err != nil {
		return &holdfast.Error{Op: "start", Key: "node " + c.Name, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	return nil
}

// checkNames checks what says who is in the cluster.
func (c Config) checkNames() error {
	if strings.ContainsAny(c.Name, "=,") {
		return fmt.Errorf("name %q contains = or ,", c.Name)
	}
	members, err := types.NewURLsMap(c.InitialCluster)
	switch {
	case err != nil:
		return fmt.Errorf("initial cluster: %w", err)
	case members[c.Name] == nil:
		return fmt.Errorf("initial cluster %q lacks this member, %q", c.InitialCluster, c.Name)
	case len(members) > 1 && c.ListenPeer == "":
		return fmt.Errorf("a cluster of %d needs a peer listen URL", len(members))
	}
	return nil
}

// parseURL checks what etcd asks of a URL.
func parseURL(s string) (url.URL, error) {
	urls, err := types.NewURLs([]string{s})
	if err != nil {
		return url.URL{}, err
	}
	return urls[0], nil
}

// urls parses checked URLs; an empty one gives none.
func urls(s string) []url.URL {
	if s == "" {
		return nil
	}
	u, err := parseURL(s)
	if err != nil {
		panic(fmt.Sprintf("embed: URL %q was not checked: %v", s, err))
	}
	return []url.URL{u}
}

// etcd is the same configuration in etcd's terms.
func (c Config) etcd() (*embed.Config, error) {
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.Dir
	e.ListenPeerUrls, e.AdvertisePeerUrls = urls(c.ListenPeer), urls(c.AdvertisePeer)
	e.ListenClientUrls, e.AdvertiseClientUrls = urls(c.ListenClient), urls(c.ListenClient)
	if c.ListenClient == "" {
		// A member that comes back without its data is turned away only where the
		// others know a client URL of it.
		e.AdvertiseClientUrls = urls(c.AdvertisePeer)
	}
	e.InitialCluster, e.InitialClusterToken = c.InitialCluster, c.ClusterToken
	if c.Existing {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	e.TickMs, e.ElectionMs = uint(c.Heartbeat.Milliseconds()), uint(c.Election.Milliseconds())
	e.PreVote = true
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, "0"
	if c.CompactAfter > 0 {
		e.AutoCompactionRetention = c.CompactAfter.String()
	}
	e.QuotaBackendBytes, e.MaxTxnOps, e.SnapshotCount = c.Quota, uint(c.MaxTxnOps), c.SnapshotCount
	e.SnapshotCatchUpEntries = min(e.SnapshotCatchUpEntries, c.SnapshotCount)
	e.PeerTLSInfo, e.ClientTLSInfo = c.PeerTLS.info(), c.ClientTLS.info()
	e.StrictReconfigCheck = true
	e.EnableGRPCGateway = false
	e.UnsafeNoFsync = c.UnsafeNoFsync
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(c.Logger, c.LogLevel))
	gates, ok := e.ServerFeatureGate.(interface{ Set(string) error })
	if !ok {
		return nil, errors.New("etcd's feature gates cannot be set")
	}
	// Compares the members' data after compactions. Node.settle does so at the
	// start: etcd's own check then asks the others before they answer, and when
	// all start at once that costs 5 s for each of them.
	return e, gates.Set(string(features.CompactHashCheck) + "=true")
}
