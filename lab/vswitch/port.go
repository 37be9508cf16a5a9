//go:build linux

package vswitch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Port is where a host is plugged in.
type Port struct {
	Name string             // of the host; "lab" is the runner's own
	Addr netip.Addr         // IPv4
	MAC  net.HardwareAddr   // frames to it go to this port
	TAP  io.ReadWriteCloser // one frame for each Read and Write; an *os.File is put into non-blocking mode
}

// host is what stays of a port when it is unplugged.
type host struct {
	name  string
	addr  addr
	mac   mac
	index int
	face  int                  // its interface in the capture
	port  atomic.Pointer[port] // nil while it is unplugged
	flows flows
	lost  atomic.Int64 // frames to nobody: broadcasts, unknown addresses
}

// port is a TAP in use.
type port struct {
	host    *host
	tap     io.ReadWriteCloser
	fd      int // -1 when the TAP is no file
	bell    int // an eventfd that ends the wait of the reader
	stopped atomic.Bool
	read    chan struct{} // closed when the reader ended
	users   atomic.Int64  // writers at work; far below zero when there may be no more
	idle    chan struct{} // closed when no writer will come any more
}

const barred = -1 << 40

// gone is the errors of a TAP whose interface is down or is no more, and of a
// socket without its peer.
var gone = []unix.Errno{unix.EIO, unix.EBADFD, unix.EPIPE, unix.ECONNREFUSED, unix.ECONNRESET, unix.ENOTCONN}

var errDown = errors.New("unplugged")

func plug(h *host, tap io.ReadWriteCloser) (*port, error) {
	p := &port{host: h, tap: tap, fd: -1, bell: -1, read: make(chan struct{}), idle: make(chan struct{})}
	f, ok := tap.(*os.File)
	if !ok {
		return p, nil
	}
	// A descriptor of its own, which nobody else closes while it is in use.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("set nonblock", err), unix.Close(fd))
	}
	p.fd = fd
	if p.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), unix.Close(fd))
	}
	return p, nil
}

// write sends a frame to the host. It does not block if the TAP is a file.
func (p *port) write(frame []byte) error {
	defer func() {
		if p.users.Add(-1) == barred {
			close(p.idle)
		}
	}()
	if p.users.Add(1) < 0 {
		return errDown
	}
	if p.fd < 0 {
		if _, err := p.tap.Write(frame); err != nil {
			return errDown
		}
		return nil
	}
	for {
		// Raw: the call is short, and must not lose its turn in the Go scheduler.
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(p.fd), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)))
		switch {
		case errno == 0:
			return nil
		case errno == unix.EINTR:
		case slices.Contains(gone, errno):
			return errDown
		default:
			return errno
		}
	}
}

// next reads a frame; 0 is the end.
func (p *port) next(b []byte) int {
	for !p.stopped.Load() {
		if p.fd < 0 {
			n, err := p.tap.Read(b)
			if err != nil {
				return 0
			}
			if n > 0 {
				return n
			}
			continue
		}
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(p.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == 0 {
			return int(n)
		}
		if errno == unix.EAGAIN {
			fds := [2]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(p.bell), Events: unix.POLLIN}}
			_, _ = unix.Ppoll(fds[:], nil, nil) // whatever it says, the next read knows
		} else if errno != unix.EINTR {
			return 0
		}
	}
	return 0
}

// serve reads what the host sends until it is unplugged or its TAP is gone.
func (s *Switch) serve(p *port) {
	defer close(p.read)
	if p.fd >= 0 {
		s.urgent()
	}
	in := &intake{s: s, from: p.host}
	b := s.buffer()
	for {
		n := p.next(b.data)
		if n == 0 {
			break
		}
		b.n = n
		if !in.take(b) {
			b = s.buffer()
		}
	}
	s.free(b)
	if !p.stopped.Load() {
		s.config.Log.LogAttrs(context.Background(), slog.LevelInfo, "port ended", slog.String("host", p.host.name))
	}
}

// unplug ends the reader, waits until nobody uses the TAP, and closes it.
func (p *port) unplug(started bool) error {
	p.host.port.CompareAndSwap(p, nil)
	p.stopped.Store(true)
	var err error
	if p.fd < 0 {
		err = p.tap.Close() // ends a Read that waits
	} else {
		one := [8]byte{1}
		_, _ = unix.Write(p.bell, one[:])
	}
	if started {
		<-p.read
	}
	if p.users.Add(barred) == barred {
		close(p.idle)
	}
	<-p.idle
	if p.fd >= 0 {
		_ = unix.Close(p.bell)
		err = unix.Close(p.fd)
		if e := p.tap.Close(); !errors.Is(e, os.ErrClosed) { // its owner may have been first
			err = errors.Join(err, e)
		}
	}
	return err
}
