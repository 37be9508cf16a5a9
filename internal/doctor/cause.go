package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/internal/wire"
)

// tlsRefusal is in the text of what the other side of a TLS connection says
// before it hangs up; crypto/tls keeps the type to itself.
const tlsRefusal = "remote error: tls: "

// unreachable says why an endpoint gave no answer.
func (f *findings) unreachable(s *seen) {
	what, why, hint := "it gives no answer", text(s.err), "see whether it runs, and its log"
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(s.err, &authority):
		what, why = "its certificate is not trusted", "it was signed by an authority that this machine does not know"
		hint = "name the authority's certificate with --ca; holdfast cert ca made it"
	case errors.As(s.err, &host):
		what, why = "its certificate is for another name", host.Error()
		hint = "use a name or address that the certificate has, or issue one that has this one: holdfast cert node NAME --host …"
	case errors.As(s.err, &invalid) && invalid.Reason == x509.Expired:
		what, why = "its certificate is expired or not valid yet", invalid.Error()
		hint = "issue another one with holdfast cert node; if it is not expired, compare the clocks of both machines"
	case strings.Contains(s.err.Error(), tlsRefusal):
		what = "it refuses the TLS connection"
		hint = "it wants a client certificate of its authority: give one with --cert and --key"
	case errors.As(s.err, &record) || strings.Contains(s.err.Error(), "server gave HTTP response to HTTPS client"):
		what, why, hint = "it does not speak TLS", "the endpoint says https, the node serves http", "write http://"+strings.TrimPrefix(s.url, "https://")
	case strings.Contains(s.err.Error(), "malformed HTTP response") || strings.Contains(s.err.Error(), "400 Bad Request"):
		what, why, hint = "it speaks TLS", "the endpoint says http, the node serves https", "write https://"+strings.TrimPrefix(s.url, "http://")
	case errors.As(s.err, &dns):
		what, why, hint = "its name is not known", dns.Error(), "correct the endpoint, or the name service"
	case errors.Is(s.err, syscall.ECONNREFUSED):
		what, why, hint = "nothing listens there", "the machine answers, the port does not", "start the node, or correct the endpoint"
	case errors.Is(s.err, context.DeadlineExceeded):
		what, why = "it gives no answer in time", "its machine is down, cut off or stalled, or a firewall drops the packets"
	case connect.CodeOf(s.err) == connect.CodeUnauthenticated:
		what, why, hint = "it does not know you", text(s.err), "give a token with --auth-token, or a client certificate with --cert and --key"
	case connect.CodeOf(s.err) == connect.CodePermissionDenied:
		what, why, hint = "it does not let you ask", text(s.err), "give a token whose role is at least read"
	}
	f.add(Problem, s.name(), what, why, hint)
}

// failed says why a step of the transaction did.
func (f *findings) failed(s timed) {
	err := wire.FromConnect(s.err)
	severity, what, why, hint := Problem, s.name+": "+text(s.err), "clients meet the same", ""
	switch {
	case connect.CodeOf(s.err) == connect.CodeUnauthenticated, errors.Is(err, holdfast.ErrDenied):
		severity, why = Info, "the test could not go on: you may not write there"
		hint = "give a token of role write that covers the prefix, to test everything"
	case errors.Is(err, holdfast.ErrNoQuorum), errors.Is(s.err, context.DeadlineExceeded):
		why, hint = "no majority answered in time", "see what is said of the nodes"
	case errors.Is(err, holdfast.ErrExhausted):
		why, hint = "a limit or the store's quota is reached", "see the quota above; limits of clients are flags of holdfast serve"
	case errors.Is(err, holdfast.ErrLost):
		why, hint = "the session died within the test: the store is so slow that sessions expire", "look at disks, processors and network of the nodes"
	}
	f.add(severity, "", what, why, hint)
}
