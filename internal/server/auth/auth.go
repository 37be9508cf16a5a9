package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"holdfast.dev"
)

// Config is how callers are told apart. The zero value lets everybody do
// everything.
type Config struct {
	// Tokens is the file of bearer tokens. Default none.
	Tokens string
	// Certificates says that the TLS configuration verifies client
	// certificates, so that they count.
	Certificates bool
	// OnReload is called after the file was read anew, with nil or with what is
	// wrong with it. It must not block. Default none.
	OnReload func(error)
}

// Authenticator knows the principals. Safe for concurrent use.
type Authenticator struct {
	cfg Config

	mu     sync.Mutex // guards the fields below
	stamp  stamp
	tokens []token
}

// stamp tells one state of the file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// Open reads the file of tokens, if there is one.
func Open(cfg Config) (*Authenticator, error) {
	a := &Authenticator{cfg: cfg}
	if cfg.Tokens == "" {
		return a, nil
	}
	st, err := look(cfg.Tokens)
	if err != nil {
		return nil, err
	}
	tokens, err := readTokens(cfg.Tokens)
	if err != nil {
		return nil, err
	}
	a.stamp, a.tokens = st, tokens
	return a, nil
}

// Required says whether callers have to say who they are.
func (a *Authenticator) Required() bool { return a.cfg.Tokens != "" || a.cfg.Certificates }

// Reload reads the file of tokens now. With an error the old ones stay.
func (a *Authenticator) Reload() error {
	if a.cfg.Tokens == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	st, err := look(a.cfg.Tokens)
	if err != nil {
		return err
	}
	return a.load(st)
}

func (a *Authenticator) load(st stamp) error {
	a.stamp = st // a broken file is tried again only when it changes
	tokens, err := readTokens(a.cfg.Tokens)
	if err == nil {
		a.tokens = tokens
	}
	return err
}

// current is the tokens of the file as it is now.
func (a *Authenticator) current() []token {
	st, err := look(a.cfg.Tokens)
	a.mu.Lock()
	if err != nil || st == a.stamp {
		defer a.mu.Unlock()
		return a.tokens
	}
	err = a.load(st)
	tokens := a.tokens
	a.mu.Unlock()
	if a.cfg.OnReload != nil {
		a.cfg.OnReload(err)
	}
	return tokens
}

// Authenticate says who sent a request. The error is holdfast.ErrDenied and
// means that nobody knows him.
func (a *Authenticator) Authenticate(r *http.Request) (Principal, error) {
	if !a.Required() {
		return Principal{Name: Anonymous, Role: Admin}, nil
	}
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, secret, ok := strings.Cut(h, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, unknown("authorization: want Bearer TOKEN")
		}
		if a.cfg.Tokens == "" {
			return Principal{}, unknown("this node knows no bearer tokens")
		}
		if p, ok := match(a.current(), strings.TrimSpace(secret)); ok {
			return p, nil
		}
		return Principal{}, unknown("unknown bearer token")
	}
	if a.cfg.Certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return certified(r.TLS.VerifiedChains[0][0])
	}
	return Principal{}, unknown("a bearer token or a client certificate is needed")
}

// match finds the principal of a secret. It looks at every token, whichever
// matches.
func match(tokens []token, secret string) (found Principal, ok bool) {
	sum := sha256.Sum256([]byte(secret))
	for _, t := range tokens {
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			found, ok = t.principal, true
		}
	}
	return found, ok
}

func certified(c *x509.Certificate) (Principal, error) {
	if c.Subject.CommonName == "" {
		return Principal{}, unknown("the client certificate has no common name")
	}
	p := Principal{Name: certPrefix + c.Subject.CommonName, Role: Write}
	for _, unit := range c.Subject.OrganizationalUnit {
		if role, ok := ParseRole(unit); ok {
			p.Role = role
		}
	}
	return p, nil
}

func unknown(why string) error {
	return &holdfast.Error{Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied, Err: errors.New(why)}
}

func look(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.ModTime(), info.Size()}, nil
}
