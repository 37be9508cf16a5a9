package vswitch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"holdfast.dev/lab/netem"
)

// Sentinels for what a caller decides on.
var (
	ErrUnknown = errors.New("no such host on the switch")
	ErrClosed  = errors.New("switch is closed")
)

// Config is the settings of a Switch. The zero value works.
type Config struct {
	Seed    uint64       // of all that is left to chance on the links
	Capture io.Writer    // gets a pcapng of every frame; nil captures nothing
	Log     *slog.Logger // default: discards

	MTU      int           // longest IP packet of a port; default 1500, 576 to 65521
	JamLimit int           // frames that one jammed link holds; default 10000. More are dropped and counted
	Memory   int           // bytes in frames under way in the whole switch; default 256 MiB. More are dropped as overruns
	Late     time.Duration // a frame sent later than asked by more than this is an overrun; default 2ms
	// TxDropped reads how many frames the kernel dropped at the TAP of a port
	// because the switch was late (statistics/tx_dropped); nil is unknown.
	TxDropped func(port string) (int64, error)
}

// Port is where a host is plugged in.
type Port struct {
	Name string             // of the host; "lab" is the runner's own
	Addr netip.Addr         // IPv4
	MAC  net.HardwareAddr   // frames to it go to this port
	TAP  io.ReadWriteCloser // one frame for each Read and Write; an *os.File is put into non-blocking mode
}

// Link is the way from one host to another. It is directed.
type Link struct{ From, To string }

// Match narrows a rule to some frames; the zero value is all of them.
type Match struct {
	Proto string // tcp, udp, icmp, "" for all
	Port  int    // source or destination; 0 is all
	SYN   bool   // only the SYN that opens a TCP connection
}

// Switch is a layer-2 switch in user space. Its methods may be called
// concurrently.
type Switch struct{}

// New returns a switch without ports. It does no I/O.
func New(c Config) (*Switch, error) { return &Switch{}, nil }

// Run starts the switch; it ends by Close.
func (s *Switch) Run() error { return nil }

// Close detaches all ports, ends the switch's goroutines and waits for them, or
// for ctx. TAPs are closed.
func (s *Switch) Close(ctx context.Context) error { return nil }

// Attach plugs a host in, before or after Run. A name that was attached before
// must have been detached; its links keep their rules and counters.
func (s *Switch) Attach(p Port) error { return nil }

// Detach unplugs a host and waits until its TAP is read no more; the TAP is
// closed. Rules on its links stay.
func (s *Switch) Detach(name string) error { return nil }

// Apply impairs frames that match, on links, until the rule is removed.
func (s *Switch) Apply(links []Link, m Match, im netem.Impairment) (*Applied, error) {
	return &Applied{}, nil
}

// Reset sends TCP resets to both ends of every connection that crosses the
// links, past all rules, and returns how many connections there were.
func (s *Switch) Reset(links []Link) (int, error) { return 0, nil }

// Burst sends noise from one host to another: UDP frames of full size to the
// discard port, so many bytes of them as fast as the switch makes them.
func (s *Switch) Burst(ctx context.Context, l Link, bytes int) error { return nil }

// Counters is what happened on each directed link that had traffic or rules.
func (s *Switch) Counters() []LinkCounters { return nil }

// Health is what the lab itself did wrong so far.
func (s *Switch) Health() Health { return Health{} }

// Applied is a rule on links.
type Applied struct{}

// Touched is how many frames the rule changed so far: dropped, held, delayed,
// duplicated, corrupted. A frame counts once on each link.
func (a *Applied) Touched() int64 { return 0 }

// Counters is what the rule did, on all its links together.
func (a *Applied) Counters() netem.Counters { return netem.Counters{} }

// Remove ends the rule; frames that it holds go on at once and in order. It may
// be called again.
func (a *Applied) Remove() {}

// LinkCounters is what happened on one directed link.
type LinkCounters struct {
	From, To                 string
	Rx, Tx                   int64 // frames that came from From, and that went to To
	RxBytes, TxBytes         int64
	DroppedCut, DroppedLoss  int64
	DroppedQueue, DroppedMTU int64
	DroppedJam               int64 // more than a jam may hold
	DroppedDown              int64 // To was unplugged or its interface down
	Held                     int64 // by a jam now
	Duplicated, Corrupted    int64
	Reordered, Delayed       int64
	Delay                    Lateness // of delayed frames: achieved minus asked
	Overrun                  int64    // frames that the lab itself was late for, or lost
}

// Lateness is how much later than asked the switch sent frames.
type Lateness struct {
	Count         int64
	P50, P99, Max time.Duration
}

// Health is what the lab itself did wrong: a run with overruns shows the lab's
// faults and not those of the scenario.
type Health struct {
	Overruns   int64            // of all links
	TxDropped  map[string]int64 // by port: frames that the kernel dropped before the switch read them
	Worst      Lateness         // of all links together
	Uncaptured int64            // frames that are missing in the capture because it was too slow
}
