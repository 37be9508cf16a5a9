//go:build linux

package vswitch

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast.dev/lab/netem"
)

var raceEnabled bool

// TestSchedule: frames come out in order of time and then of arrival, and none
// before its time.
func TestSchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := schedule{wake: working}
		type item struct {
			at time.Duration
			n  int
		}
		var want []item
		names := map[*buffer]item{}
		var now time.Duration
		n := 0
		out := make([]*buffer, 0, 4)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				i := item{now + time.Duration(rapid.IntRange(0, 5).Draw(t, "delay")), n}
				b := &buffer{}
				names[b] = i
				n++
				want = append(want, i)
				slices.SortStableFunc(want, func(a, b item) int { return int(a.at - b.at) })
				q.add(i.at, b)
			},
			"due": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 3).Draw(t, "time"))
				got, until := q.due(now, out[:0])
				for _, b := range got {
					if names[b] != want[0] || want[0].at > now {
						t.Fatalf("%+v came out at %v, want %+v", names[b], now, want[0])
					}
					want = want[1:]
				}
				switch {
				case len(got) > 0:
				case len(want) == 0 && until != math.MaxInt64, len(want) > 0 && until != want[0].at:
					t.Fatalf("nothing until %v, left %+v", until, want)
				}
				q.wake = working // nobody waits
			},
		})
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h histogram
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(50*time.Second)), 1, 300).Draw(t, "durations")
		for _, v := range values {
			h.add(time.Duration(v))
		}
		slices.Sort(values)
		var sums [buckets]int64
		var longest time.Duration
		h.into(&sums, &longest)
		l := latenessOf(&sums, longest)
		if l.Count != int64(len(values)) || int64(l.Max) != values[len(values)-1] {
			t.Fatalf("%+v of %v", l, values)
		}
		for q, got := range map[float64]time.Duration{0.5: l.P50, 0.99: l.P99} {
			exact := values[int(q*float64(len(values)-1))]
			if int64(got) < exact || float64(got) > float64(exact)*1.125+1 {
				t.Fatalf("quantile %v is %v, want %v and an eighth at most", q, got, exact)
			}
		}
	})
}

// tcp is a segment.
func tcp(from, to *host, fromPort, toPort uint16, flags byte, seq, ack uint32, data int) []byte {
	f := make([]byte, etherHeader+20+20+data)
	b := header(f, from, to, protoTCP, 20+data)
	binary.BigEndian.PutUint16(b, fromPort)
	binary.BigEndian.PutUint16(b[2:], toPort)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	return f
}

// TestReset: each end is told with the number that it expects next, and again
// when it was another one after all; what is closed is left alone.
func TestReset(t *testing.T) {
	s, w := wires(t, 2, Config{})
	a, b := w[0], w[1]
	exchange := func(from, to *wire, f []byte) {
		t.Helper()
		from.send(f)
		if got := to.receive(); !bytes.Equal(got, f) {
			t.Fatalf("received %x, want %x", got, f)
		}
	}
	isn := uint32(math.MaxUint32 - 2) // numbers wrap
	exchange(a, b, tcp(a.host, b.host, 1000, 80, flagSYN, isn, 0, 0))
	exchange(b, a, tcp(b.host, a.host, 80, 1000, flagSYN|flagACK, 5000, isn+1, 0))
	exchange(a, b, tcp(a.host, b.host, 1000, 80, flagACK, isn+1, 5001, 10))
	exchange(a, b, tcp(a.host, b.host, 1000, 80, flagACK, isn+1, 5001, 10)) // once more: says nothing new
	exchange(b, a, tcp(b.host, a.host, 80, 1000, flagACK, 5001, isn+6, 0))  // it has half of it
	// Another one is closed from both sides.
	exchange(a, b, tcp(a.host, b.host, 1001, 80, flagFIN|flagACK, 1, 1, 0))
	exchange(b, a, tcp(b.host, a.host, 80, 1001, flagFIN|flagACK, 1, 2, 0))
	// A third has but a SYN, a fourth was refused.
	exchange(b, a, tcp(b.host, a.host, 7, 8, flagSYN, 99, 0, 0))
	exchange(b, a, tcp(b.host, a.host, 7, 9, flagSYN, 99, 0, 0))
	exchange(a, b, tcp(a.host, b.host, 9, 7, flagRST|flagACK, 0, 100, 0))
	// Rules do not hold up resets.
	apply(t, s, []Link{{"n0", "n1"}, {"n1", "n0"}}, Match{}, netem.Impairment{Cut: netem.Stopped})
	n, err := s.Reset([]Link{{"n1", "n0"}, {"n0", "n1"}})
	if err != nil || n != 3 {
		t.Errorf("reset %d connections, %v; want 3", n, err)
	}
	type rst struct {
		from, to uint16
		seq, ack uint32
	}
	read := func(w *wire) rst {
		t.Helper()
		f := w.receive()
		p := parse(f)
		ip := f[etherHeader:]
		if p.flags != flagRST|flagACK || checksum(0, ip[:20]) != 0 || checksum(pseudo(s.table.Load().byAddr[p.src], w.host, protoTCP, 20), ip[20:]) != 0 {
			t.Errorf("no reset with right checksums: %x", f)
		}
		return rst{p.from, p.to, p.seq, p.ack}
	}
	if got, want := read(a), (rst{80, 1000, 5001, 8}); got != want {
		t.Errorf("a got %+v, want %+v", got, want)
	}
	got := []rst{read(b), read(b), read(b), read(b)}
	for _, want := range []rst{
		{1000, 80, 3, 5001}, {1000, 80, 8, 5001}, // what it acknowledged, and all that was sent
		{8, 7, 0, 100}, {9, 7, 0, 100},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("b got %+v, want %+v among them", got, want)
		}
	}
	b.send(tcp(b.host, a.host, 80, 1000, flagACK, 5001, 5, 0)) // a challenge: it expects something else
	if got, want := read(b), (rst{1000, 80, 5, 5001}); got != want {
		t.Errorf("b got %+v, want %+v", got, want)
	}
	b.send(tcp(b.host, a.host, 80, 1000, flagRST, 5001, 0, 0))
	b.send(tcp(b.host, a.host, 80, 1000, flagACK, 5001, 5, 0))
	if n, err := s.Reset([]Link{{"n1", "n0"}}); n != 0 || err != nil {
		t.Errorf("reset %d connections again, %v", n, err)
	}
	if err := b.conn.SetReadDeadline(time.Now().Add(20 * ms)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("another %d bytes for an end that gave up", n)
	}
	if _, err := s.Reset([]Link{{"n1", "x"}}); err == nil {
		t.Error("reset a link that is not there")
	}
}

