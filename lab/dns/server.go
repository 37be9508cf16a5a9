package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Config is what a server serves, and where.
type Config struct {
	Conn     net.PacketConn // for questions over UDP; required; the server closes it
	Listener net.Listener   // for questions over TCP; nil: UDP only; the server closes it

	// Zone has the addresses of names. A name stands for itself and for itself
	// in Domain: with the domain lab, n1 answers n1 and n1.lab, and so does n1.lab.
	Zone     map[string][]netip.Addr
	Services map[string][]Service // by name: _http._tcp.web
	Domain   string

	// TTL is how long answers may be kept; whole seconds, rounded up. 0: not at
	// all.
	TTL time.Duration
}

// Bounds of what is under way.
const (
	maxLate  = 1024 // answers that wait for their delay
	maxConns = 256
	idle     = 30 * time.Second // of a connection
)

// Server answers questions until it is closed. Its methods may be called
// concurrently.
type Server struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	late   chan struct{}
	conns  chan struct{}

	mu      sync.Mutex
	zone    *zone
	open    map[net.Conn]struct{}
	dropped int64
}

// Serve starts a server. It ends when it is closed or ctx ends, and closes the
// sockets then, and also when it returns an error.
func Serve(ctx context.Context, cfg Config) (*Server, error) {
	z, err := newZone(cfg.Domain, cfg.Zone, cfg.Services)
	switch {
	case cfg.Conn == nil:
		err = errors.Join(err, errors.New("dns: no socket for UDP"))
	case cfg.TTL < 0 || cfg.TTL > math.MaxInt32*time.Second:
		err = errors.Join(err, fmt.Errorf("dns: TTL of %v: not negative, and less than 68 years", cfg.TTL))
	}
	s := &Server{
		cfg: cfg, zone: z,
		late: make(chan struct{}, maxLate), conns: make(chan struct{}, maxConns),
		open: map[net.Conn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if err != nil {
		s.end()
		return nil, err
	}
	s.done.Go(func() {
		<-s.ctx.Done()
		s.end()
	})
	s.done.Go(s.serveUDP)
	if cfg.Listener != nil {
		s.done.Go(s.serveTCP)
	}
	return s, nil
}

// end closes all sockets, which ends all who read from them.
func (s *Server) end() {
	s.cancel()
	if s.cfg.Conn != nil {
		_ = s.cfg.Conn.Close()
	}
	if s.cfg.Listener != nil {
		_ = s.cfg.Listener.Close()
	}
	s.mu.Lock()
	conns := maps.Clone(s.open)
	s.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

// Close ends the server and waits for it.
func (s *Server) Close() {
	s.cancel()
	s.done.Wait()
}

// Set changes the answers for a name until it is set to Fault{}. The name "" is
// all names that have no fault of their own.
func (s *Server) Set(name string, f Fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zone.setFault(name, f)
}

// SetRecords replaces the addresses of a name, which need not exist yet. With nil
// there is no such name any more, with an empty list it has no addresses.
func (s *Server) SetRecords(name string, addrs []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zone.set(name, addrs)
}

// Touched is how many questions were answered wrongly, late or not at all so far
// because of a fault.
func (s *Server) Touched() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zone.touched
}

// Queries is how many questions came for each name so far, of all types together;
// names are without the domain. After 4096 names the others are counted as "".
func (s *Server) Queries() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.zone.queries)
}

// Dropped is how many questions and connections got nothing so far because too
// many were under way.
func (s *Server) Dropped() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

func (s *Server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped++
}

// answer is the message that answers one, and when; nil is none.
func (s *Server) answer(message []byte, udp bool) ([]byte, time.Duration) {
	q, ok := parse(message)
	if !ok {
		return nil, 0
	}
	if q.code != dnsmessage.RCodeSuccess {
		b, err := q.refuse(q.code)
		if err != nil {
			return nil, 0
		}
		return b, 0
	}
	s.mu.Lock()
	r := s.zone.answer(q.q.Name.String(), q.kind())
	s.mu.Unlock()
	if r.silent {
		return nil, 0
	}
	b, err := q.build(r, s.cfg.TTL, s.zone.full, udp) // full reads what does not change
	if err != nil {
		b, err = q.refuse(dnsmessage.RCodeServerFailure)
	}
	if err != nil {
		return nil, 0
	}
	return b, r.delay
}

// wait returns whether the time passed before the server was closed.
func (s *Server) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Server) serveUDP() {
	buf := make([]byte, maxTCP)
	for {
		n, from, err := s.cfg.Conn.ReadFrom(buf)
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			if !s.wait(time.Millisecond) { // such as a port that is closed: an error of one datagram
				return
			}
			continue
		}
		b, delay := s.answer(buf[:n], true)
		switch {
		case b == nil:
		case delay <= 0:
			_, _ = s.cfg.Conn.WriteTo(b, from) // who asks asks again
		default:
			select {
			case s.late <- struct{}{}:
				s.done.Go(func() {
					defer func() { <-s.late }()
					if s.wait(delay) {
						_, _ = s.cfg.Conn.WriteTo(b, from)
					}
				})
			default:
				s.drop()
			}
		}
	}
}

func (s *Server) serveTCP() {
	for {
		c, err := s.cfg.Listener.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !s.wait(time.Millisecond) {
				return
			}
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			s.drop()
			_ = c.Close()
			continue
		}
		s.mu.Lock()
		s.open[c] = struct{}{}
		s.mu.Unlock()
		s.done.Go(func() {
			defer func() {
				s.mu.Lock()
				delete(s.open, c)
				s.mu.Unlock()
				_ = c.Close()
				<-s.conns
			}()
			s.serveConn(c)
		})
	}
}

// serveConn answers the questions of a connection, one after the other.
func (s *Server) serveConn(c net.Conn) {
	var length [2]byte
	buf := make([]byte, maxTCP)
	for s.ctx.Err() == nil {
		if c.SetDeadline(time.Now().Add(idle)) != nil {
			return
		}
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		message := buf[:binary.BigEndian.Uint16(length[:])]
		if _, err := io.ReadFull(c, message); err != nil {
			return
		}
		b, delay := s.answer(message, false)
		if b == nil {
			continue
		}
		if !s.wait(delay) || c.SetDeadline(time.Now().Add(idle)) != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil { //nolint:gosec // built to fit
			return
		}
	}
}
