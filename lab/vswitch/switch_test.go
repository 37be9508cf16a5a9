//go:build linux

package vswitch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/lab/netem"
)

const ms = time.Millisecond

// wire is the other end of a port: a socket pair in place of a TAP.
type wire struct {
	t    *testing.T
	host *host
	conn net.Conn
}

// socketPair is a port's end as a file, and the test's.
func socketPair(t *testing.T) (*os.File, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20) // without the right to it: as it is
	}
	f := os.NewFile(uintptr(fds[1]), "wire")
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	t.Cleanup(func() { _ = conn.Close() })
	return os.NewFile(uintptr(fds[0]), "tap"), conn
}

func portOf(i int, tap io.ReadWriteCloser) Port {
	return Port{Name: fmt.Sprintf("n%d", i), Addr: hostAddr(i), MAC: hostMAC(i), TAP: tap}
}

// wires makes a switch that runs with n hosts.
func wires(t *testing.T, n int, c Config) (*Switch, []*wire) {
	t.Helper()
	if c.Late == 0 {
		c.Late = time.Minute // how busy this machine is is not what is tested
	}
	s := New(c)
	var out []*wire
	for i := range n {
		tap, conn := socketPair(t)
		if err := s.Attach(portOf(i, tap)); err != nil {
			t.Fatal(err)
		}
		out = append(out, &wire{t, s.table.Load().byName[fmt.Sprintf("n%d", i)], conn})
	}
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, out
}

// udp is a frame whose data is a number.
func udp(from, to *host, port uint16, n uint32) []byte {
	f := make([]byte, etherHeader+20+8+4)
	u := header(f, from, to, protoUDP, 12)
	binary.BigEndian.PutUint16(u[2:], port)
	binary.BigEndian.PutUint16(u[4:], 12)
	binary.BigEndian.PutUint32(u[8:], n)
	return f
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(frame); err != nil {
		w.t.Error(err)
	}
}

// receive is the next frame.
func (w *wire) receive() []byte {
	w.t.Helper()
	b := make([]byte, 2048)
	if err := w.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	n, err := w.conn.Read(b)
	if err != nil {
		w.t.Fatalf("%s: %v", w.host.name, err)
	}
	return b[:n]
}

// number is the data of the next frame.
func (w *wire) number() uint32 {
	w.t.Helper()
	return binary.BigEndian.Uint32(w.receive()[etherHeader+28:])
}

// counters is those from n0 to n1.
func counters(s *Switch) LinkCounters {
	for _, c := range s.Counters() {
		if c.From == "n0" && c.To == "n1" {
			return c
		}
	}
	return LinkCounters{}
}

func TestForward(t *testing.T) {
	s, w := wires(t, 3, Config{})
	a, b, c := w[0], w[1], w[2]
	f := udp(a.host, b.host, 7, 1)
	a.send(f)
	if got := b.receive(); !bytes.Equal(got, f) {
		t.Errorf("received\n%x, want\n%x", got, f)
	}
	routed := udp(a.host, c.host, 7, 2)
	copy(routed, []byte{2, 9, 9, 9, 9, 9}) // a router's
	a.send(routed)
	if got := c.receive(); mac(got) != c.host.mac {
		t.Errorf("a frame by IP address came with the MAC %x", got[:6])
	}
	for _, nobody := range [][]byte{
		append(bytes.Repeat([]byte{0xff}, 6), udp(a.host, b.host, 7, 3)[6:]...),          // broadcast
		append([]byte{0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd}, 1, 2, 3)[:], // IPv6 multicast
		append([]byte{2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 1, 0x86, 0xdd}, 1, 2, 3)[:],       // unknown
		udp(a.host, a.host, 7, 3), // to itself
		{1, 2, 3},
	} {
		a.send(nobody)
	}
	a.send(udp(a.host, b.host, 7, 4))
	if n := b.number(); n != 4 {
		t.Errorf("received %d, want 4", n)
	}
	if n := s.Health().Unknown; n != 5 {
		t.Errorf("%d frames to nobody, want 5", n)
	}
	if c := counters(s); c.Rx != 2 || c.Tx != 2 || c.RxBytes != 92 || c.TxBytes != 92 {
		t.Errorf("counters %+v", c)
	}
}