// TestFlows_Bound: connections that ended are forgotten first.
func TestFlows_Bound(t *testing.T) {
	var f flows
	p := packet{flags: flagSYN, dst: addr{1}}
	f.track(&p)
	for i := range 3 * maxFlows {
		p := packet{flags: flagACK | flagFIN, dst: addr{10, byte(i >> 16)}, from: uint16(i)}
		f.track(&p)
	}
	if len(f.m) > maxFlows || f.m[flowKey{peer: addr{1}}] == nil {
		t.Errorf("%d connections are remembered, the open one: %v", len(f.m), f.m[flowKey{peer: addr{1}}])
	}
	for i := range 3 * maxFlows {
		p := packet{flags: flagACK, dst: addr{11, byte(i >> 16)}, from: uint16(i)}
		f.track(&p)
	}
	if len(f.m) > maxFlows {
		t.Errorf("%d connections are remembered", len(f.m))
	}
}

func TestMatch(t *testing.T) {
	a, b := &host{addr: addr{10, 0, 0, 1}}, &host{addr: addr{10, 0, 0, 2}}
	syn, answer := tcp(a, b, 5, 80, flagSYN, 0, 0, 0), tcp(b, a, 80, 5, flagSYN|flagACK, 0, 0, 0)
	fragment := udp(a, b, 53, 0)
	fragment[etherHeader+7] = 8
	ping := make([]byte, etherHeader+28)
	header(ping, a, b, protoICMP, 8)
	for _, c := range []struct {
		m     Match
		frame []byte
		want  bool
	}{
		{Match{}, syn, true},
		{Match{}, []byte{1}, true},
		{Match{Proto: "tcp"}, syn, true},
		{Match{Proto: "udp"}, syn, false},
		{Match{Proto: "icmp"}, ping, true},
		{Match{Proto: "icmp"}, syn, false},
		{Match{Port: 80}, syn, true},
		{Match{Port: 80}, answer, true},
		{Match{Port: 5, Proto: "tcp"}, answer, true},
		{Match{Port: 81}, syn, false},
		{Match{Port: 80}, ping, false},
		{Match{SYN: true}, syn, true},
		{Match{SYN: true, Port: 80}, answer, false},
		{Match{SYN: true}, ping, false},
		{Match{Proto: "udp"}, fragment, true},
		{Match{Port: 53}, fragment, false},
		{Match{Port: 53}, udp(a, b, 53, 0), true},
		{Match{Port: 80}, syn[:40], false},
	} {
		p := parse(c.frame)
		if got := c.m.matches(&p); got != c.want {
			t.Errorf("%+v matches %x: %v", c.m, c.frame, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	a, b := &host{}, &host{}
	f.Add(tcp(a, b, 1, 2, flagSYN, 3, 4, 5))
	f.Add(udp(a, b, 53, 0))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if p := parse(frame); p.length > len(frame) || p.ports && p.proto != protoTCP && p.proto != protoUDP {
			t.Errorf("%+v", p)
		}
		answerARP(bytes.Clone(frame), func(addr) (mac, bool) { return mac{2}, true })
	})
}
