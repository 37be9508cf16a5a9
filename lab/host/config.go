//go:build linux

package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Config is what a host is. Name, Addr and Scratch are required.
type Config struct {
	// Name is the hostname. Domain, "lab" by default, is searched for names
	// without a dot.
	Name   string
	Domain string

	// Addr is the address of eth0 with the length of the network's prefix.
	// MAC is its hardware address; by default it is made from the address, see
	// MAC. MTU is 1500 by default, at least 576.
	Addr netip.Prefix
	MAC  net.HardwareAddr
	MTU  int

	// Gateway is where the default route goes; there is none without it.
	Gateway netip.Addr

	// Neighbors are hardware addresses that the host knows from the start and
	// for good, so that no fault of the network turns into one of ARP.
	Neighbors map[netip.Addr]net.HardwareAddr

	// Hosts are the lines of /etc/hosts beside localhost and the host itself.
	// DNS is the only name server; without it there is none.
	Hosts map[string]netip.Addr
	DNS   netip.Addr

	// Data and Log are the host's directories; they exist, and Data may be a
	// mount point. Processes start in Data unless they say otherwise. Both are
	// optional. Scratch is a directory of the host's own that no fault touches:
	// it is made if need be, and its tmp is what TMPDIR names.
	Data    string
	Log     string
	Scratch string

	// Private are directories over which the host has an empty tmpfs of its own,
	// beside /dev/shm. They must not hold Data, Log, Scratch or a program.
	Private []string

	// Clock puts the filter of lab/vclock on every process that is started, and
	// ClockListener gets its listener: Serve of a vclock.Clock that stays open
	// until the host is off. It runs in a goroutine of its own, owns the file, and
	// may stay for as long as that is open.
	Clock         bool
	ClockListener func(*os.File)

	// Stderr gets what the host's first process has to complain about. It is
	// kept for errors in any case.
	Stderr io.Writer
}

// MAC is the hardware address that belongs to an IPv4 address in the lab: locally
// administered, with the address in its last four bytes.
func MAC(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return net.HardwareAddr{0x02, 0x00, ip[0], ip[1], ip[2], ip[3]}
}

// Process is a program to run on a host.
type Process struct {
	// Name tells processes of the host apart; two that run cannot have the same.
	Name string

	// Argv is the program, looked up in PATH, and its arguments.
	Argv []string

	// Env is added to PATH, HOME, USER, LANG and TMPDIR; KEY=VALUE, the last
	// value of a key counts.
	Env []string

	// Dir is the working directory; Config.Data by default, or Scratch without.
	// It is made if it does not exist.
	Dir string

	// User is the name or number of whom the program runs as; "" is root. Where
	// the lab itself has no other users than root, the process sees itself as
	// that user and everything of the lab's as its own.
	User string

	// LogFile is opened for appending and gets stdout and stderr. Without it
	// Stdout and Stderr get them; what is nil goes to /dev/null. An *os.File is
	// handed to the process as it is.
	LogFile string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // exit code; -1 when a signal ended it
	Signal syscall.Signal // 0 when it exited
}

func (e Exit) String() string {
	if e.Signal != 0 {
		return "killed by " + signalName(e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// ErrRunning says that a process of that name runs already, ErrOff that the host
// is off.
var (
	ErrRunning = errors.New("is running already")
	ErrOff     = errors.New("the host is off")
)

// ExecError says why a program did not start.
type ExecError struct {
	Program string
	Reason  string
}

func (e *ExecError) Error() string { return e.Program + ": " + e.Reason }

// withDefaults fills in what was left out and reports every fault at once.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !validName(c.Name) {
		bad("name %q: want letters, digits and dashes, at most 63", c.Name)
	}
	if c.Domain == "" {
		c.Domain = "lab"
	}
	switch {
	case !c.Addr.IsValid() || !c.Addr.Addr().Is4():
		bad("address %v: want IPv4 with the length of its prefix", c.Addr)
	case c.MAC == nil:
		c.MAC = MAC(c.Addr.Addr())
	}
	if c.MAC != nil && len(c.MAC) != 6 {
		bad("hardware address %v: want six bytes", c.MAC)
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < 576 || c.MTU > 65521 {
		bad("MTU %d: want 576 to 65521", c.MTU)
	}
	if c.Gateway.IsValid() && c.Addr.IsValid() && !c.Addr.Contains(c.Gateway) {
		bad("gateway %v: not in %v", c.Gateway, c.Addr.Masked())
	}
	for ip, mac := range c.Neighbors {
		if !ip.Is4() || len(mac) != 6 {
			bad("neighbor %v %v: want IPv4 and six bytes", ip, mac)
		}
	}
	for name, ip := range c.Hosts {
		if strings.ContainsAny(name, " \t\n#") || !ip.IsValid() {
			bad("host %q %v: want a name and an address", name, ip)
		}
	}
	if c.Scratch == "" {
		bad("scratch: no directory")
	}
	for _, dir := range slices.Concat([]string{c.Data, c.Log, c.Scratch}, c.Private) {
		if dir != "" && !filepath.IsAbs(dir) {
			bad("directory %s: want an absolute path", dir)
		}
	}
	if c.Clock && c.ClockListener == nil {
		bad("clock: nobody takes the listeners")
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("host %s: %w", c.Name, err)
	}
	return c, nil
}

func validName(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for _, r := range name {
		if r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return true
}

func (p Process) check() error {
	switch {
	case p.Name == "":
		return errors.New("process without a name")
	case len(p.Argv) == 0 || p.Argv[0] == "":
		return fmt.Errorf("process %s: no program", p.Name)
	case p.LogFile != "" && (p.Stdout != nil || p.Stderr != nil):
		return fmt.Errorf("process %s: a log file and a writer", p.Name)
	}
	for _, kv := range p.Env {
		if i := strings.IndexByte(kv, '='); i < 1 {
			return fmt.Errorf("process %s: environment %q: want KEY=VALUE", p.Name, kv)
		}
	}
	return nil
}
