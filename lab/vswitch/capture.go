//go:build linux

package vswitch

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// capture writes frames in the pcapng format (draft-ietf-opsawg-pcapng), with an
// interface for each host, which has what the host sent and what it was sent,
// and one for rules. The data path never waits for it: what it cannot keep up
// with is missing and counted.
type capture struct {
	w     *bufio.Writer
	begin time.Time
	queue chan *record
	quit  chan struct{}
	ended sync.Once
	lost  atomic.Int64
	pool  sync.Pool

	mu    sync.Mutex
	faces int
	names []byte // blocks of interfaces, in order, that are not yet written
}

// record is a frame to be written.
type record struct {
	at      time.Duration
	face    int
	flags   uint32
	data    []byte
	comment string
}

const (
	inbound  = 1 // from the host to the switch, in the words of epb_flags
	outbound = 2

	linkEthernet   = 1
	etherEvent     = 0x88b5 // IEEE 802: for local experiments
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockNames     = 4
	blockPacket    = 6
)

func newCapture(w io.Writer, begin time.Time) *capture {
	c := &capture{w: bufio.NewWriterSize(w, 1<<16), begin: begin, queue: make(chan *record, 1<<13), quit: make(chan struct{})}
	c.pool.New = func() any { return &record{} }
	c.names = appendBlock(nil, blockSection, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint32(b, 0x1a2b3c4d)
		b = binary.LittleEndian.AppendUint16(b, 1)
		b = binary.LittleEndian.AppendUint16(b, 0)
		b = binary.LittleEndian.AppendUint64(b, math.MaxUint64) // its length is not said
		b = appendOption(b, 4, []byte("holdfast lab"))
		return appendOption(b, 0, nil)
	})
	c.add("rules", "what the lab did to the network", nil)
	return c
}

// add makes an interface, and returns its number.
func (c *capture) add(name, about string, h *host) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = appendBlock(c.names, blockInterface, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint16(b, linkEthernet)
		b = binary.LittleEndian.AppendUint16(b, 0)
		b = binary.LittleEndian.AppendUint32(b, 0) // whole frames
		b = appendOption(b, 2, []byte(name))
		b = appendOption(b, 3, []byte(about))
		if h != nil {
			b = appendOption(b, 4, append(h.addr[:], 255, 255, 0, 0))
			b = appendOption(b, 6, h.mac[:])
		}
		b = appendOption(b, 9, []byte{9}) // times in nanoseconds
		return appendOption(b, 0, nil)
	})
	if h != nil {
		c.names = appendBlock(c.names, blockNames, func(b []byte) []byte {
			b = appendOption(b, 1, append(append(h.addr[:len(h.addr):len(h.addr)], h.name...), 0))
			b = appendOption(b, 0, nil) // the end of the records
			return appendOption(b, 0, nil)
		})
	}
	c.faces++
	return c.faces - 1
}

// face is the interface of a host.
func (c *capture) face(h *host) int {
	if c == nil {
		return 0
	}
	return c.add(h.name, "eth0 of "+h.name, h)
}

// copy is a record of a frame as it is now.
func (c *capture) copy(s *Switch, face int, flags uint32, frame []byte) *record {
	if c == nil {
		return nil
	}
	r := c.pool.Get().(*record)
	r.at, r.face, r.flags, r.comment = s.now(), face, flags, ""
	r.data = append(r.data[:0], frame...)
	return r
}

// put hands a record over to the writer.
func (c *capture) put(r *record) {
	if c == nil || r == nil {
		return
	}
	select {
	case c.queue <- r:
	default:
		c.lost.Add(1)
		c.pool.Put(r)
	}
}

func (c *capture) frame(s *Switch, face int, flags uint32, frame []byte, comment string) {
	if c == nil {
		return
	}
	r := c.copy(s, face, flags, frame)
	r.comment = comment
	c.put(r)
}

// event is a frame that says what happened to the rules.
func (c *capture) event(s *Switch, text string) {
	if c == nil {
		return
	}
	frame := make([]byte, etherHeader, etherHeader+len(text))
	binary.BigEndian.PutUint16(frame[12:], etherEvent)
	c.frame(s, 0, 0, append(frame, text...), text)
}

func (c *capture) missing() int64 {
	if c == nil {
		return 0
	}
	return c.lost.Load()
}

func (c *capture) end() {
	if c != nil {
		c.ended.Do(func() { close(c.quit) })
	}
}

// run writes until end is called and all is written. After an error it only
// counts.
func (c *capture) run() error {
	var failed error
	var b []byte
	write := func(r *record) {
		b = c.blocks(b[:0], r)
		if failed == nil {
			_, failed = c.w.Write(b)
		}
		if failed != nil && r != nil {
			c.lost.Add(1)
		}
		if r != nil {
			c.pool.Put(r)
		}
	}
	write(nil)
	for {
		select {
		case r := <-c.queue:
			write(r)
			continue
		default:
		}
		if failed == nil {
			failed = c.w.Flush()
		}
		select {
		case r := <-c.queue:
			write(r)
		case <-c.quit:
			for {
				select {
				case r := <-c.queue:
					write(r)
					continue
				default:
				}
				write(nil)
				if failed == nil {
					failed = c.w.Flush()
				}
				return failed
			}
		}
	}
}

// blocks is the blocks of new interfaces and of a record.
func (c *capture) blocks(b []byte, r *record) []byte {
	c.mu.Lock()
	b = append(b, c.names...)
	c.names = c.names[:0]
	c.mu.Unlock()
	if r == nil {
		return b
	}
	return appendBlock(b, blockPacket, func(b []byte) []byte {
		at := uint64(c.begin.Add(r.at).UnixNano())
		b = binary.LittleEndian.AppendUint32(b, uint32(r.face))
		b = binary.LittleEndian.AppendUint32(b, uint32(at>>32))
		b = binary.LittleEndian.AppendUint32(b, uint32(at))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r.data)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r.data)))
		b = pad(append(b, r.data...), len(r.data))
		if r.comment != "" {
			b = appendOption(b, 1, []byte(r.comment))
		}
		if r.flags != 0 {
			b = appendOption(b, 2, binary.LittleEndian.AppendUint32(nil, r.flags))
		}
		if r.comment != "" || r.flags != 0 {
			b = appendOption(b, 0, nil)
		}
		return b
	})
}

// appendBlock appends a block with its two lengths.
func appendBlock(b []byte, kind uint32, body func([]byte) []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = body(b)
	length := uint32(len(b) - start + 4)
	binary.LittleEndian.PutUint32(b[start+4:], length)
	return binary.LittleEndian.AppendUint32(b, length)
}

// appendOption appends an option, or a record of names, which has the same form.
func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...), len(value))
}

// pad fills up to four bytes.
func pad(b []byte, n int) []byte {
	for ; n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}
