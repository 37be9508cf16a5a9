package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"
)

func addrs(list ...string) []netip.Addr {
	as := []netip.Addr{}
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// many are more addresses than fit a datagram.
func many() (as []netip.Addr) {
	for i := range 200 {
		as = append(as, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})) //nolint:gosec // small
	}
	return as
}

func testConfig() Config {
	return Config{
		Domain: "lab",
		Zone: map[string][]netip.Addr{
			"n1":       addrs("10.77.0.11"),
			"N2.lab.":  addrs("10.77.0.12", "10.77.0.112", "fd00::12"),
			"web.prod": addrs("10.77.0.13"),
			"empty":    {},
			"many":     many(),
		},
		Services: map[string][]Service{"_raft._tcp.cluster": {{"n1", 2380, 1, 2}, {"n2", 2381, 3, 4}}},
	}
}

func serve(t *testing.T, cfg Config) *Server {
	t.Helper()
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Conn, cfg.Listener = conn, listener
	s, err := Serve(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// resolver is Go's own, which asks the server only. It dials TCP when an answer
// is truncated, or always.
func resolver(s *Server, network string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, want, _ string) (net.Conn, error) {
		var d net.Dialer
		if network == "tcp" || strings.HasPrefix(want, "tcp") {
			return d.DialContext(ctx, "tcp", s.cfg.Listener.Addr().String())
		}
		return d.DialContext(ctx, "udp", s.cfg.Conn.LocalAddr().String())
	}}
}

func lookup(t *testing.T, r *net.Resolver, network, name string) ([]netip.Addr, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return r.LookupNetIP(ctx, network, name)
}

func TestAnswers(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		s := serve(t, testConfig())
		r := resolver(s, network)
		for _, tc := range []struct {
			network, name string
			want          []netip.Addr
		}{
			{"ip4", "n1.", addrs("10.77.0.11")},
			{"ip4", "n1.lab.", addrs("10.77.0.11")},
			{"ip4", "N1.LAB.", addrs("10.77.0.11")},
			{"ip", "n2.lab.", addrs("10.77.0.12", "10.77.0.112", "fd00::12")},
			{"ip6", "n2.lab.", addrs("fd00::12")},
			{"ip4", "web.prod.lab.", addrs("10.77.0.13")},
			{"ip4", "many.lab.", many()},
		} {
			got, err := lookup(t, r, tc.network, tc.name)
			for i := range got {
				got[i] = got[i].Unmap()
			}
			slices.SortFunc(got, netip.Addr.Compare) // the resolver sorts by its own rules
			want := slices.SortedFunc(slices.Values(tc.want), netip.Addr.Compare)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s over %s: %v, %v; want %v", tc.name, network, got, err, want)
			}
		}
		for _, tc := range []struct{ network, name string }{
			{"ip", "nobody.lab."}, {"ip6", "n1.lab."}, {"ip", "empty.lab."}, {"ip", "prod.lab."}, {"ip", "example.com."},
		} {
			got, err := lookup(t, r, tc.network, tc.name)
			var e *net.DNSError
			if !errors.As(err, &e) || !e.IsNotFound {
				t.Errorf("%s over %s: %v, %v", tc.name, network, got, err)
			}
		}
		names, err := r.LookupAddr(t.Context(), "10.77.0.112")
		if err != nil || !slices.Equal(names, []string{"n2.lab."}) {
			t.Errorf("10.77.0.112 is %v, %v", names, err)
		}
		names, err = r.LookupAddr(t.Context(), "fd00::12")
		if err != nil || !slices.Equal(names, []string{"n2.lab."}) {
			t.Errorf("fd00::12 is %v, %v", names, err)
		}
		_, services, err := r.LookupSRV(t.Context(), "raft", "tcp", "cluster.lab.")
		if err != nil || len(services) != 2 || *services[0] != (net.SRV{Target: "n1.lab.", Port: 2380, Priority: 1, Weight: 2}) {
			t.Errorf("services %v, %v", services, err)
		}
		if s.Touched() != 0 {
			t.Errorf("%d answers were wrong without a fault", s.Touched())
		}
		if q := s.Queries(); q["n1"] != 4 || q["nobody"] != 2 || q["web.prod"] != 1 { // A and AAAA are two
			t.Errorf("questions %v", q)
		}
	}
}

