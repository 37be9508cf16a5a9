package driver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"holdfast.dev/lab/history"
)

// ErrUnsupported says that a system has no client for a workload.
var ErrUnsupported = errors.New("this system has no client for that workload")

// System is something to break: it knows how its servers are started and how
// its clients talk to them. One value serves one run. Its methods are not
// called concurrently, but the clients it makes are used concurrently.
type System interface {
	// Name is "etcd", "redis", …
	Name() string

	// Setup starts the servers on all hosts and returns when clients can use
	// them.
	Setup(ctx context.Context, env Env) error

	// Client connects to the server on node for one of the workloads. Clients
	// are pinned: they talk to that server and no other, and never retry.
	// The error is ErrUnsupported where there is no client for the workload.
	Client(ctx context.Context, env Env, node string, workload string) (Client, error)
}

// Primaries is implemented by systems with a leader. The slice holds every
// server that takes itself for the leader.
type Primaries interface {
	Primaries(ctx context.Context, env Env) ([]string, error)
}

// Finals is implemented by systems whose final reads must go elsewhere than to
// every node: to the server that now is the primary, for instance.
type Finals interface {
	FinalNodes(ctx context.Context, env Env) ([]string, error)
}

// Actions is implemented by systems with operations of their own that a
// schedule can ask for, such as "promote n2".
type Actions interface {
	Act(ctx context.Context, env Env, action string, args []string) error
}

// Client makes calls on behalf of one process at a time.
type Client interface {
	// Invoke makes the call and returns how it ended: OK with the value, Fail
	// only when it cannot have happened and never will, Info otherwise. It does
	// not return errors: they are in the operation. It ends when ctx does.
	Invoke(ctx context.Context, op history.Op) history.Op

	// Close ends the connection. It does not wait for servers that do not
	// answer.
	Close() error
}

// Lessee is a client of locks whose holders know when to stop, and do: see
// [WithResource].
type Lessee interface {
	// Lease ends when the client's hold of the lock does, as far as it can know;
	// nil where holders are not to ask.
	Lease(lock string) context.Context
}

// Env is what a driver can do in the world. Its methods may be called
// concurrently.
type Env interface {
	// Nodes are the hosts of the system, in order.
	Nodes() []string
	// Addr is the address of a host.
	Addr(host string) netip.Addr
	// LabAddr is the address of the lab itself, where the resource that locks
	// protect is served.
	LabAddr() netip.Addr
	// DataDir is the host's directory on the fault filesystem; LogDir one that
	// no fault touches.
	DataDir(host string) string
	LogDir(host string) string
	// Start starts a server on a host and waits until it is ready. The lab keeps
	// the description: after a kill it starts the same again.
	Start(ctx context.Context, host string, p Process) error
	// Exec runs a command on a host to its end, and returns what it printed. The
	// error tells the exit code and the last lines.
	Exec(ctx context.Context, host string, p Process) ([]byte, error)
	// Option is a setting of the driver from the scenario, "" when not given.
	Option(name string) string
	// Logf writes a line to the run's journal.
	Logf(format string, args ...any)
}

// Process describes a program on a host.
type Process struct {
	Name  string        // unique on the host; its log is LogDir/Name.log
	Argv  []string      // the program is looked up in PATH; not a shell line
	Env   []string      // added to a small, fixed environment; KEY=VALUE
	Dir   string        // working directory; default: the host's data directory
	User  string        // whom to run as; "" is root, or what root is in the namespace. Postgres refuses root
	Ready Ready         // when it counts as started; zero: at once
	Grace time.Duration // between SIGTERM and SIGKILL when the run ends; default 5s
}

// Ready is how a server says that it can be used: the first field that is set
// counts. A server that is not ready after Timeout is a failed start.
type Ready struct {
	TCP     int                             // a port on the host that accepts connections
	HTTP    string                          // path or URL that answers 2xx, "/healthz" on TCP's port
	Log     string                          // regular expression in its output
	Func    func(ctx context.Context) error // tried until it returns nil
	Timeout time.Duration                   // default 30s
}
