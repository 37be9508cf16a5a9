package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"holdfast.dev"
)

// Config says which cluster to use and how. Only Endpoints must be set.
type Config struct {
	// Endpoints are the members' client URLs, "http://host:2379" or
	// "https://host:2379", or only "host:2379": with TLS when TLS is set.
	// Requests go to one of them at a time.
	Endpoints []string

	// TLS is how the members are trusted and what is shown to them.
	TLS TLS

	// Username and Password; both or neither. Tokens are renewed as needed.
	Username string
	Password string

	// Prefix stands before every key; default DefaultPrefix. What shares a
	// prefix shares locks, sessions and everything else.
	Prefix string

	// DialTimeout is how long Dial looks for a member that answers; default 5 s.
	DialTimeout time.Duration

	// DialKeepAlive is how long a connection may be idle, with requests open,
	// before it is probed; default and least 10 s, since etcd refuses clients
	// that probe more often than every 5 s. It mends what Probe does not see.
	DialKeepAlive time.Duration

	// DialKeepAliveTimeout is how long that probe may take; default 3 s.
	DialKeepAliveTimeout time.Duration

	// Attempt bounds one request whose context would wait longer; default
	// DefaultAttempt.
	Attempt time.Duration

	// Probe is how often the member in use must answer a linearizable read, so
	// that one which is cut off from its peers is left; default 2 s.
	Probe time.Duration

	// ProbeTimeout is how long it may take to; default 1 s.
	ProbeTimeout time.Duration

	// Quiet is the silence after which a watch is opened anew; default
	// DefaultQuiet. The member is asked for a sign of life every 2 s.
	Quiet time.Duration
}

// TLS is how members are trusted and what is shown to them. It is in use when
// any field is set, or an endpoint begins with https.
type TLS struct {
	CA         string // PEM file of the authorities that sign members' certificates; default: the system's
	Cert       string // PEM file of the client's certificate
	Key        string // PEM file of its key
	ServerName string // name to look for in members' certificates; default: the endpoint's host

	// InsecureSkipVerify trusts any certificate: whoever sits on the network
	// can read and change everything.
	InsecureSkipVerify bool
}

func (t TLS) used() bool { return t != TLS{} }

// Config loads the files. The certificate is read again at every handshake, so
// that it may be replaced while connections are used.
func (t TLS) Config() (*tls.Config, error) {
	out := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, // as documented at TLS
	}
	var errs []error
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			errs = append(errs, fmt.Errorf("TLS CA: %w", err))
		} else if out.RootCAs = x509.NewCertPool(); !out.RootCAs.AppendCertsFromPEM(pem) {
			errs = append(errs, fmt.Errorf("TLS CA: no certificate in %s", t.CA))
		}
	}
	if t.Cert != "" || t.Key != "" {
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &c, err
		}
		if _, err := load(); err != nil {
			errs = append(errs, fmt.Errorf("TLS certificate: %w", err))
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, errors.Join(errs...)
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.DialTimeout, 5 * time.Second},
		{&c.DialKeepAlive, 10 * time.Second},
		{&c.DialKeepAliveTimeout, 3 * time.Second},
		{&c.Attempt, DefaultAttempt},
		{&c.Probe, 2 * time.Second},
		{&c.ProbeTimeout, time.Second},
		{&c.Quiet, DefaultQuiet},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	return c
}

// validate finds all faults.
func (c Config) validate() error {
	var errs []error
	if len(c.Endpoints) == 0 {
		errs = append(errs, errors.New("no endpoints"))
	}
	for _, ep := range c.Endpoints {
		if _, _, err := splitEndpoint(ep); err != nil {
			errs = append(errs, err)
		}
	}
	if (c.Username == "") != (c.Password == "") {
		errs = append(errs, errors.New("user name and password go together"))
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"dial timeout", c.DialTimeout},
		{"dial keep-alive", c.DialKeepAlive},
		{"dial keep-alive timeout", c.DialKeepAliveTimeout},
		{"attempt", c.Attempt},
		{"probe", c.Probe},
		{"probe timeout", c.ProbeTimeout},
		{"quiet", c.Quiet},
	} {
		if d.v < 0 {
			errs = append(errs, fmt.Errorf("%s is negative: %v", d.name, d.v))
		}
	}
	if c.Quiet > 0 && c.Quiet < 2*progressEvery {
		errs = append(errs, fmt.Errorf("quiet is shorter than twice the %v between signs of life: %v", progressEvery, c.Quiet))
	}
	if len(errs) == 0 {
		return nil
	}
	return &holdfast.Error{Op: "dial", Key: "etcd", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.Join(errs...)}
}

