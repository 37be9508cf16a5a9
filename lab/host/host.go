package host

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

var errStub = errors.New("host: not there yet")

func signalName(s syscall.Signal) string { return s.String() }

// Host is a machine of the lab. Its methods may be called concurrently.
type Host struct{}

// Start starts a machine.
func Start(ctx context.Context, cfg Config) (*Host, error) { return nil, errStub }

// Name is the host's name.
func (h *Host) Name() string { return "" }

// PID is the first process of the host in the lab's pid namespace.
func (h *Host) PID() int { return 0 }

// TAP is the other end of the host's eth0: every read is one frame that the host
// sent, every write one that it receives. It is in blocking mode, without packet
// information and without offloads. Reads fail once the host is off.
func (h *Host) TAP() *os.File { return nil }

// Done is closed when the host is off: by PowerOff, or because its first process
// died by itself.
func (h *Host) Done() <-chan struct{} { return nil }

// Run starts a program and returns when it was executed, or the reason why not.
func (h *Host) Run(ctx context.Context, p Process) (*Proc, error) { return nil, errStub }

// Pids are all processes of the host but its first, in the lab's pid namespace.
func (h *Host) Pids() ([]int, error) { return nil, errStub }

// Kill sends SIGKILL to the named process and everything it started, or to all
// processes of the host when name is empty, and returns when they are gone. It
// returns how many there were.
func (h *Host) Kill(ctx context.Context, name string) (int, error) { return 0, errStub }

// Pause stops processes, Resume lets those that Pause stopped go on.
func (h *Host) Pause(ctx context.Context, name string) (int, error) { return 0, errStub }

// Resume lets processes go on that Pause stopped.
func (h *Host) Resume(ctx context.Context, name string) (int, error) { return 0, errStub }

// Throttle gives the host this share of one core; 0 ends it.
func (h *Host) Throttle(ctx context.Context, share float64) error { return errStub }

// Throttled is for how long the host was held back by Throttle so far.
func (h *Host) Throttled() time.Duration { return 0 }

// PowerOff ends everything on the host at once: no process gets a chance to write
// a byte, and no frame leaves the host any more, not even one that closes a
// connection. It returns when nothing is left.
func (h *Host) PowerOff(ctx context.Context) error { return errStub }

// Proc is a process that Run started. Its methods may be called concurrently.
type Proc struct{}

// Name is the process's name.
func (p *Proc) Name() string { return "" }

// PID is the process in the lab's pid namespace.
func (p *Proc) PID() int { return 0 }

// Done is closed when the process has ended and its output was copied.
func (p *Proc) Done() <-chan struct{} { return nil }

// Status is how the process ended; the zero value before Done is closed.
func (p *Proc) Status() Exit { return Exit{} }

// Signal sends a signal to the process alone, SignalAll to it and everything it
// started. A process that is gone is no error.
func (p *Proc) Signal(sig syscall.Signal) error { return errStub }

// SignalAll sends a signal to the process and everything it started, and returns
// to how many.
func (p *Proc) SignalAll(sig syscall.Signal) (int, error) { return 0, errStub }
