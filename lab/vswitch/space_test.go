//go:build linux

package vswitch

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
)

// space is a network namespace with an eth0 that is a TAP. Functions run on its
// thread; sockets that they make belong to it.
type space struct {
	name string
	addr netip.Addr
	mac  net.HardwareAddr
	tap  *os.File
	work chan func()
	done sync.WaitGroup
}

func hostAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + i)}) }

func hostMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 0x77, 0, 0, 0, byte(10 + i)} }

// newSpace makes the i-th of n hosts, which knows the addresses of the others.
func newSpace(t *testing.T, i, n int) *space {
	t.Helper()
	s := &space{name: fmt.Sprintf("n%d", i), addr: hostAddr(i), mac: hostMAC(i), work: make(chan func())}
	failed := make(chan error, 1)
	s.done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.tap, err = eth0(s.addr, s.mac, i, n)
		}
		failed <- err
		for f := range s.work {
			f()
		}
	})
	t.Cleanup(func() {
		close(s.work)
		s.done.Wait()
	})
	if err := <-failed; err != nil {
		t.Fatalf("namespace %d: %v", i, err)
	}
	return s
}

// eth0 makes the device in the namespace of this thread.
func eth0(addr netip.Addr, mac net.HardwareAddr, i, n int) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq("eth0")
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetHardwareAddr(link, mac) },
		func() error {
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(16, 32)}})
		},
		func() error { return netlink.LinkSetUp(link) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	for o := range n {
		if o == i {
			continue
		}
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: hostAddr(o).AsSlice(), HardwareAddr: hostMAC(o),
		}); err != nil {
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), "eth0"), nil
}

// do runs f on the namespace's thread.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// spaces makes n hosts on a switch that runs.
func spaces(t *testing.T, n int, c Config) (*Switch, []*space) {
	t.Helper()
	labtest.Devices(t)
	s := New(c)
	var hosts []*space
	for i := range n {
		h := newSpace(t, i, n)
		hosts = append(hosts, h)
		if err := s.Attach(Port{Name: h.name, Addr: h.addr, MAC: h.mac, TAP: h.tap}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, hosts
}

// echo serves TCP on a host: it sends back what it gets.
func (s *space) echo(t *testing.T) string {
	t.Helper()
	var l net.Listener
	var err error
	s.do(func() { l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", s.addr.String()+":0") })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close() //nolint:errcheck // nothing can be done
				_, _ = io.Copy(c, c)
			})
			t.Cleanup(func() { _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func (s *space) dial(t *testing.T, to string, timeout time.Duration) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	var err error
	s.do(func() { c, err = (&net.Dialer{Timeout: timeout}).DialContext(context.Background(), "tcp4", to) })
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}