func TestRollingUpdate(t *testing.T) {
	s := serve(t, testConfig())
	r := resolver(s, "udp")
	want := func(name string, list ...string) {
		t.Helper()
		got, err := lookup(t, r, "ip4", name)
		if list == nil {
			var e *net.DNSError
			if !errors.As(err, &e) || !e.IsNotFound {
				t.Errorf("%s: %v, %v; want none", name, got, err)
			}
			return
		}
		if err != nil || !slices.Equal(got, addrs(list...)) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, list)
		}
	}
	set := func(name string, list []netip.Addr) {
		t.Helper()
		if err := s.SetRecords(name, list); err != nil {
			t.Fatal(err)
		}
	}
	want("n1.lab.", "10.77.0.11")
	set("n1.lab", addrs("10.77.0.21"))
	want("n1.lab.", "10.77.0.21")
	want("n1.", "10.77.0.21")
	if err := s.Set("n1", Fault{Stale: true}); err != nil {
		t.Fatal(err)
	}
	want("n1.lab.", "10.77.0.11")
	set("n1", nil)
	want("n1.lab.", "10.77.0.21")
	if s.Touched() == 0 {
		t.Error("stale answers are not counted")
	}
	if err := s.Set("n1", Fault{}); err != nil {
		t.Fatal(err)
	}
	want("n1.lab.")
	set("new", addrs("10.77.0.31"))
	want("new.lab.", "10.77.0.31")
	if err := s.Set("", Fault{Stale: true}); err != nil {
		t.Fatal(err)
	}
	want("new.lab.")
	want("web.prod.lab.", "10.77.0.13") // was never another
}

