package host

import (
	"context"
	"io"
	"os"
	"time"
)

// Supervision is a stage that runs in namespaces of its own.
type Supervision struct {
	Stage string   // as registered in package stage
	Args  []string // of the stage
	Env   []string // default: that of the calling process

	// Files are open in the stage from descriptor 3 on.
	Files  []*os.File
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Signals are sent on to the stage. Without it Supervise itself takes SIGINT,
	// SIGTERM, SIGUSR1 and SIGUSR2 of the calling process as long as it runs.
	Signals <-chan os.Signal

	// Grace is how long the stage has after ctx ended, when it gets SIGTERM;
	// default 10s. Then it is killed.
	Grace time.Duration
}

// Supervise runs a stage as root in new pid, mount, net, uts and ipc namespaces,
// and returns its exit code, 128 + n when signal n ended it. Whatever happens to
// the calling process or to the stage, the kernel ends everything that was
// started in the namespaces, and with them go mounts and devices.
func Supervise(ctx context.Context, s Supervision) (code int, err error) { return 0, errStub }

// Able says why the lab cannot run here and what to do about it; nil if it can.
func Able() error { return errStub }

// Clean ends and removes what dead labs left behind and returns what that was.
func Clean(ctx context.Context) ([]string, error) { return nil, errStub }
