package netem

import "encoding/binary"

const (
	etherHeader = 14 // of an untagged frame
	etherIPv4   = 0x0800

	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

// flip flips one bit after the Ethernet header, which the receiver's checksums
// find. With fix it is a bit of what the application sent, and the checksum is
// made to fit as if the sender had computed it afterwards, so that only the
// application can find it. It returns false when there is no such bit.
func flip(frame []byte, random uint64, fix bool) bool {
	from, check := etherHeader, -1
	if fix {
		var end int
		if from, end, check = payload(frame); check < 0 {
			return false
		}
		frame = frame[:end]
	}
	if from >= len(frame) {
		return false
	}
	bit := random % uint64(8*(len(frame)-from))
	at := from + int(bit/8)
	before := word(frame, at)
	frame[at] ^= 1 << (bit % 8)
	if check >= 0 {
		adjust(frame[check:], before, word(frame, at))
		if udp := frame[etherHeader+9] == protoUDP; udp && binary.BigEndian.Uint16(frame[check:]) == 0 {
			binary.BigEndian.PutUint16(frame[check:], 0xffff) // RFC 768: 0 is no checksum
		}
	}
	return true
}

// word is the 16 bits of a checksum's sum that byte i is in: headers have even
// lengths, so that words begin at even places.
func word(frame []byte, i int) uint16 {
	w := uint16(frame[i&^1]) << 8
	if i|1 < len(frame) {
		w |= uint16(frame[i|1])
	}
	return w
}

// adjust changes a checksum for a word that was changed (RFC 1624, equation 3).
// A checksum that was wrong before stays as wrong.
func adjust(check []byte, before, after uint16) {
	sum := uint32(^binary.BigEndian.Uint16(check)) + uint32(^before) + uint32(after)
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(check, ^uint16(sum))
}

// payload is where in a frame the data of a TCP segment, UDP datagram or ICMP
// message begins and ends, and where the checksum is that covers it; check is
// negative when the frame is no such thing whole, has no data, or has no
// checksum.
func payload(frame []byte) (from, end, check int) {
	if len(frame) < etherHeader+20 || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return 0, 0, -1
	}
	ip := frame[etherHeader:]
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	fragment := binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
	if ip[0]>>4 != 4 || header < 20 || total < header || total > len(ip) || fragment {
		return 0, 0, -1
	}
	l4, end := etherHeader+header, etherHeader+total
	data := 8
	switch ip[9] {
	case protoTCP:
		if check = l4 + 16; end < l4+20 {
			return 0, 0, -1
		}
		if data = int(frame[l4+12]>>4) * 4; data < 20 {
			return 0, 0, -1
		}
	case protoUDP:
		if check = l4 + 6; end >= l4+8 && binary.BigEndian.Uint16(frame[check:]) == 0 {
			return 0, 0, -1
		}
	case protoICMP:
		check = l4 + 2
	default:
		return 0, 0, -1
	}
	if from = l4 + data; from >= end {
		return 0, 0, -1
	}
	return from, end, check
}
