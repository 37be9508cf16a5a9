package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// space is a network namespace, which is there as long as its thread.
type space struct {
	path string // of the namespace
	work chan func()
	done sync.WaitGroup
}

func newSpace() (*space, error) {
	s := &space{work: make(chan func())}
	made := make(chan error, 1)
	s.done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		s.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range s.work {
			f()
		}
	})
	if err := <-made; err != nil {
		s.close()
		return nil, fmt.Errorf("network namespace: %w (root is needed)", err)
	}
	if err := s.do(func() error { return up("lo") }); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// do runs f in the namespace.
func (s *space) do(f func() error) error {
	done := make(chan error, 1)
	s.work <- func() { done <- f() }
	return <-done
}

func (s *space) close() {
	close(s.work)
	s.done.Wait()
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// address configures eth0 of the i-th of two hosts, which knows the other.
func address(i int) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.LinkSetHardwareAddr(l, netMAC(i)),
		netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: netAddr(i).AsSlice(), Mask: net.CIDRMask(16, 32)}}),
		netlink.LinkSetUp(l),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: netAddr(1 - i).AsSlice(), HardwareAddr: netMAC(1 - i),
		}),
	)
}

func netAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(11 + i)}) }

func netMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 0x77, 0, 0, 0, byte(11 + i)} }

// tap makes eth0 a TAP.
func tap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq("eth0")
	if err != nil {
		return nil, err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "eth0"), nil
}

// received is how many frames eth0 was given.
func received() (n uint64, err error) {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return l.Attrs().Statistics.RxPackets, nil
}

// bridged connects two namespaces by veths and a bridge in a third.
func bridged(bridge *space, hosts [2]*space) error {
	return bridge.do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(br); err != nil {
			return err
		}
		for i, h := range hosts {
			ns, err := os.Open(h.path)
			if err != nil {
				return err
			}
			name := fmt.Sprintf("veth%d", i)
			err = netlink.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: br.Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd()),
			})
			if err == nil {
				err = up(name)
			}
			if err := errors.Join(err, ns.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}
