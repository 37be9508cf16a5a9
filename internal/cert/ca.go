package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	day = 24 * time.Hour
	// backdate is how far in the past validity begins: hosts' clocks differ.
	backdate = day

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// Usage is what a certificate is for.
type Usage uint8

const (
	// Client is to identify a caller.
	Client Usage = iota + 1
	// Server is to serve the API.
	Server
	// Node is both, as nodes of one cluster need it among themselves.
	Node
)

// String is the usage in lower case.
func (u Usage) String() string {
	switch u {
	case Client:
		return "client"
	case Server:
		return "server"
	case Node:
		return "node"
	}
	return "none"
}

// CAConfig is how an authority is made. The zero value works.
type CAConfig struct {
	// Name is the authority's common name. Default "holdfast".
	Name string
	// ValidFor is how long the authority's certificate is valid. Default ten
	// years; everything it issued ends with it.
	ValidFor time.Duration
}

// CA is a certificate authority. Safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pair Pair
}

// NewCA makes an authority with a fresh key.
func NewCA(cfg CAConfig) (*CA, error) {
	if cfg.Name == "" {
		cfg.Name = "holdfast"
	}
	if cfg.ValidFor == 0 {
		cfg.ValidFor = 3650 * day
	}
	if cfg.ValidFor < 0 {
		return nil, fmt.Errorf("validity %v: want a positive duration", cfg.ValidFor)
	}
	template := newTemplate(pkix.Name{CommonName: cfg.Name, Organization: []string{"Holdfast"}}, cfg.ValidFor)
	template.IsCA = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pair, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	return parseCA(pair)
}

// LoadCA reads what [CA.Write] wrote to dir.
func LoadCA(dir string) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, err
	}
	ca, err := parseCA(Pair{Cert: certPEM, Key: keyPEM})
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", certPath, keyPath, err)
	}
	return ca, nil
}

func parseCA(p Pair) (*CA, error) {
	cert, err := parseCertificate(p.Cert)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("certificate is not an authority's")
	}
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return nil, errors.New("key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("key does not belong to the certificate")
	}
	return &CA{cert: cert, key: key, pair: p}, nil
}

// Write puts ca.crt and ca.key into dir, which it makes if need be. It fails
// when one of them exists.
func (ca *CA) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return ca.pair.Write(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
}

// Request says what to issue.
type Request struct {
	// Name becomes the common name: of a node its name, of a client who it is.
	Name string
	// Usage is what the certificate is for.
	Usage Usage
	// Role becomes the organizational unit; the API takes a client's role from
	// it: "read", "write" or "admin". Default admin for a node, which has the
	// whole store in its hands anyway and must be able to join; for others none,
	// which the API takes as write.
	Role string
	// Hosts are the host names and IP addresses at which a server is reached.
	Hosts []string
	// ValidFor is how long the certificate is valid. Default one year; cut to
	// what is left of the authority's.
	ValidFor time.Duration
}

func (r Request) validate() error {
	var faults []error
	if r.Name == "" {
		faults = append(faults, errors.New("name: is missing"))
	}
	switch r.Usage {
	case Client:
	case Server, Node:
		if len(r.Hosts) == 0 {
			faults = append(faults, errors.New("hosts: a server needs at least one name or address"))
		}
	default:
		faults = append(faults, errors.New("usage: want client, server or node"))
	}
	if r.ValidFor < 0 {
		faults = append(faults, fmt.Errorf("validity %v: want a positive duration", r.ValidFor))
	}
	return errors.Join(faults...)
}

// Issue makes a key and signs its certificate.
func (ca *CA) Issue(r Request) (Pair, error) {
	if err := r.validate(); err != nil {
		return Pair{}, err
	}
	if r.ValidFor == 0 {
		r.ValidFor = 365 * day
	}
	if r.Role == "" && r.Usage == Node {
		r.Role = "admin"
	}
	subject := pkix.Name{CommonName: r.Name, Organization: []string{"Holdfast"}}
	if r.Role != "" {
		subject.OrganizationalUnit = []string{r.Role}
	}
	template := newTemplate(subject, r.ValidFor)
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if r.Usage != Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Usage != Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if r.Usage == Client {
		template.URIs = []*url.URL{{Scheme: "holdfast", Host: "client", Path: "/" + r.Name}}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	return sign(template, ca.cert, key, ca.key)
}

func newTemplate(subject pkix.Name, validFor time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{ // x509 draws the serial number
		Subject: subject, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(validFor),
	}
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return Pair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: keyDER}),
	}, nil
}

// Pair is a certificate and its key, PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// Write makes both files; it fails when one of them exists.
func (p Pair) Write(certPath, keyPath string) error {
	if err := create(keyPath, p.Key, 0o600); err != nil {
		return err
	}
	if err := create(certPath, p.Cert, 0o644); err != nil {
		return errors.Join(err, os.Remove(keyPath))
	}
	return nil
}

func create(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Info is what people ask of a certificate.
type Info struct {
	Name     string    `json:"name"`
	Role     string    `json:"role,omitempty"`
	Issuer   string    `json:"issuer"`
	Hosts    []string  `json:"hosts,omitempty"`
	Usage    string    `json:"usage"`
	NotAfter time.Time `json:"not_after"`
	CA       bool      `json:"ca,omitempty"`
}

// Inspect reads the first certificate of a file.
func Inspect(path string) (Info, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Info{}, err
	}
	c, err := parseCertificate(b)
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	info := Info{Name: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Hosts: c.DNSNames, NotAfter: c.NotAfter, CA: c.IsCA}
	if len(c.Subject.OrganizationalUnit) > 0 {
		info.Role = c.Subject.OrganizationalUnit[0]
	}
	for _, ip := range c.IPAddresses {
		info.Hosts = append(info.Hosts, ip.String())
	}
	var server, client bool
	for _, u := range c.ExtKeyUsage {
		server = server || u == x509.ExtKeyUsageServerAuth
		client = client || u == x509.ExtKeyUsageClientAuth
	}
	switch {
	case c.IsCA:
		info.Usage = "authority"
	case server && client:
		info.Usage = Node.String()
	case server:
		info.Usage = Server.String()
	case client:
		info.Usage = Client.String()
	}
	return info, nil
}

func parseCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}
