//go:build linux

package vswitch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/netem"
)

// captured is a packet of a pcapng file, read as the specification has it.
type captured struct {
	face    string
	at      time.Time
	flags   uint32
	data    []byte
	comment string
}

// readCapture reads all blocks, and fails for what is not as it has to be.
func readCapture(t *testing.T, b []byte) (packets []captured, names map[string]string) {
	t.Helper()
	le := binary.LittleEndian
	names = map[string]string{}
	var faces []string
	options := func(b []byte) map[uint16][]byte {
		m := map[uint16][]byte{}
		for len(b) > 0 {
			code, n := le.Uint16(b), int(le.Uint16(b[2:]))
			if code == 0 {
				if n != 0 || len(b) != 4 {
					t.Fatalf("%d bytes after the end of options", len(b)-4)
				}
				return m
			}
			m[code] = b[4 : 4+n]
			b = b[4+(n+3)/4*4:]
		}
		return m
	}
	for first := true; len(b) > 0; first = false {
		kind, n := le.Uint32(b), le.Uint32(b[4:])
		if n%4 != 0 || int(n) > len(b) || le.Uint32(b[n-4:]) != n || first != (kind == 0x0a0d0d0a) {
			t.Fatalf("block %x of %d bytes", kind, n)
		}
		body := b[8 : n-4]
		b = b[n:]
		switch kind {
		case 0x0a0d0d0a:
			if le.Uint32(body) != 0x1a2b3c4d || le.Uint16(body[4:]) != 1 || le.Uint16(body[6:]) != 0 || le.Uint64(body[8:]) != 1<<64-1 {
				t.Fatalf("section header %x", body)
			}
			options(body[16:])
		case 1:
			o := options(body[8:])
			if le.Uint16(body) != 1 || !bytes.Equal(o[9], []byte{9}) {
				t.Fatalf("interface %x", body)
			}
			faces = append(faces, string(o[2]))
		case 4:
			if le.Uint16(body) != 1 {
				t.Fatalf("names %x", body)
			}
			record := body[4 : 4+le.Uint16(body[2:])]
			names[string(record[:4])] = string(record[4:])
		case 6:
			size := le.Uint32(body[12:])
			if le.Uint32(body[16:]) != size {
				t.Fatalf("packet %x", body)
			}
			o := options(body[20+(size+3)/4*4:])
			p := captured{
				face: faces[le.Uint32(body)], data: body[20 : 20+size], comment: string(o[1]),
				at: time.Unix(0, int64(le.Uint32(body[4:]))<<32|int64(le.Uint32(body[8:]))),
			}
			if f := o[2]; f != nil {
				p.flags = le.Uint32(f)
			}
			packets = append(packets, p)
		default:
			t.Fatalf("block of type %d", kind)
		}
	}
	return packets, names
}

func TestCapture(t *testing.T) {
	var file bytes.Buffer
	begin := time.Now()
	s, w := wires(t, 2, Config{Capture: &file, Seed: 1})
	a, b := w[0], w[1]
	a.send(udp(a.host, b.host, 7, 1))
	b.number()
	cut := apply(t, s, []Link{{"n0", "n1"}}, Match{Port: 53}, netem.Impairment{Cut: netem.Stopped})
	a.send(udp(a.host, b.host, 53, 2))
	waitFor(t, func() bool { return cut.Touched() == 1 })
	cut.Remove()
	flip := apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Corrupt: 1, Duplicate: 1})
	a.send(udp(a.host, b.host, 7, 3))
	b.receive()
	b.receive()
	flip.Remove()
	slow := apply(t, s, []Link{{"n0", "n1"}}, Match{}, netem.Impairment{Rate: 1000, Limit: 1, Delay: ms})
	a.send(udp(a.host, b.host, 7, 4))
	a.send(udp(a.host, b.host, 7, 5))
	waitFor(t, func() bool { return slow.Counters().DroppedQueue == 1 })
	jam := apply(t, s, []Link{{"n1", "n0"}}, Match{}, netem.Impairment{Cut: netem.Jammed})
	b.send(udp(b.host, a.host, 7, 6))
	waitFor(t, func() bool { return jam.Touched() == 1 })
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	packets, names := readCapture(t, file.Bytes())
	var got []string
	last := begin
	for _, p := range packets {
		text := p.face + " " + map[uint32]string{0: "says", inbound: "sent", outbound: "got"}[p.flags]
		if p.flags != 0 {
			text += " " + string('0'+p.data[len(p.data)-1])
		}
		if strings.Contains(p.comment, "corrupted") || p.flags == outbound && p.data[len(p.data)-1] > 9 {
			text = p.face + " corrupted"
		}
		got = append(got, strings.TrimSpace(text+" "+p.comment))
		if p.at.Before(last.Add(-time.Second)) || p.at.After(time.Now().Add(time.Second)) {
			t.Errorf("packet at %v, the one before at %v", p.at, last)
		}
		last = p.at
	}
	for _, want := range []string{
		"n0 sent 1", "n1 got 1",
		"rules says rule 1: port 53 stopped: applied to n0→n1",
		"n0 sent 2 dropped: link is cut (rule 1: port 53 stopped)",
		"rules says rule 1: port 53 stopped: removed",
		"n0 corrupted corrupted, duplicated, corrupted",
		"rules says dropped: the queue is full (rule 3: delay 1ms rate 1000bit/s limit 1)",
		"n1 sent 6 held by a jam",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if names[string(a.host.addr[:])] != "n0\x00" {
		t.Errorf("names %q", names)
	}
	if t.Failed() {
		t.Logf("captured:\n%s", strings.Join(got, "\n"))
	}
	if n := s.Health().Uncaptured; n != 0 {
		t.Errorf("%d frames are missing", n)
	}
	t.Run("tcpdump", func(t *testing.T) {
		tcpdump := labtest.Server(t, "tcpdump", "tcpdump")
		name := filepath.Join(t.TempDir(), "lab.pcapng")
		if err := os.WriteFile(name, file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), tcpdump, "-n", "-r", name).CombinedOutput()
		lines := 0
		for l := range strings.Lines(string(out)) {
			if l[0] >= '0' && l[0] <= '9' { // the others are content
				lines++
			}
		}
		if err != nil || lines != len(packets) {
			t.Errorf("tcpdump reads %d packets of %d, %v:\n%s", lines, len(packets), err, out)
		}
	})
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestCapture_Fails: the network goes on when the capture cannot.
func TestCapture_Fails(t *testing.T) {
	s, w := wires(t, 2, Config{Capture: broken{}})
	for i := range uint32(100) {
		w[0].send(udp(w[0].host, w[1].host, 7, i))
		w[1].number()
	}
	waitFor(t, func() bool { return s.Health().Uncaptured >= 100 })
}
