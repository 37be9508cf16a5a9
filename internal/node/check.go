package node

import (
	"context"
	"errors"
	"net"

	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/server"
)

// Check looks at what a start needs of the machine, without leaving anything
// behind: the files of tokens and certificates, and whether the addresses can be
// listened on. It reports all faults, joined.
func (c Config) Check(ctx context.Context) error {
	errs := []error{server.CheckTokens(c.Tokens)}
	if c.TLSCert != "" {
		_, err := (cert.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}).Server(false)
		errs = append(errs, err)
	}
	if c.PeerTLSCert != "" {
		_, err := (cert.Files{Cert: c.PeerTLSCert, Key: c.PeerTLSKey, CA: c.PeerTLSCA}).Server(true)
		errs = append(errs, err)
	}
	if c.Join != "" && c.JoinTLS != (cert.Files{}) {
		_, err := c.JoinTLS.Client()
		errs = append(errs, err)
	}
	addresses := []string{c.Listen}
	if c.Engine == "" {
		addresses = append(addresses, c.PeerListen)
		if c.EtcdListen != "" {
			addresses = append(addresses, c.EtcdListen)
		}
	}
	for _, a := range addresses {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", a)
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
