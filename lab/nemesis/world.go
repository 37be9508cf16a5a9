package nemesis

import (
	"context"
	"net/netip"
	"time"

	"holdfast.dev/lab/faultfs"
	"holdfast.dev/lab/netem"
	"holdfast.dev/lab/vclock"
)

// World is what faults act on. All of its methods may be called concurrently.
type World interface {
	Nodes() []string                                 // hosts of the system, in order
	Clients() []string                               // hosts of clients; may be empty
	Primaries(ctx context.Context) ([]string, error) // who takes itself for the leader; empty where the system cannot tell
	Net() Net
	DNS() DNS
	Host(name string) (Host, error)
	// Act runs an action of the system's driver.
	Act(ctx context.Context, action string, args []string) error
}

// Net is the switch. A link is directed; between two hosts there are two.
type Net interface {
	// Apply impairs links until the returned Applied is removed. Impairments of
	// several rules on one link add up: the strongest cut, the sum of delays,
	// independent losses, the lowest rate.
	Apply(links []Link, match Match, im netem.Impairment) (Applied, error)
	// Reset sends TCP resets to both ends of every connection that crosses the
	// links, now, and returns how many connections there were.
	Reset(links []Link) (int, error)
	// Burst sends so many bytes of noise from one host to another as fast as the
	// link takes them.
	Burst(ctx context.Context, link Link, bytes int) error
}

// Applied is a rule on links.
type Applied interface {
	// Touched is how many frames the rule changed so far: dropped, held,
	// delayed, …
	Touched() int64
	Remove()
}

// Link is the way from one host to another.
type Link struct{ From, To string }

// Match narrows a rule to some frames; the zero value is all of them.
type Match struct {
	Proto string // tcp, udp, "" for all
	Port  int    // source or destination; 0 is all
	SYN   bool   // only the SYN that opens a TCP connection
}

// DNS is the name server of the lab.
type DNS interface {
	// Set changes the answers for a name until it is set to DNSFault{}.
	// The name "" is all names.
	Set(name string, f DNSFault)
	// Touched is how many answers were not the right ones so far.
	Touched() int64
}

// DNSFault is what the name server does wrong.
type DNSFault struct {
	Answer []netip.Addr  // these addresses instead
	NX     bool          // there is no such name
	Silent bool          // no answer
	Fail   bool          // SERVFAIL
	Delay  time.Duration // answers come late
}

// Host is one machine of the lab.
type Host interface {
	// Kill sends SIGKILL to the named process with all its children, or to all
	// the system's processes when name is empty. It returns how many died.
	Kill(ctx context.Context, name string) (int, error)
	// Start starts again what the driver started here and is not running, and
	// waits until it is ready.
	Start(ctx context.Context) error
	// Pause stops every process on the host, or the named; Resume lets them go
	// on. They do not count: one Resume ends any number of Pauses of that name,
	// and Resume of "" ends all of them. What is killed is not paused any more.
	Pause(ctx context.Context, name string) (int, error)
	Resume(ctx context.Context, name string) error
	// Throttle gives the host this share of one core; 0 ends it. Throttled is
	// for how long it was held back so far.
	Throttle(ctx context.Context, share float64) error
	Throttled() time.Duration
	// PowerOff ends everything on the host at once and takes from its disk what
	// was not durable. Start brings it back.
	PowerOff(ctx context.Context, crash faultfs.Crash) (faultfs.Losses, error)
	// Running is how many of the system's processes run and are not paused.
	Running() int
	Clock() Clock
	Disk() Disk
}

// Clock is the wall clock of a host.
type Clock interface {
	Set(o vclock.Offset) error
	Offset() (time.Duration, error) // as a probe on the host measures it now
}

// Disk is the fault filesystem of a host.
type Disk interface {
	Inject(ctx context.Context, r faultfs.Rule) error
	Remove(ctx context.Context, id string) error
	Touched(ctx context.Context, id string) (int64, error) // operations that met the rule
	// Flip flips n bits at rest in files that match the glob, and says where.
	Flip(ctx context.Context, glob string, n int, seed uint64) ([]string, error)
}
