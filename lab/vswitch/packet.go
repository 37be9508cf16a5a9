//go:build linux

package vswitch

import (
	"encoding/binary"
	"fmt"
	"net"
)

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806

	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// mac is the address of an Ethernet interface.
type mac [6]byte

func macOf(a net.HardwareAddr) mac { return mac(a) }

// addr is an IPv4 address.
type addr [4]byte

// packet is what the headers of a frame say. What a frame does not have is zero.
type packet struct {
	ether    uint16
	proto    uint8 // of IPv4
	src, dst addr
	ports    bool // it has those of TCP or UDP
	from, to uint16
	flags    uint8 // of TCP
	seq, ack uint32
	length   int // of the data in a TCP segment
}

// parse reads the headers of a frame; a frame that breaks off has what is there.
func parse(frame []byte) (p packet) {
	if len(frame) < etherHeader {
		return p
	}
	p.ether = binary.BigEndian.Uint16(frame[12:])
	if p.ether != etherIPv4 || len(frame) < etherHeader+20 {
		return p
	}
	ip := frame[etherHeader:]
	p.proto, p.src, p.dst = ip[9], addr(ip[12:]), addr(ip[16:])
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	later := binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 // a fragment that is not the first
	if ip[0]>>4 != 4 || header < 20 || total > len(ip) || later {
		return p
	}
	switch {
	case p.proto == protoUDP && total >= header+8:
	case p.proto == protoTCP && total >= header+20:
		tcp := ip[header:total]
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:]), tcp[13]
		p.length = max(0, len(tcp)-int(tcp[12]>>4)*4)
	default:
		return p
	}
	p.ports = true
	p.from, p.to = binary.BigEndian.Uint16(ip[header:]), binary.BigEndian.Uint16(ip[header+2:])
	return p
}

// Match narrows a rule to some frames; the zero value is all of them.
type Match struct {
	Proto string // tcp, udp, icmp, "" for all
	Port  int    // source or destination of TCP or UDP; 0 is all. Fragments but the first have none
	SYN   bool   // only the SYN that opens a TCP connection
}

func (m Match) validate() error {
	switch m.Proto {
	case "", "tcp", "udp", "icmp":
	default:
		return fmt.Errorf("match: protocol %q: want tcp, udp, icmp or none", m.Proto)
	}
	if m.Port < 0 || m.Port > 65535 {
		return fmt.Errorf("match: port %d: not in 0 to 65535", m.Port)
	}
	if m.SYN && m.Proto != "" && m.Proto != "tcp" || m.Port > 0 && m.Proto == "icmp" {
		return fmt.Errorf("match: %s has no such thing", m.Proto)
	}
	return nil
}

func (m Match) matches(p *packet) bool {
	switch m.Proto {
	case "tcp":
		if p.proto != protoTCP {
			return false
		}
	case "udp":
		if p.proto != protoUDP {
			return false
		}
	case "icmp":
		if p.proto != protoICMP {
			return false
		}
	}
	if m.Port != 0 && (!p.ports || int(p.from) != m.Port && int(p.to) != m.Port) {
		return false
	}
	return !m.SYN || p.proto == protoTCP && p.ports && p.flags&(flagSYN|flagACK) == flagSYN
}

// answerARP turns a request for an address into the reply that its owner would
// give, in place. It is false when the frame is no request that has an answer.
func answerARP(frame []byte, owner func(addr) (mac, bool)) bool {
	if len(frame) < etherHeader+28 {
		return false
	}
	arp := frame[etherHeader:]
	if binary.BigEndian.Uint64(arp) != 0x0001_0800_06_04_0001 { // Ethernet, IPv4, their lengths, request
		return false
	}
	sender, target := addr(arp[14:]), addr(arp[24:])
	is, ok := owner(target)
	if !ok || sender == target {
		return false
	}
	asker := mac(arp[8:])
	copy(frame, asker[:])
	copy(frame[6:], is[:])
	arp[7] = 2
	copy(arp[18:], arp[8:18]) // who asked is the target of the reply
	copy(arp[8:], is[:])
	copy(arp[14:], target[:])
	return true
}

// checksum is the Internet checksum of the bytes, with a sum to begin with.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// header writes the Ethernet and IPv4 headers of a packet with so many bytes
// after them, and returns where those go.
func header(frame []byte, from, to *host, proto uint8, length int) []byte {
	copy(frame, to.mac[:])
	copy(frame[6:], from.mac[:])
	binary.BigEndian.PutUint16(frame[12:], etherIPv4)
	ip := frame[etherHeader : etherHeader+20]
	clear(ip)
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(20+length))
	ip[6] = 0x40 // do not fragment
	copy(ip[12:], from.addr[:])
	copy(ip[16:], to.addr[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	return frame[etherHeader+20 : etherHeader+20+length]
}

// pseudo is the sum of the pseudo header that TCP's checksum covers.
func pseudo(from, to *host, proto uint8, length int) uint32 {
	word := func(b []byte) uint32 { return uint32(b[0])<<8 | uint32(b[1]) }
	return word(from.addr[:]) + word(from.addr[2:]) + word(to.addr[:]) + word(to.addr[2:]) + uint32(proto) + uint32(length)
}
