package vclock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ProbeStage is the stage (see internal/stage) that measures the clock of the
// host that it runs on.
const ProbeStage = "clockprobe"

// Sample is one measurement.
type Sample struct {
	Offset time.Duration // wall clock of the host − wall clock of the machine
	Error  time.Duration // Offset is right to within this
	Real   time.Time     // the machine's wall clock, when
	Mono   time.Duration // the machine's CLOCK_MONOTONIC, when, to within twice Error; it does not move
}

// Probe asks the stage clockprobe, which runs on some host. It is the standard
// input and output of that process: give it to whatever starts the process for
// both.
type Probe struct {
	asking  chan struct{} // one for who asks
	asks    chan int
	answers chan answer
	closed  chan struct{}
	close   func()
	last    int    // of whoever has asking
	part    []byte // of a line, of Write only
}

type answer struct {
	n int
	s Sample
}

// NewProbe makes a probe.
func NewProbe() *Probe {
	closed := make(chan struct{})
	return &Probe{
		asking:  make(chan struct{}, 1),
		asks:    make(chan int, 1),
		answers: make(chan answer, 1),
		closed:  closed,
		close:   sync.OnceFunc(func() { close(closed) }),
	}
}

var errProbeClosed = errors.New("vclock: the probe is closed")

// Sample measures once, now. An answer that comes after ctx has ended is dropped.
func (p *Probe) Sample(ctx context.Context) (Sample, error) {
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-p.closed:
		return Sample{}, errProbeClosed
	case <-ctx.Done():
		return Sample{}, context.Cause(ctx)
	}
	p.last++
	select {
	case p.asks <- p.last:
	case <-p.closed:
		return Sample{}, errProbeClosed
	case <-ctx.Done():
		return Sample{}, context.Cause(ctx)
	}
	for {
		select {
		case a := <-p.answers:
			if a.n == p.last {
				return a.s, nil
			}
		case <-p.closed:
			return Sample{}, errProbeClosed
		case <-ctx.Done():
			return Sample{}, context.Cause(ctx)
		}
	}
}

// Close ends the process by the end of its input.
func (p *Probe) Close() error {
	p.close()
	return nil
}

// Read is the standard input of the process: a question a line.
func (p *Probe) Read(b []byte) (int, error) {
	if len(b) < 24 {
		return 0, io.ErrShortBuffer
	}
	select {
	case n := <-p.asks:
		return copy(b, fmt.Appendf(nil, "%d\n", n)), nil
	case <-p.closed:
		return 0, io.EOF
	}
}

// Write is the standard output of the process: an answer a line.
func (p *Probe) Write(b []byte) (int, error) {
	p.part = append(p.part, b...)
	for {
		line, rest, whole := bytes.Cut(p.part, []byte("\n"))
		if !whole {
			if len(p.part) > 4096 {
				return 0, errors.New("vclock: the probe wrote what is no answer")
			}
			return len(b), nil
		}
		p.part = rest
		var a answer
		var at int64
		if _, err := fmt.Sscan(string(line), &a.n, (*int64)(&a.s.Offset), (*int64)(&a.s.Error), &at, (*int64)(&a.s.Mono)); err != nil {
			return 0, fmt.Errorf("vclock: the probe wrote %.80q: %w", line, err)
		}
		a.s.Real = time.Unix(0, at)
		select {
		case <-p.answers: // of a question that nobody waits for any more
		default:
		}
		p.answers <- a // there is room: nothing else sends
	}
}
