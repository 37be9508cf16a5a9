package netem

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sum is the Internet checksum, written as in RFC 1071.
func sum(parts ...[]byte) uint16 {
	var total uint32
	for _, b := range parts {
		for i := range b {
			if i%2 == 0 {
				total += uint32(b[i]) << 8
			} else {
				total += uint32(b[i])
			}
		}
	}
	for total>>16 != 0 {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}

// ipv4 makes a frame with right checksums.
func ipv4(proto byte, options int, data []byte, padding int) []byte {
	var l4 []byte
	at := 0
	switch proto {
	case protoTCP:
		l4, at = make([]byte, 32), 16
		l4[12] = 8 << 4
	case protoUDP:
		l4, at = make([]byte, 8), 6
	case protoICMP:
		l4, at = []byte{8, 0, 0, 0, 0, 1, 0, 1}, 2
	}
	l4 = slices.Concat(l4, data)
	if proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	ip := make([]byte, 20+options)
	ip[0], ip[8], ip[9] = byte(4<<4|len(ip)/4), 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
	copy(ip[12:], []byte{10, 77, 0, 11, 10, 77, 0, 12})
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	if proto != 0 {
		binary.BigEndian.PutUint16(l4[at:], transport(ip, l4))
	}
	f := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip...)
	f = append(f, l4...)
	return append(f, make([]byte, padding)...)
}

// transport is the checksum of what an IP packet carries, 0 if it is right.
func transport(ip, l4 []byte) uint16 {
	if ip[9] == protoICMP {
		return sum(l4)
	}
	c := sum(ip[12:20], []byte{0, ip[9]}, binary.BigEndian.AppendUint16(nil, uint16(len(l4))), l4)
	if ip[9] == protoUDP && c == 0 && binary.BigEndian.Uint16(l4[6:]) == 0 {
		return 0xffff
	}
	return c
}

func TestFlip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		proto := rapid.SampledFrom([]byte{protoTCP, protoUDP, protoICMP}).Draw(t, "protocol")
		data := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data")
		f := ipv4(proto, 4*rapid.IntRange(0, 3).Draw(t, "options"), data, rapid.IntRange(0, 10).Draw(t, "padding"))
		before := bytes.Clone(f)
		fix := rapid.Bool().Draw(t, "fix")
		if !flip(f, rapid.Uint64().Draw(t, "bit"), fix) {
			t.Fatal("nothing was flipped")
		}
		header := int(f[etherHeader]&15) * 4
		if !fix {
			n := 0
			for i := range f {
				n += bits.OnesCount8(f[i] ^ before[i])
			}
			if n != 1 || !bytes.Equal(f[:etherHeader], before[:etherHeader]) {
				t.Fatalf("%d bits were flipped:\n%x\n%x", n, before, f)
			}
			return
		}
		from, end, check := payload(before)
		if !bytes.Equal(before[from:end], data) {
			t.Fatalf("application data %x, want %x", before[from:end], data)
		}
		n := 0
		for i := range f {
			switch d := bits.OnesCount8(f[i] ^ before[i]); {
			case i == check || i == check+1:
			case i < from || i >= end:
				if d != 0 {
					t.Fatalf("byte %d is not the application's and was changed", i)
				}
			default:
				n += d
			}
		}
		ip := f[etherHeader:]
		l4 := ip[header:binary.BigEndian.Uint16(ip[2:])]
		if c := transport(ip, l4); n != 1 || c != 0 {
			t.Fatalf("%d bits flipped, checksum is wrong by %x:\n%x\n%x", n, c, before, f)
		}
	})
}

// TestFlip_KeepsWrongChecksums: what was found before is found afterwards.
func TestFlip_KeepsWrongChecksums(t *testing.T) {
	f := ipv4(protoTCP, 0, []byte("hello"), 0)
	f[etherHeader+20+16] ^= 0x40
	flip(f, 12345, true)
	if ip := f[etherHeader:]; transport(ip, ip[20:]) == 0 {
		t.Error("a checksum that was wrong became right")
	}
}

// TestFlip_NothingToFlip: where there is no data of an application, or no
// checksum that could be made to fit, the frame stays as it is.
func TestFlip_NothingToFlip(t *testing.T) {
	fragment := ipv4(protoTCP, 0, []byte("hello"), 0)
	fragment[etherHeader+6] = 0x20
	unchecked := ipv4(protoUDP, 0, []byte("hello"), 0)
	copy(unchecked[etherHeader+20+6:], []byte{0, 0})
	wrong := ipv4(protoTCP, 0, []byte("hello"), 0)
	wrong[etherHeader+20+12] = 0 // the data would begin before the header ends
	arp := make([]byte, 60)
	arp[12], arp[13] = 8, 6
	for name, f := range map[string][]byte{
		"no data": ipv4(protoTCP, 0, nil, 6), "fragment": fragment, "UDP without checksum": unchecked, "ARP": arp,
		"wrong header": wrong, "another protocol": ipv4(0, 0, []byte("hello"), 0), "short": arp[:20], "empty": nil,
	} {
		before := bytes.Clone(f)
		if flip(f, 1, true) || !bytes.Equal(f, before) {
			t.Errorf("%s: was flipped", name)
		}
	}
	if flip(make([]byte, etherHeader), 1, false) {
		t.Error("a frame without content was flipped")
	}
}

func FuzzFlip(f *testing.F) {
	f.Add(ipv4(protoTCP, 0, []byte("hello"), 0), uint64(1), true)
	f.Add(ipv4(protoUDP, 4, []byte("hello"), 3), uint64(99), true)
	f.Fuzz(func(t *testing.T, frame []byte, bit uint64, fix bool) {
		before := bytes.Clone(frame)
		if changed := flip(frame, bit, fix); changed == bytes.Equal(before, frame) {
			t.Errorf("says %v for %x → %x", changed, before, frame)
		}
	})
}
