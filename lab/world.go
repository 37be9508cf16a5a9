//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev/lab/dns"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/nemesis"
	"holdfast.dev/lab/netem"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/vswitch"
)

// The lab's network: the lab itself is .0.1, nodes follow 10.77.0.10, clients
// 10.77.0.100.
var (
	subnet  = netip.MustParsePrefix("10.77.0.0/16")
	labAddr = netip.MustParseAddr("10.77.0.1")
)

// Our own port at the switch, where clients and the name server are.
const (
	labName      = "lab"
	labInterface = "lab0"
)

func nodeAddr(i int) netip.Addr   { return netip.AddrFrom4([4]byte{10, 77, 0, byte(11 + i)}) }
func clientAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(101 + i)}) }

// world is everything a run consists of: machines, the network between them, and
// the system on them. It implements nemesis.World and driver.Env.
type world struct {
	ctx      context.Context // of the whole run: processes and goroutines end with it
	plan     *Plan
	dir      string
	system   driver.System
	debug    io.Writer // lab.log in the run's directory
	finding  func(host, text string)
	failure  func(host, text string) // of the lab itself
	logf     func(format string, args ...any)
	now      func() time.Duration
	tasks    sync.WaitGroup // goroutines that watch processes
	machines []*machine
	net      *network
	dns      *dns.Server
	resource *http.Server
	capture  *os.File
	iface    *host.Interface
}

// populate says which machines there will be.
func (w *world) populate() {
	s := w.plan.Scenario
	for i, name := range s.Nodes() {
		w.machines = append(w.machines, newMachine(w, name, "node", nodeAddr(i)))
	}
	for i, name := range s.ClientHosts() {
		w.machines = append(w.machines, newMachine(w, name, "client", clientAddr(i)))
	}
}

// build makes the network and the machines, all at once.
func (w *world) build(ctx context.Context) error {
	if err := w.buildNetwork(ctx); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	errs := make([]error, len(w.machines))
	var all sync.WaitGroup
	for i, m := range w.machines {
		all.Go(func() { errs[i] = m.boot(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (w *world) buildNetwork(ctx context.Context) error {
	cfg := vswitch.Config{
		Seed: number(w.plan.Seed, "switch", 0), TxDropped: w.txDropped,
		Log: slog.New(slog.NewTextHandler(w.debug, nil)),
	}
	if w.plan.Scenario.Pcap {
		f, err := os.Create(filepath.Join(w.dir, "network.pcapng"))
		if err != nil {
			return err
		}
		w.capture, cfg.Capture = f, f
	}
	sw := vswitch.New(cfg)
	w.net = &network{sw: sw}
	if err := sw.Run(); err != nil {
		return err
	}
	var err error
	w.iface, err = host.LabInterface(ctx, host.InterfaceConfig{
		Name: labInterface, Addr: netip.PrefixFrom(labAddr, subnet.Bits()), MAC: host.MAC(labAddr), Neighbors: w.neighbors(labName),
	})
	if err != nil {
		return err
	}
	if err := w.net.attach(labName, labAddr, w.iface.TAP()); err != nil {
		return err
	}
	return w.serveNames(ctx)
}

// nameServer is where the lab's name server is.
func nameServer() string { return net.JoinHostPort(labAddr.String(), "53") }

// askOurNames makes this process look names up in the lab: it exists for the run
// alone, and so do its clients.
func askOurNames() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, nameServer())
	}}
}

// serveNames starts the lab's name server.
func (w *world) serveNames(ctx context.Context) error {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", nameServer())
	if err != nil {
		return err
	}
	listener, err := lc.Listen(ctx, "tcp", nameServer())
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	zone := map[string][]netip.Addr{}
	for name, addr := range w.addrs() {
		zone[name], zone[name+".lab"] = []netip.Addr{addr}, []netip.Addr{addr}
	}
	for name, hosts := range w.plan.Scenario.Names {
		for _, h := range hosts {
			zone[name] = append(zone[name], w.Addr(h))
		}
	}
	w.dns, err = dns.Serve(w.ctx, dns.Config{Conn: conn, Listener: listener, Zone: zone}) //nolint:contextcheck // it lives as long as the world
	return err
}

// serveResource starts what locks protect, for workloads that have it.
func (w *world) serveResource(ctx context.Context, handler http.Handler) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(labAddr.String(), strconv.Itoa(resourcePort)))
	if err != nil {
		return err
	}
	w.resource = &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	w.tasks.Go(func() { _ = w.resource.Serve(l) }) // ends with ErrServerClosed
	return nil
}

