//go:build linux

package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunDevice makes network interfaces.
const tunDevice = "/dev/net/tun"

// queueLength is how many frames wait for the switch before the kernel drops
// them. It is the lab that loses those.
const queueLength = 1000

// nic is a network interface to be made in the namespace of this process.
type nic struct {
	name      string
	addr      netip.Prefix
	mac       net.HardwareAddr
	mtu       int
	gateway   netip.Addr
	neighbors map[netip.Addr]net.HardwareAddr
}

// sysctls of every network namespace of the lab. IPv6 is off, because nobody
// asked for what its autoconfiguration sends. What TCP learned of a peer during
// one fault is not kept for the connections after it. All else is the kernel's
// default, so that connections time out as they would elsewhere.
var sysctls = []struct{ name, value string }{
	{"ipv6/conf/all/disable_ipv6", "1"},
	{"ipv6/conf/default/disable_ipv6", "1"},
	{"ipv4/tcp_no_metrics_save", "1"},
}

func setSysctls() error {
	for _, s := range sysctls {
		err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

// loopback brings lo up.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return nil
}

// open makes the interface, up and with its neighbours and routes, and returns
// the other end and a netlink socket of the namespace.
func (n nic) open() (tap, control *os.File, err error) {
	tap, err = openTAP(n.name)
	if err != nil {
		return nil, nil, err
	}
	if err := n.configure(); err != nil {
		_ = tap.Close()
		return nil, nil, fmt.Errorf("%s: %w", n.name, err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		_ = tap.Close()
		return nil, nil, os.NewSyscallError("netlink socket", err)
	}
	return tap, os.NewFile(uintptr(fd), "netlink"), nil
}

func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: tunDevice, Err: err}
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (n nic) configure() error {
	link, err := netlink.LinkByName(n.name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	addr := &net.IPNet{IP: n.addr.Addr().AsSlice(), Mask: net.CIDRMask(n.addr.Bits(), 32)}
	steps := []struct {
		what string
		do   func() error
	}{
		{"hardware address", func() error { return netlink.LinkSetHardwareAddr(link, n.mac) }},
		{"MTU", func() error { return netlink.LinkSetMTU(link, n.mtu) }},
		{"queue", func() error { return netlink.LinkSetTxQLen(link, queueLength) }},
		{"address", func() error { return netlink.AddrAdd(link, &netlink.Addr{IPNet: addr}) }},
		{"up", func() error { return netlink.LinkSetUp(link) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	for ip, mac := range n.neighbors {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
			IP: ip.AsSlice(), HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("neighbor %v: %w", ip, err)
		}
	}
	if n.gateway.IsValid() {
		err := netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: n.gateway.AsSlice()})
		if err != nil {
			return fmt.Errorf("gateway %v: %w", n.gateway, err)
		}
	}
	return nil
}

// wire is what takes an interface away. Its descriptors are its own, and nobody
// reads or writes through them.
type wire struct {
	name    string
	tap     *os.File
	control *os.File // netlink socket in the interface's namespace
	once    sync.Once
	err     error
}

// cut stops every frame that the interface's side sends, from now on and without
// its noticing.
func (w *wire) cut() error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	prog := unix.SockFprog{Len: 1, Filter: &drop}
	raw, err := w.tap.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNATTACHFILTER, uintptr(unsafe.Pointer(&prog)))
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("filter of "+w.name, errno)
	}
	return err
}

// remove takes the interface away, so that whoever reads from it gets an error.
func (w *wire) remove() error {
	w.once.Do(func() {
		w.err = errors.Join(w.unlink(), w.control.Close(), w.tap.Close())
	})
	return w.err
}

// unlink removes the link by its name, through a socket that may be of another
// namespace than this process's.
func (w *wire) unlink() error {
	name := append([]byte(w.name), 0)
	for len(name)%4 != 0 {
		name = append(name, 0)
	}
	attr := unix.SizeofRtAttr + len(w.name) + 1
	const head = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	msg := make([]byte, head+unix.SizeofRtAttr, head+unix.SizeofRtAttr+len(name))
	msg = append(msg, name...)
	order := binary.NativeEndian
	order.PutUint32(msg[0:], uint32(len(msg)))
	order.PutUint16(msg[4:], unix.RTM_DELLINK)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	order.PutUint16(msg[head:], uint16(attr))
	order.PutUint16(msg[head+2:], unix.IFLA_IFNAME)

	raw, err := w.control.SyscallConn()
	if err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n := 0
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.Sendto(int(fd), msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); failed == nil {
			n, _, failed = unix.Recvfrom(int(fd), answer, 0)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("remove interface %s: %w", w.name, err)
	}
	if n >= unix.SizeofNlMsghdr+4 && order.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-int32(order.Uint32(answer[unix.SizeofNlMsghdr:])))
		if errno != 0 && errno != unix.ENODEV {
			return fmt.Errorf("remove interface %s: %w", w.name, errno)
		}
	}
	return nil
}

// Interface is a network interface of the lab itself. Its methods may be called
// concurrently.
type Interface struct {
	wire *wire
	tap  *os.File
}

// InterfaceConfig says what it is. Name and Addr are required.
type InterfaceConfig struct {
	Name      string // "lab0"
	Addr      netip.Prefix
	MAC       net.HardwareAddr // default: MAC(Addr)
	MTU       int              // default: 1500
	Neighbors map[netip.Addr]net.HardwareAddr
}

// LabInterface makes an interface in the network namespace of the calling
// process, which should be the supervising one, and brings it up.
func LabInterface(ctx context.Context, cfg InterfaceConfig) (*Interface, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// It is the interface of a host that has no more than that.
	c, err := Config{
		Name: cfg.Name, Addr: cfg.Addr, MAC: cfg.MAC, MTU: cfg.MTU, Neighbors: cfg.Neighbors, Scratch: "/",
	}.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := setSysctls(); err != nil {
		return nil, err
	}
	tap, control, err := nic{name: c.Name, addr: c.Addr, mac: c.MAC, mtu: c.MTU, neighbors: c.Neighbors}.open()
	if err != nil {
		return nil, err
	}
	w := &wire{name: c.Name, tap: tap, control: control}
	if tap, err = dup(tap); err != nil {
		return nil, errors.Join(err, w.remove())
	}
	return &Interface{w, tap}, nil
}

// TAP is the other end of the interface, as Host.TAP is that of a host. Who makes
// the interface closes it.
func (i *Interface) TAP() *os.File { return i.tap }

// Close removes the interface: reads and writes of its other end fail.
func (i *Interface) Close() error { return i.wire.remove() }