// splitEndpoint gives the address of an endpoint, and whether its scheme says
// TLS ("https"), no TLS ("http") or nothing ("").
func splitEndpoint(ep string) (addr, scheme string, err error) {
	scheme, addr, found := strings.Cut(ep, "://")
	if !found {
		scheme, addr = "", ep
	}
	addr = strings.TrimSuffix(addr, "/")
	if scheme != "" && scheme != "http" && scheme != "https" {
		return "", "", fmt.Errorf("endpoint %q: the scheme must be http or https", ep)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return "", "", fmt.Errorf("endpoint %q: %w", ep, err)
	}
	return addr, scheme, nil
}

// ParseURL reads a configuration from one string:
//
//	etcd://user:password@host1:2379,host2:2379/prefix?ca=FILE&cert=FILE&key=FILE
//
// Everything but the first host is optional; a host without a port has 2379.
// The parameters are ca, cert, key, server-name, insecure-skip-verify=true,
// tls=true (TLS with the system's authorities), attempt, probe, probe-timeout,
// quiet and dial-timeout. A path of "/x" is the prefix "/x/".
func ParseURL(s string) (Config, error) {
	fail := func(err error) (Config, error) {
		return Config{}, &holdfast.Error{Op: "parse", Key: "etcd URL", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	rest, ok := strings.CutPrefix(s, "etcd://")
	if !ok {
		return fail(errors.New("must begin with etcd://"))
	}
	// The hosts are cut out first: net/url knows of one only.
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	at := strings.LastIndexByte(authority, '@')
	u, err := url.Parse("etcd://" + authority[:at+1] + "host" + tail)
	if err != nil {
		// The error repeats the URL, which may hold a password.
		return fail(errors.New("user, path or parameters are malformed"))
	}
	var c Config
	c.Username = u.User.Username()
	c.Password, _ = u.User.Password()
	if path := strings.Trim(u.Path, "/"); path != "" {
		c.Prefix = "/" + path + "/"
	}
	useTLS := false
	var errs []error
	for name, values := range u.Query() {
		v := values[len(values)-1]
		switch name {
		case "ca":
			c.TLS.CA = v
		case "cert":
			c.TLS.Cert = v
		case "key":
			c.TLS.Key = v
		case "server-name":
			c.TLS.ServerName = v
		case "insecure-skip-verify":
			c.TLS.InsecureSkipVerify = v == "true"
		case "tls":
			useTLS = v == "true"
		default:
			errs = append(errs, c.setDuration(name, v))
		}
	}
	for host := range strings.SplitSeq(authority[at+1:], ",") {
		if host == "" {
			errs = append(errs, errors.New("empty host"))
			continue
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "2379")
		}
		if useTLS || c.TLS.used() {
			host = "https://" + host
		}
		c.Endpoints = append(c.Endpoints, host)
	}
	if err := errors.Join(errs...); err != nil {
		return fail(err)
	}
	return c, c.validate()
}

// setDuration sets one of the fields that hold a duration by its name in a URL.
func (c *Config) setDuration(name, v string) error {
	fields := map[string]*time.Duration{
		"attempt": &c.Attempt, "probe": &c.Probe, "probe-timeout": &c.ProbeTimeout,
		"quiet": &c.Quiet, "dial-timeout": &c.DialTimeout,
	}
	field := fields[name]
	if field == nil {
		return fmt.Errorf("unknown parameter %q", name)
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("parameter %s: %w", name, err)
	}
	*field = d
	return nil
}
