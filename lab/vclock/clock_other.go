//go:build !(linux && amd64)

package vclock

import (
	"errors"
	"os"
)

var errElsewhere = errors.New("vclock: clocks can be moved on linux/amd64 only")

// Unpatched is a process of the host that reads the machine's clock.
type Unpatched struct {
	PID  int
	Name string
	Err  error
}

// Clock is the wall clock of one host; here it cannot be moved.
type Clock struct{}

// New makes a clock; here it cannot be moved.
func New() *Clock { return &Clock{} }

// Set fails unless the offset is zero.
func (c *Clock) Set(o Offset) error {
	if o == (Offset{}) {
		return nil
	}
	return errElsewhere
}

// Processes is 0.
func (c *Clock) Processes() int { return 0 }

// Unpatched fails.
func (c *Clock) Unpatched() ([]Unpatched, error) { return nil, errElsewhere }

// Serve closes the listener.
func (c *Clock) Serve(listener *os.File) { _ = listener.Close() }

// Attach fails.
func (c *Clock) Attach(int) error { return errElsewhere }

// Close does nothing.
func (c *Clock) Close() {}

// Install fails.
func Install() (*os.File, error) { return nil, errElsewhere }
