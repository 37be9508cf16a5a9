package cert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files names what TLS needs. All three are PEM.
type Files struct {
	Cert string // own certificate, followed by its intermediates if it has any
	Key  string // its key
	CA   string // who may have signed the other side's certificate
}

// Server is a configuration for listening. With a CA, clients may show a
// certificate of it; with required they must. The files are looked at with
// every handshake and read again when they have changed.
func (f Files) Server(required bool) (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("tls: a server needs a certificate and its key")
	}
	if required && f.CA == "" {
		return nil, errors.New("tls: client certificates cannot be required without a CA")
	}
	r := &reloader{files: f, required: required}
	if _, err := r.config(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return r.config()
		},
	}, nil
}

// Client is a configuration for calling. Without a CA the system's authorities
// count. The own certificate, if there is one, is read again when it changed;
// the CA is read once.
func (f Files) Client() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pool, err := loadPool(f.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("tls: certificate and key go together")
	}
	if f.Cert == "" {
		return cfg, nil
	}
	r := &reloader{files: Files{Cert: f.Cert, Key: f.Key}}
	if _, err := r.config(); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := r.config()
		if err != nil {
			return nil, err
		}
		return &c.Certificates[0], nil
	}
	return cfg, nil
}

// reloader keeps a configuration in step with its files.
type reloader struct {
	files    Files
	required bool

	mu      sync.Mutex // guards the fields below
	stamps  [3]stamp
	current *tls.Config
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// config is the configuration as the files have it now; while they are broken,
// the last good one.
func (r *reloader) config() (*tls.Config, error) {
	stamps, err := r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil && (err != nil || stamps == r.stamps) {
		return r.current, nil
	}
	if err != nil {
		return nil, err
	}
	cfg, err := r.load()
	if err != nil {
		if r.current != nil {
			return r.current, nil
		}
		return nil, err
	}
	r.current, r.stamps = cfg, stamps
	return cfg, nil
}

func (r *reloader) look() (stamps [3]stamp, err error) {
	for i, path := range []string{r.files.Cert, r.files.Key, r.files.CA} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (r *reloader) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(r.files.Cert, r.files.Key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", r.files.Cert, r.files.Key, err)
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if r.files.CA != "" {
		if cfg.ClientCAs, err = loadPool(r.files.CA); err != nil {
			return nil, err
		}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
		if r.required {
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return cfg, nil
}

func loadPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no PEM certificate in it", path)
	}
	return pool, nil
}