const resourcePort = 7070

func resourceURL() string {
	return "http://" + net.JoinHostPort(labAddr.String(), strconv.Itoa(resourcePort))
}

// close ends everything, in the reverse order, and waits for it. end is called
// when all is down: it ends the world's own context, and with it those who watch
// a host that would not go.
func (w *world) close(ctx context.Context, end context.CancelFunc) error {
	closed := make([]error, len(w.machines))
	var all sync.WaitGroup
	for i, m := range w.machines {
		all.Go(func() { closed[i] = m.close(ctx) })
	}
	all.Wait()
	errs := []error{errors.Join(closed...)}
	if w.resource != nil {
		errs = append(errs, w.resource.Close())
	}
	if w.dns != nil {
		w.dns.Close()
	}
	if w.net != nil {
		errs = append(errs, w.net.sw.Close(ctx))
	}
	if w.iface != nil {
		if err := w.iface.Close(); !errors.Is(err, os.ErrClosed) { // the switch closed it
			errs = append(errs, err)
		}
	}
	if w.capture != nil {
		errs = append(errs, w.capture.Close())
	}
	end()
	w.tasks.Wait()
	return errors.Join(errs...)
}

// addrs are the addresses of all hosts by name.
func (w *world) addrs() map[string]netip.Addr {
	all := map[string]netip.Addr{labName: labAddr}
	for _, m := range w.machines {
		all[m.name] = m.addr
	}
	return all
}

// neighbors is the ARP table of a host: fixed, so that no partition depends on
// when ARP entries expire.
func (w *world) neighbors(of string) map[netip.Addr]net.HardwareAddr {
	all := map[netip.Addr]net.HardwareAddr{}
	for name, addr := range w.addrs() {
		if name != of {
			all[addr] = host.MAC(addr)
		}
	}
	return all
}

// txDropped reads how many frames the kernel dropped because the switch was
// late for them.
func (w *world) txDropped(port string) (int64, error) {
	if port == labName {
		return interfaceDrops("self", labInterface)
	}
	m := w.machine(port)
	if m == nil {
		return 0, fmt.Errorf("no host %s", port)
	}
	h, err := m.running()
	if err != nil {
		return 0, err
	}
	return interfaceDrops(strconv.Itoa(h.PID()), "eth0")
}

// interfaceDrops reads a process' view of its interfaces: twelve columns in, the
// frames that were dropped on their way out.
func interfaceDrops(pid, iface string) (int64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/net/dev")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		if f := strings.Fields(rest); ok && strings.TrimSpace(name) == iface && len(f) > 11 {
			return strconv.ParseInt(f[11], 10, 64)
		}
	}
	return 0, fmt.Errorf("no interface %s", iface)
}

func (w *world) machine(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	return nil
}

// What follows is nemesis.World.

func (w *world) Nodes() []string   { return w.plan.Scenario.Nodes() }
func (w *world) Clients() []string { return w.plan.Scenario.ClientHosts() }

func (w *world) Primaries(ctx context.Context) ([]string, error) {
	p, ok := w.system.(driver.Primaries)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return p.Primaries(ctx, w)
}

func (w *world) Net() nemesis.Net { return w.net }
func (w *world) DNS() nemesis.DNS { return names{w.dns, w.debug} }

func (w *world) Host(name string) (nemesis.Host, error) {
	m := w.machine(name)
	if m == nil {
		return nil, fmt.Errorf("there is no host %s", name)
	}
	return m, nil
}

func (w *world) Act(ctx context.Context, action string, args []string) error {
	a, ok := w.system.(driver.Actions)
	if !ok {
		return fmt.Errorf("%s has no actions of its own", w.system.Name())
	}
	return a.Act(ctx, w, action, args)
}

// What follows is driver.Env.

func (w *world) Addr(name string) netip.Addr {
	if m := w.machine(name); m != nil {
		return m.addr
	}
	return labAddr
}

