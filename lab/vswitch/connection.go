//go:build linux

package vswitch

import (
	"encoding/binary"
	"sync"
)

// maxFlows is how many directions of TCP connections are remembered for each
// sender.
const maxFlows = 1 << 15

// flowKey is one direction of a TCP connection of a sender.
type flowKey struct {
	peer     addr
	from, to uint16
}

// flow is what a sender said last on a connection.
type flow struct {
	next  uint32 // after the last byte that it sent
	ack   uint32 // the next that it waits for
	acked bool   // there is an ack
	fin   bool
	rst   bool // it gave up, or was told to
	reset bool // by Reset: what it still says is answered by another RST
}

// flows is the connections of one sender.
type flows struct {
	mu sync.Mutex
	m  map[flowKey]*flow
}

// track notes a TCP segment. It returns true when the sender has to be reset
// again, because it did not believe the first RST.
func (t *flows) track(p *packet) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := flowKey{p.dst, p.from, p.to}
	f := t.m[k]
	if f == nil || p.flags&flagSYN != 0 && p.seq+1 != f.next {
		if f == nil {
			t.evict()
			f = &flow{}
			t.m[k] = f
		}
		*f = flow{next: p.seq}
	}
	if p.flags&flagRST != 0 {
		f.rst, f.reset = true, false
		return false
	}
	end := p.seq + uint32(p.length)
	if p.flags&(flagSYN|flagFIN) != 0 {
		end++
	}
	if int32(end-f.next) > 0 {
		f.next = end
	}
	if p.flags&flagACK != 0 && (!f.acked || int32(p.ack-f.ack) > 0) {
		f.ack, f.acked = p.ack, true
	}
	f.fin = f.fin || p.flags&flagFIN != 0
	return f.reset && p.flags&flagACK != 0
}

// evict makes room for one more: those that ended go first, then any.
func (t *flows) evict() {
	if t.m == nil {
		t.m = map[flowKey]*flow{}
	}
	if len(t.m) < maxFlows {
		return
	}
	for k, f := range t.m {
		if f.fin || f.rst {
			delete(t.m, k)
		}
	}
	for k := range t.m {
		if len(t.m) <= maxFlows/2 {
			break
		}
		delete(t.m, k)
	}
}

func (t *flows) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m = nil
}

// end is one end of a connection as the switch knows it.
type end struct {
	known bool
	flow  flow
}

// connection is both ends of one.
type connection struct {
	a, b         end
	aPort, bPort uint16
}

// connections is those between two hosts.
func connections(a, b *host) []connection {
	type ports struct{ a, b uint16 }
	found := map[ports]*connection{}
	at := func(p ports) *connection {
		if found[p] == nil {
			found[p] = &connection{aPort: p.a, bPort: p.b}
		}
		return found[p]
	}
	a.flows.visit(b.addr, func(k flowKey, f *flow) { at(ports{k.from, k.to}).a = end{true, *f} })
	b.flows.visit(a.addr, func(k flowKey, f *flow) { at(ports{k.to, k.from}).b = end{true, *f} })
	var out []connection
	for _, c := range found {
		closed := c.a.flow.fin && c.b.flow.fin
		if !closed && (c.a.alive() || c.b.alive()) {
			out = append(out, *c)
		}
	}
	return out
}

func (e end) alive() bool { return e.known && !e.flow.rst }

// visit shows the flows to a peer.
func (t *flows) visit(peer addr, see func(flowKey, *flow)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, f := range t.m {
		if k.peer == peer {
			see(k, f)
		}
	}
}

// mark notes that the sender was told to give up a connection.
func (t *flows) mark(peer addr, from, to uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.m[flowKey{peer, from, to}]; f != nil {
		f.rst, f.reset = true, true
	}
}

const resetLength = etherHeader + 20 + 20

// reset writes a RST as if from one host to the other. The receiver obeys if
// seq is exactly what it expects next, or if it waits for an answer to its SYN
// and ack is right (RFC 9293, 3.10.7; RFC 5961, 3.2).
func reset(frame []byte, from, to *host, fromPort, toPort uint16, seq, ack uint32) {
	tcp := header(frame, from, to, protoTCP, 20)
	clear(tcp)
	binary.BigEndian.PutUint16(tcp, fromPort)
	binary.BigEndian.PutUint16(tcp[2:], toPort)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flagRST|flagACK
	binary.BigEndian.PutUint16(tcp[16:], checksum(pseudo(from, to, protoTCP, 20), tcp))
}

// Reset sends TCP resets to both ends of every connection that crosses the
// links, past all rules, and returns how many connections there were. An end
// that received more than it acknowledged does not believe the first RST; it is
// sent another one when it next says what it expects.
func (s *Switch) Reset(links []Link) (int, error) {
	type pair struct{ a, b *host }
	var pairs []pair
	seen := map[pair]bool{}
	t := s.table.Load()
	for _, l := range links {
		a, b := t.byName[l.From], t.byName[l.To]
		if a == nil || b == nil {
			return 0, s.unknown(l)
		}
		if a.index > b.index {
			a, b = b, a
		}
		if p := (pair{a, b}); !seen[p] {
			seen[p] = true
			pairs = append(pairs, p)
		}
	}
	n := 0
	for _, p := range pairs {
		for _, c := range connections(p.a, p.b) {
			n++
			s.resetEnd(p.b, p.a, c.bPort, c.aPort, c.b, c.a)
			s.resetEnd(p.a, p.b, c.aPort, c.bPort, c.a, c.b)
		}
	}
	return n, nil
}

// resetEnd tells one end of a connection to give up, as if the other did. What
// it expects next is what it acknowledged last or, if it did not acknowledge
// all, what its peer would send next.
func (s *Switch) resetEnd(from, to *host, fromPort, toPort uint16, other, e end) {
	if !e.alive() {
		return
	}
	to.flows.mark(from.addr, toPort, fromPort)
	s.sendReset(from, to, fromPort, toPort, e.flow.ack, e.flow.next)
	if other.known && other.flow.next != e.flow.ack && e.flow.acked {
		s.sendReset(from, to, fromPort, toPort, other.flow.next, e.flow.next)
	}
}

func (s *Switch) sendReset(from, to *host, fromPort, toPort uint16, seq, ack uint32) {
	var frame [resetLength]byte
	reset(frame[:], from, to, fromPort, toPort, seq, ack)
	s.inject(to, frame[:], "reset by the lab")
}