func TestARP(t *testing.T) {
	s, w := wires(t, 2, Config{})
	if _, err := s.Apply([]Link{{"n0", "n1"}, {"n1", "n0"}}, Match{}, netem.Impairment{Cut: netem.Stopped}); err != nil {
		t.Fatal(err)
	}
	request := func(target addr) []byte {
		f := append(bytes.Repeat([]byte{0xff}, 6), w[0].host.mac[:]...)
		f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		f = append(f, w[0].host.mac[:]...)
		f = append(f, w[0].host.addr[:]...)
		f = append(f, 0, 0, 0, 0, 0, 0)
		return append(f, target[:]...)
	}
	w[0].send(request(addr{10, 77, 9, 9}))                          // nobody
	w[0].send(request(w[0].host.addr))                              // is anybody else me?
	w[0].send(request(w[1].host.addr)[:30])                         // breaks off
	w[0].send(append(request(w[1].host.addr), make([]byte, 18)...)) // with padding
	got := w[0].receive()
	want := append(append([]byte{}, w[0].host.mac[:]...), w[1].host.mac[:]...)
	want = append(want, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
	want = append(append(want, w[1].host.mac[:]...), w[1].host.addr[:]...)
	want = append(append(want, w[0].host.mac[:]...), w[0].host.addr[:]...)
	if !bytes.Equal(got[:len(want)], want) {
		t.Errorf("reply\n%x, want\n%x", got, want)
	}
}

func TestApply_Match(t *testing.T) {
	s, w := wires(t, 2, Config{})
	cut := netem.Impairment{Cut: netem.Stopped}
	link := []Link{{"n0", "n1"}, {"n0", "n1"}} // twice is once
	port := apply(t, s, link, Match{Proto: "udp", Port: 53}, cut)
	tcp := apply(t, s, link, Match{Proto: "tcp"}, cut)
	for i, p := range []uint16{53, 54, 53, 55} {
		w[0].send(udp(w[0].host, w[1].host, p, uint32(i)))
	}
	for _, want := range []uint32{1, 3} {
		if got := w[1].number(); got != want {
			t.Errorf("received %d, want %d", got, want)
		}
	}
	if port.Touched() != 2 || tcp.Touched() != 0 {
		t.Errorf("touched %d and %d frames, want 2 and 0", port.Touched(), tcp.Touched())
	}
	port.Remove()
	port.Remove()
	w[0].send(udp(w[0].host, w[1].host, 53, 5))
	if got := w[1].number(); got != 5 || port.Touched() != 2 {
		t.Errorf("received %d, touched %d", got, port.Touched())
	}
	if c := counters(s); c.DroppedCut != 2 || c.Rx != 5 || c.Tx != 3 {
		t.Errorf("counters %+v", c)
	}
	for _, wrong := range []struct {
		link Link
		m    Match
		im   netem.Impairment
	}{
		{Link{"n0", "n9"}, Match{}, cut},
		{Link{"n0", "n0"}, Match{}, cut},
		{Link{"n0", "n1"}, Match{Proto: "sctp"}, cut},
		{Link{"n0", "n1"}, Match{Port: 70000}, cut},
		{Link{"n0", "n1"}, Match{Proto: "udp", SYN: true}, cut},
		{Link{"n0", "n1"}, Match{}, netem.Impairment{Loss: 2}},
	} {
		if _, err := s.Apply([]Link{wrong.link}, wrong.m, wrong.im); err == nil {
			t.Errorf("applied %+v", wrong)
		}
	}
	if _, err := s.Apply([]Link{{"n0", "n9"}}, Match{}, cut); !errors.Is(err, ErrUnknown) {
		t.Errorf("error %v", err)
	}
}

// TestRemove_Order: frames stay in order while delays and jams come and go under
// traffic, and none is lost.
func TestRemove_Order(t *testing.T) {
	s, w := wires(t, 2, Config{})
	links := []Link{{"n0", "n1"}}
	const total = 4000
	sent := make(chan uint32, total)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint32(total) {
			w[0].send(udp(w[0].host, w[1].host, 7, i))
			sent <- i
		}
		close(sent)
	})
	wg.Go(func() {
		n := 0
		for _, im := range []netem.Impairment{
			{Delay: 5 * ms}, {Cut: netem.Jammed}, {Delay: 3 * ms, Jitter: 3 * ms}, {Cut: netem.Jammed, Delay: ms}, {Loss: 0.001, LossCorrelation: 0.1}, {Cut: netem.Jammed},
		} {
			rule, err := s.Apply(links, Match{}, im)
			if err != nil {
				t.Error(err)
				return
			}
			for range sent { // keep the rule for a while, in frames
				if n++; n%500 == 0 {
					break
				}
			}
			rule.Remove()
		}
	})
	lost, next := int64(0), uint32(0)
	for next < total {
		got := w[1].number()
		if got < next {
			t.Fatalf("frame %d came after frame %d", got, next-1)
		}
		lost += int64(got - next)
		next = got + 1
	}
	wg.Wait()
	c := counters(s)
	if c.DroppedLoss != lost || c.Held != 0 || c.Rx != total || c.Tx != total-lost || c.Overrun != 0 {
		t.Errorf("%d lost, counters %+v", lost, c)
	}
}

