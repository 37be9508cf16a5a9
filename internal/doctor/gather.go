package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
)

// Config is whom to examine and how. Endpoints must be set.
type Config struct {
	// Endpoints are the URLs of the nodes' APIs.
	Endpoints []string
	// TLS is for https endpoints. Default the system's authorities.
	TLS *tls.Config
	// Token is the bearer token. Default none.
	Token string
	// Prefix is below what the synthetic transaction puts its names. Default
	// "holdfast-doctor/".
	Prefix string
	// Timeout bounds each question and each step. Default 5 s.
	Timeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "holdfast-doctor/"
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	return c
}

// seen is what one endpoint showed.
type seen struct {
	url     string
	err     error // it could not be reached, or refused to answer
	status  *v1.StatusResponse
	sent    time.Time     // of the question for the status
	trip    time.Duration // how long that took
	probe   time.Duration
	probed  error
	members []*v1.ClusterMember // nil: not told
	expires time.Time           // of its certificate; zero: no TLS
}

// name is how findings call the node.
func (s *seen) name() string {
	if n := s.status.GetNode(); n != "" {
		return n
	}
	return s.url
}

// skew is how far the node's clock is ahead of this machine's, and the error of
// that measurement.
func (s *seen) skew() (ahead, within time.Duration) {
	return s.status.GetClock().AsTime().Sub(s.sent.Add(s.trip / 2)), s.trip / 2
}

// Run examines the cluster.
func Run(ctx context.Context, cfg Config) Report {
	cfg = cfg.withDefaults()
	tr := &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: bearer{next: tr, token: cfg.Token}}

	all := make([]*seen, len(cfg.Endpoints))
	var asking sync.WaitGroup
	for i, u := range cfg.Endpoints {
		all[i] = &seen{url: strings.TrimRight(u, "/")}
		asking.Go(func() { all[i].ask(ctx, hc, cfg) })
	}
	asking.Wait()

	var (
		steps []timed
		at    *seen
	)
	for _, s := range all {
		if s.err == nil && (at == nil || s.probed == nil && at.probed != nil) {
			at = s
		}
	}
	if at != nil {
		steps = transaction(ctx, hc, at.url, cfg)
	}
	return report(all, steps)
}

// bearer adds the token.
type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

// ask fills in what the endpoint says.
func (s *seen) ask(ctx context.Context, hc *http.Client, cfg Config) {
	bounded := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
		return f(ctx)
	}
	// The first request needs no rights and shows the certificate.
	if s.err = bounded(func(ctx context.Context) error { return s.knock(ctx, hc) }); s.err != nil {
		s.err = bounded(func(ctx context.Context) error { return s.listen(ctx, cfg.TLS, s.err) })
		return
	}
	stub := holdfastv1connect.NewClusterServiceClient(hc, s.url)
	s.err = bounded(func(ctx context.Context) (err error) {
		s.sent = time.Now()
		s.status, err = stub.Status(ctx, &v1.StatusRequest{})
		s.trip = time.Since(s.sent)
		return err
	})
	if s.err != nil {
		return
	}
	s.probed = bounded(func(ctx context.Context) error {
		start := time.Now()
		_, err := stub.Probe(ctx, &v1.ProbeRequest{})
		s.probe = time.Since(start)
		return err
	})
	_ = bounded(func(ctx context.Context) error { // without a quorum there is no answer, and that has been seen already
		resp, err := stub.Members(ctx, &v1.MembersRequest{})
		s.members = resp.GetMembers()
		return err
	})
}

func (s *seen) knock(ctx context.Context, hc *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		s.expires = resp.TLS.PeerCertificates[0].NotAfter
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New("it answers, but not as a node of Holdfast: " + resp.Status)
	}
	return nil
}

// listen finds out why a node hung up. In TLS 1.3 it refuses a client's
// certificate after the client has begun to write, and the client may see only
// that it cannot.
func (s *seen) listen(ctx context.Context, cfg *tls.Config, before error) error {
	u, err := url.Parse(s.url)
	if err != nil || u.Scheme != "https" {
		return before
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err == nil {
		if end, ok := ctx.Deadline(); ok {
			err = conn.SetReadDeadline(end)
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		err = errors.Join(err, conn.Close())
	}
	if err != nil && strings.Contains(err.Error(), tlsRefusal) {
		return err
	}
	return before
}

// report joins what was seen with what it means.
func report(all []*seen, steps []timed) Report {
	r := Report{Findings: judge(all, steps, time.Now())}
	for _, s := range all {
		n := Node{URL: s.url, Name: s.status.GetNode(), Version: s.status.GetVersion(), Ready: s.status.GetReady(), Revision: s.status.GetStore().GetRevision()}
		if s.err != nil {
			n.Error = text(s.err)
		} else {
			ahead, _ := s.skew()
			n.Seconds, n.Probe, n.Skew = seconds(s.trip), seconds(s.probe), seconds(ahead)
			st := s.status.GetStore()
			n.Leader = st.GetLeaderId() != "" && st.GetLeaderId() == st.GetMemberId()
		}
		r.Nodes = append(r.Nodes, n)
	}
	for _, s := range steps {
		step := Step{Name: s.name, Seconds: seconds(s.took)}
		if s.err != nil {
			step.Error = text(s.err)
		}
		r.Steps = append(r.Steps, step)
	}
	r.sort()
	return r
}

// text is an error without the protocol's status in front.
func text(err error) string {
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return ce.Message()
	}
	return err.Error()
}