func (w *world) LabAddr() netip.Addr          { return labAddr }
func (w *world) DataDir(name string) string   { return filepath.Join(w.dir, "hosts", name, "data") }
func (w *world) LogDir(name string) string    { return filepath.Join(w.dir, "hosts", name, "log") }
func (w *world) Logf(format string, a ...any) { w.logf(format, a...) }

// Option is a setting of the scenario; "scenario" is the directory of its file, for
// programs that lie beside it.
func (w *world) Option(name string) string {
	if v, ok := w.plan.Scenario.System.Options[name]; ok || name != "scenario" {
		return v
	}
	return filepath.Dir(w.plan.From)
}

// options are all settings, for clients in processes of their own.
func (w *world) options() map[string]string {
	all := map[string]string{"scenario": w.Option("scenario")}
	maps.Copy(all, w.plan.Scenario.System.Options)
	return all
}

func (w *world) Start(ctx context.Context, name string, p driver.Process) error {
	m := w.machine(name)
	if m == nil {
		return fmt.Errorf("there is no host %s", name)
	}
	return m.add(ctx, p)
}

func (w *world) Exec(ctx context.Context, name string, p driver.Process) ([]byte, error) {
	m := w.machine(name)
	if m == nil {
		return nil, fmt.Errorf("there is no host %s", name)
	}
	return m.exec(ctx, p)
}

// network is the switch as the nemesis sees it.
type network struct{ sw *vswitch.Switch }

func (n *network) attach(name string, addr netip.Addr, tap *os.File) error {
	return n.sw.Attach(vswitch.Port{Name: name, Addr: addr, MAC: host.MAC(addr), TAP: tap})
}

func (n *network) detach(name string) { _ = n.sw.Detach(name) } // a host that was never attached is fine

func (n *network) Apply(links []nemesis.Link, m nemesis.Match, im netem.Impairment) (nemesis.Applied, error) {
	return n.sw.Apply(switchLinks(links), vswitch.Match(m), im)
}

func (n *network) Reset(links []nemesis.Link) (int, error) { return n.sw.Reset(switchLinks(links)) }

func (n *network) Burst(ctx context.Context, l nemesis.Link, bytes int) error {
	return n.sw.Burst(ctx, vswitch.Link(l), bytes)
}

func switchLinks(links []nemesis.Link) []vswitch.Link {
	out := make([]vswitch.Link, len(links))
	for i, l := range links {
		out[i] = vswitch.Link(l)
	}
	return out
}

// links are the counters for the report.
func (n *network) links() []report.Link {
	var out []report.Link
	for _, c := range n.sw.Counters() {
		out = append(out, report.Link{
			From: c.From, To: c.To, Rx: c.Rx, Tx: c.Tx, TxBytes: c.TxBytes, Cut: c.DroppedCut, Lost: c.DroppedLoss,
			Queue: c.DroppedQueue + c.DroppedJam, TooLong: c.DroppedMTU, Duplicated: c.Duplicated, Corrupted: c.Corrupted,
			Reordered: c.Reordered, Delayed: c.Delayed, LateP50: c.Delay.P50, LateP99: c.Delay.P99, Overrun: c.Overrun,
		})
	}
	return out
}

// names is the name server as the nemesis sees it.
type names struct {
	s     *dns.Server
	debug io.Writer
}

func (n names) Set(name string, f nemesis.DNSFault) {
	err := n.s.Set(name, dns.Fault{Answer: f.Answer, NX: f.NX, Silent: f.Silent, Fail: f.Fail, Delay: f.Delay})
	if err != nil { // the fault then touches nothing, and the run is unknown
		_, _ = fmt.Fprintf(n.debug, "dns: %s: %v\n", name, err)
	}
}

func (n names) Touched() int64 { return n.s.Touched() }

// syncBuffer is a buffer that several writers share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}

func fileSize(name string) int64 {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return st.Size()
}

// lastLines is the end of a log from an offset on, for messages.
func lastLines(name string, from int64) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // only read
	from = max(from, fileSize(name)-4096)
	b, err := io.ReadAll(io.NewSectionReader(f, from, 4096))
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "; its log ends:\n  " + strings.Join(lines[max(0, len(lines)-4):], "\n  ")
}

// tail is the end of a text, on one line.
func tail(b []byte, n int) string {
	text := strings.TrimSpace(string(b))
	if len(text) > n {
		text = "…" + text[len(text)-n:]
	}
	return strings.ReplaceAll(text, "\n", " | ")
}