func TestDelay_NotEarly(t *testing.T) {
	s, w := wires(t, 2, Config{})
	apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Delay: 10 * ms})
	apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Delay: 5 * ms})
	start := time.Now()
	for i := range uint32(10) {
		w[0].send(udp(w[0].host, w[1].host, 7, i))
	}
	for i := range uint32(10) {
		if got := w[1].number(); got != i {
			t.Errorf("received %d, want %d", got, i)
		}
	}
	if d := time.Since(start); d < 15*ms {
		t.Errorf("all delivered after %v, want 15ms at least", d)
	}
	if c := counters(s); c.Delay.Count != 10 || c.Delay.P50 <= 0 || c.Delay.P99 > c.Delay.Max || c.Delayed != 10 {
		t.Errorf("counters %+v", c)
	}
}

func TestOverrun(t *testing.T) {
	s, w := wires(t, 2, Config{Late: 1, TxDropped: func(port string) (int64, error) {
		if port == "n1" {
			return 0, io.EOF
		}
		return 3, nil
	}})
	apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Delay: ms})
	w[0].send(udp(w[0].host, w[1].host, 7, 0))
	w[1].number()
	if h := s.Health(); h.Overruns != 1 || h.Lateness.Count != 1 || len(h.TxDropped) != 1 || h.TxDropped["n0"] != 3 {
		t.Errorf("health %+v; a nanosecond is always exceeded", h)
	}
}

func TestMemory(t *testing.T) {
	s, w := wires(t, 2, Config{Memory: 1 << 20})
	a := apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Delay: time.Hour})
	for i := range uint32(1000) {
		w[0].send(udp(w[0].host, w[1].host, 7, i))
	}
	other := apply(t, s, []Link{{"n0", "n1"}}, Match{Port: 9}, netem.Impairment{Cut: netem.Stopped})
	w[0].send(udp(w[0].host, w[1].host, 7, 0))
	w[1].send(udp(w[1].host, w[0].host, 7, 0)) // when it is there the ones before are too
	w[0].number()
	waitFor(t, func() bool { return a.Counters().In == 1001 })
	size := int64(1500 + etherHeader + 4)
	if c := counters(s); c.Overrun != 1001-(1<<20)/size || other.Touched() != 0 {
		t.Errorf("counters %+v, want %d overruns", c, 1001-(1<<20)/size)
	}
}

// waitFor polls a condition of another goroutine.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(ms)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it did not come about")
		}
	}
}

func TestDetach(t *testing.T) {
	s, w := wires(t, 2, Config{})
	rule := apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Duplicate: 1})
	if err := s.Detach("n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w[1].conn.Read(make([]byte, 1)); err == nil {
		t.Error("the TAP was not closed")
	}
	if err := s.Detach("n1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("detached again: %v", err)
	}
	w[0].send(udp(w[0].host, w[1].host, 7, 0))
	waitFor(t, func() bool { return counters(s).DroppedDown == 2 })
	tap, conn := socketPair(t)
	elsewhere := portOf(1, tap)
	elsewhere.MAC = hostMAC(5)
	if err := s.Attach(elsewhere); err == nil {
		t.Error("attached with another MAC")
	}
	if err := s.Attach(portOf(1, tap)); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(portOf(1, tap)); err == nil {
		t.Error("attached twice")
	}
	w[1].conn = conn
	w[0].send(udp(w[0].host, w[1].host, 7, 1))
	if a, b := w[1].number(), w[1].number(); a != 1 || b != 1 || rule.Counters().Duplicated != 2 {
		t.Errorf("received %d, %d; the rule has to be there still", a, b)
	}
	_ = tap.Close() // the switch has a descriptor of its own
	w[0].send(udp(w[0].host, w[1].host, 7, 1))
	if a, b := w[1].number(), w[1].number(); a != 1 || b != 1 {
		t.Errorf("received %d, %d", a, b)
	}
	_ = conn.Close() // as when a host's namespace ends
	w[0].send(udp(w[0].host, w[1].host, 7, 2))
	waitFor(t, func() bool { return counters(s).DroppedDown == 4 })
}