// exchange asks one question of type A over UDP; nil is no answer.
func exchange(t *testing.T, s *Server, name string, patience time.Duration) *dnsmessage.Message {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "udp", s.cfg.Conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(ask(t, name, 0)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil {
		t.Fatal(err)
	}
	return &m
}

func ask(t *testing.T, name string, edns int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(edns, 0, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFaults(t *testing.T) {
	s := serve(t, testConfig())
	text := func(m *dnsmessage.Message) string {
		if m == nil {
			return "silent"
		}
		words := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
		for _, a := range m.Answers {
			words = append(words, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A).String())
		}
		return strings.Join(words, " ")
	}
	for _, tc := range []struct {
		name    string
		fault   Fault
		n1, n2  string
		touched int64 // of the two
	}{
		{"n1", Fault{}, "Success 10.77.0.11", "Success 10.77.0.12 10.77.0.112", 0},
		{"n1", Fault{NX: true}, "NameError", "Success 10.77.0.12 10.77.0.112", 1},
		{"n1.lab.", Fault{Fail: true}, "ServerFailure", "Success 10.77.0.12 10.77.0.112", 1},
		{"N1", Fault{Silent: true}, "silent", "Success 10.77.0.12 10.77.0.112", 1},
		{"n1", Fault{Answer: addrs("10.77.0.99")}, "Success 10.77.0.99", "Success 10.77.0.12 10.77.0.112", 1},
		{"n1", Fault{Answer: addrs("10.77.0.11")}, "Success 10.77.0.11", "Success 10.77.0.12 10.77.0.112", 0},
		{"n1", Fault{Answer: addrs()}, "Success", "Success 10.77.0.12 10.77.0.112", 1},
		{"n1", Fault{Delay: time.Millisecond}, "Success 10.77.0.11", "Success 10.77.0.12 10.77.0.112", 1},
		{"n1", Fault{Stale: true}, "Success 10.77.0.11", "Success 10.77.0.12 10.77.0.112", 0},
		{"", Fault{NX: true}, "NameError", "NameError", 2},
		{"", Fault{Silent: true}, "silent", "silent", 2},
		{"", Fault{Answer: addrs("10.77.0.11")}, "Success 10.77.0.11", "Success 10.77.0.11", 1},
	} {
		before := s.Touched()
		if err := s.Set(tc.name, tc.fault); err != nil {
			t.Fatal(err)
		}
		n1, n2 := text(exchange(t, s, "n1.lab.", 300*time.Millisecond)), text(exchange(t, s, "n2.lab.", 300*time.Millisecond))
		if n1 != tc.n1 || n2 != tc.n2 {
			t.Errorf("%q %+v: n1 %s, n2 %s; want %s, %s", tc.name, tc.fault, n1, n2, tc.n1, tc.n2)
		}
		if got := s.Touched() - before; got != tc.touched {
			t.Errorf("%q %+v: %d answers are wrong, want %d", tc.name, tc.fault, got, tc.touched)
		}
		if err := s.Set(tc.name, Fault{}); err != nil {
			t.Fatal(err)
		}
	}
	// A fault of a name goes before the one of all.
	if err := errors.Join(s.Set("", Fault{NX: true}), s.Set("n2", Fault{Delay: time.Nanosecond})); err != nil {
		t.Fatal(err)
	}
	if n1, n2 := text(exchange(t, s, "n1.lab.", time.Second)), text(exchange(t, s, "n2.lab.", time.Second)); n1 != "NameError" || !strings.HasPrefix(n2, "Success") {
		t.Errorf("n1 %s, n2 %s", n1, n2)
	}
}

func TestDelay(t *testing.T) {
	s := serve(t, testConfig())
	if err := s.Set("n1", Fault{Delay: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	late := make(chan time.Duration)
	go func() {
		_, _ = lookup(t, resolver(s, "tcp"), "ip4", "n1.lab.")
		late <- time.Since(begin)
	}()
	if m := exchange(t, s, "n2.lab.", 5*time.Second); m == nil || time.Since(begin) > 150*time.Millisecond {
		t.Errorf("the delay of another name: %v", time.Since(begin))
	}
	if m := exchange(t, s, "n1.lab.", 5*time.Second); m == nil || time.Since(begin) < 200*time.Millisecond {
		t.Errorf("a late answer came after %v", time.Since(begin))
	}
	if d := <-late; d < 200*time.Millisecond {
		t.Errorf("over TCP a late answer came after %v", d)
	}
	// Closing does not wait for answers that are late.
	if err := s.Set("n1", Fault{Delay: time.Hour}); err != nil {
		t.Fatal(err)
	}
	exchange(t, s, "n1.lab.", 10*time.Millisecond)
	s.Close()
}

func TestTruncation(t *testing.T) {
	s := serve(t, testConfig())
	for _, tc := range []struct {
		edns  int
		limit int
	}{{0, 512}, {600, 600}, {4096, 1232}} {
		if err := s.SetRecords("many", many()); err != nil {
			t.Fatal(err)
		}
		b, _ := s.answer(ask(t, "many.lab.", tc.edns), true)
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil || !m.Truncated || len(m.Answers) != 0 || m.ID != 4711 {
			t.Errorf("%d: %v, %+v", tc.edns, err, m)
		}
		// As many as fit are not truncated.
		n := 0
		for n = range 200 {
			if err := s.SetRecords("many", many()[:n+1]); err != nil {
				t.Fatal(err)
			}
			if b, _ := s.answer(ask(t, "many.lab.", tc.edns), true); len(b) > tc.limit {
				t.Fatalf("%d bytes, at most %d", len(b), tc.limit)
			} else if m.Unpack(b) == nil && m.Truncated {
				break
			}
		}
		if n < 20 {
			t.Errorf("%d: %d addresses do not fit", tc.edns, n)
		}
	}
}

func TestNoQuestions(t *testing.T) {
	s := serve(t, testConfig())
	good := ask(t, "n1.lab.", 0)
	change := func(f func(b []byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	for name, tc := range map[string]struct {
		message []byte
		want    dnsmessage.RCode
		none    bool
	}{
		"good":          {good, dnsmessage.RCodeSuccess, false},
		"short":         {good[:11], 0, true},
		"an answer":     {change(func(b []byte) { b[2] |= 0x80 }), 0, true},
		"an update":     {change(func(b []byte) { b[2] |= 5 << 3 }), dnsmessage.RCodeNotImplemented, false},
		"cut":           {good[:20], dnsmessage.RCodeFormatError, false},
		"two questions": {change(func(b []byte) { b[5] = 2 }), dnsmessage.RCodeFormatError, false},
		"no question":   {change(func(b []byte) { b[5] = 0 }), dnsmessage.RCodeFormatError, false},
		"chaos":         {change(func(b []byte) { b[len(b)-1] = 3 }), dnsmessage.RCodeRefused, false},
		"more to come":  {change(func(b []byte) { b[11] = 1 }), dnsmessage.RCodeFormatError, false},
	} {
		b, _ := s.answer(tc.message, true)
		if (b == nil) != tc.none {
			t.Errorf("%s: answer %x", name, b)
		}
		var m dnsmessage.Message
		if b != nil {
			if err := m.Unpack(b); err != nil || m.RCode != tc.want || m.ID != 4711 || !m.Response {
				t.Errorf("%s: %v, %+v", name, err, m.Header)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := slices.Clone(good[:rapid.IntRange(0, len(good)).Draw(t, "length")])
		for range rapid.IntRange(0, 5).Draw(t, "changes") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
		}
		if b, _ := s.answer(b, true); b != nil {
			var m dnsmessage.Message
			if err := m.Unpack(b); err != nil || len(b) > maxUDP {
				t.Fatalf("answer %x: %v", b, err)
			}
		}
	})
}

// TestConnections has several questions on one connection, one that is cut, and
// more connections than there may be.
func TestConnections(t *testing.T) {
	s := serve(t, testConfig())
	var d net.Dialer
	dial := func() net.Conn {
		c, err := d.DialContext(t.Context(), "tcp", s.cfg.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	c := dial()
	q := ask(t, "n1.lab.", 0)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) //nolint:gosec // small
	if _, err := c.Write(slices.Repeat(framed, 3)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		var m dnsmessage.Message
		if _, err := io.ReadFull(c, b); err != nil || m.Unpack(b) != nil || len(m.Answers) != 1 {
			t.Fatalf("%v, %+v", err, m)
		}
	}
	_ = c.Close()
	var open []net.Conn
	for range maxConns + 1 {
		open = append(open, dial())
	}
	last := open[maxConns]
	if _, err := last.Read(make([]byte, 1)); err == nil {
		t.Error("one connection too many is served")
	}
	if s.Dropped() == 0 {
		t.Error("a dropped connection is not counted")
	}
	s.Close()
	for _, c := range open {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlives the server")
		}
		_ = c.Close()
	}
}

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(ctx, Config{Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	s.Close()
	s.Close()
	if _, err := conn.WriteTo([]byte{1}, conn.LocalAddr()); err == nil {
		t.Error("the socket is open")
	}
}

func TestRefuses(t *testing.T) {
	long := strings.Repeat("x", 64)
	for name, cfg := range map[string]Config{
		"no socket":    {},
		"TTL":          {TTL: -1},
		"label":        {Zone: map[string][]netip.Addr{long: nil}},
		"name":         {Zone: map[string][]netip.Addr{strings.Repeat("x.", 127): nil}},
		"empty label":  {Zone: map[string][]netip.Addr{"a..b": nil}},
		"address":      {Zone: map[string][]netip.Addr{"a": {netip.Addr{}}}},
		"service":      {Services: map[string][]Service{long: nil}},
		"where it is":  {Services: map[string][]Service{"a": {{Target: long}}}},
		"empty target": {Services: map[string][]Service{"a": {{}}}},
	} {
		if s, err := Serve(t.Context(), cfg); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
	s := serve(t, testConfig())
	if s.Set(long, Fault{}) == nil || s.Set("a", Fault{Delay: -1}) == nil || s.SetRecords(long, nil) == nil {
		t.Error("no error")
	}
}

func TestQueriesAreBounded(t *testing.T) {
	z, err := newZone("lab", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxNames + 10 {
		z.answer(strings.Repeat("a", i%60+1)+"."+strings.Repeat("b", i/60+1)+".lab.", kindA)
	}
	var sum int64
	for n := range maps.Values(z.queries) {
		sum += n
	}
	if len(z.queries) > maxNames+1 || z.queries[""] != 10 || sum != maxNames+10 {
		t.Errorf("%d names, %d others, %d in all", len(z.queries), z.queries[""], sum)
	}
}
