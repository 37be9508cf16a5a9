package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"holdfast.dev"
)

// DefaultEndpoint is where a node listens unless told otherwise.
const DefaultEndpoint = "http://127.0.0.1:7450"

// Config is how nodes are reached. The zero value reaches a node on this
// machine.
type Config struct {
	// Endpoints are the URLs of the nodes' API, as many as there are:
	// "http://10.0.0.1:7450" or "https://…"; a bare "host:port" is http, or
	// https when TLS is set. Default DefaultEndpoint.
	Endpoints []string
	// TLS is used for https endpoints: roots to trust and, where the nodes
	// demand one, the client's certificate. Default the system's roots.
	TLS *tls.Config
	// Token is the bearer token sent with every request. Default none. It is
	// refused with http endpoints that are not on this machine, where everybody
	// could read it.
	Token string
	// Attempt is how long a node may take to answer before another one is
	// asked. Default 1.5 s, at least 50 ms: somewhat above the nodes' election
	// timeout, because a shorter one changes nodes while they elect.
	Attempt time.Duration
	// Probe is how often the node in use is asked to prove that it still
	// serves, while waits or watches hang on it. Default 2 s, at least 50 ms.
	Probe time.Duration
}

func (c Config) withDefaults() Config {
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{DefaultEndpoint}
	}
	if c.Attempt == 0 {
		c.Attempt = 1500 * time.Millisecond
	}
	if c.Probe == 0 {
		c.Probe = 2 * time.Second
	}
	urls := make([]string, len(c.Endpoints))
	for i, e := range c.Endpoints {
		e = strings.TrimRight(strings.TrimSpace(e), "/")
		if !strings.Contains(e, "://") {
			scheme := "http://"
			if c.TLS != nil {
				scheme = "https://"
			}
			e = scheme + e
		}
		urls[i] = e
	}
	c.Endpoints = urls
	return c
}

// validate reports all faults of a Config with defaults.
func (c Config) validate() error {
	var faults []error
	seen := map[string]bool{}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Port() == "" || u.Path != "" || u.RawQuery != "":
			faults = append(faults, fmt.Errorf("endpoint %q: want http://HOST:PORT or https://HOST:PORT", e))
		case seen[e]:
			faults = append(faults, fmt.Errorf("endpoint %q stands twice", e))
		case c.Token != "" && u.Scheme == "http" && !loopback(u.Hostname()):
			faults = append(faults, fmt.Errorf("endpoint %q: a bearer token needs https beyond this machine", e))
		}
		seen[e] = true
	}
	if c.Attempt < 50*time.Millisecond {
		faults = append(faults, fmt.Errorf("attempt %v: want at least 50ms", c.Attempt))
	}
	if c.Probe < 50*time.Millisecond {
		faults = append(faults, fmt.Errorf("probe %v: want at least 50ms", c.Probe))
	}
	if len(faults) == 0 {
		return nil
	}
	return &holdfast.Error{Op: "dial", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.Join(faults...)}
}