func TestBurst(t *testing.T) {
	s, w := wires(t, 2, Config{})
	rule := apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Rate: 100e6, Limit: 10})
	const frames = 100
	if err := s.Burst(t.Context(), Link{"n0", "n1"}, frames*1514-1); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return counters(s).Tx >= 10 })
	c := rule.Counters()
	if f := w[1].receive(); len(f) != 1514 || parse(f).to != 9 || parse(f).proto != protoUDP {
		t.Errorf("noise is %x", f[:48])
	}
	if c.In != frames || c.InBytes != frames*1514-1 || c.DroppedQueue == 0 {
		t.Errorf("counters %+v: want %d frames, some of them dropped", c, frames)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Burst(ctx, Link{"n0", "n1"}, 1<<40); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := s.Burst(t.Context(), Link{"n0", "x"}, 1); !errors.Is(err, ErrUnknown) {
		t.Errorf("error %v", err)
	}
}

func TestConfig(t *testing.T) {
	s := New(Config{MTU: 100, Jam: -1, Late: -1})
	if err := s.Run(); err == nil || !bytes.Contains([]byte(err.Error()), []byte("mtu 100")) || !bytes.Contains([]byte(err.Error()), []byte("jam -1")) {
		t.Errorf("error %v", err)
	}
	s = New(Config{})
	for name, p := range map[string]Port{
		"no name": {}, "IPv6": {Name: "a", Addr: hostAddr(0).Next().Prev()}, "no TAP": {Name: "a", Addr: hostAddr(0), MAC: hostMAC(0)},
		"group": {Name: "a", Addr: hostAddr(0), MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}, TAP: sink{}},
	} {
		if err := s.Attach(p); err == nil {
			t.Errorf("%s: attached", name)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Run(); !errors.Is(err, ErrClosed) {
		t.Errorf("runs after Close: %v", err)
	}
	if err := s.Attach(portOf(0, sink{})); !errors.Is(err, ErrClosed) {
		t.Errorf("attached after Close: %v", err)
	}
}

// sink is a TAP that takes everything and has nothing.
type sink struct{}

func (sink) Read([]byte) (int, error)    { return 0, io.EOF }
func (sink) Write(b []byte) (int, error) { return len(b), nil }
func (sink) Close() error                { return nil }

// TestTake_NoAllocation: a frame that nothing is done to costs no memory, nor
// does one that a rule lets pass.
func TestTake_NoAllocation(t *testing.T) {
	for name, im := range map[string]*netem.Impairment{"free": nil, "ruled": {Loss: 0.5}} {
		take := taker(t, im)
		if n := testing.AllocsPerRun(1000, take); n > 0.1 && !raceEnabled { // the race detector's pool forgets on purpose
			t.Errorf("%s: %v allocations for each frame", name, n)
		}
	}
}

// taker forwards a TCP segment to a port that takes everything.
func taker(tb testing.TB, im *netem.Impairment) func() {
	tb.Helper()
	s := New(Config{})
	for i := range 2 {
		if err := s.Attach(portOf(i, sink{})); err != nil {
			tb.Fatal(err)
		}
	}
	if im != nil {
		if _, err := s.Apply([]Link{{"n0", "n1"}}, Match{}, *im); err != nil {
			tb.Fatal(err)
		}
	}
	hosts := s.table.Load().byName
	in := &intake{s: s, from: hosts["n0"]}
	f := make([]byte, 1514)
	copy(f, tcp(hosts["n0"], hosts["n1"], 1, 2, flagACK, 3, 4, 1460))
	return func() {
		b := s.buffer()
		b.n = copy(b.data, f)
		if in.take(b) {
			s.free(b)
		}
	}
}

// BenchmarkTake is what a frame costs but for the system calls.
func BenchmarkTake(b *testing.B) {
	for name, im := range map[string]*netem.Impairment{"free": nil, "loss": {Loss: 0.5}, "rate": {Rate: 1 << 50}} {
		b.Run(name, func(b *testing.B) {
			take := taker(b, im)
			b.ReportAllocs()
			for b.Loop() {
				take()
			}
		})
	}
}
