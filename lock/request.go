package lock

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/internal/grant"
)

// Mode is how a lock is shared.
type Mode = grant.Mode

// The modes.
const (
	ModeExclusive = grant.Exclusive // alone
	ModeShared    = grant.Shared    // together with other shared holders
	ModePermits   = grant.Permits   // a semaphore
)

// Bounds.
const (
	MaxName     = 512 // bytes of a name
	MaxNote     = 256 // bytes of a note
	MaxPermits  = 1 << 20
	MaxDelay    = time.Hour
	maxAllNames = 64 // names of one AcquireAll
)

// Request is what the options say.
type Request struct {
	Mode     Mode
	Permits  int           // with ModePermits: how many
	Capacity int           // with ModePermits: of how many
	NoWait   bool          // ErrBusy rather than wait
	Wait     time.Duration // ErrBusy after waiting so long; 0: as long as ctx
	Delay    time.Duration // lock-delay
	Note     string        // for people
}

// An Option changes one request.
type Option interface{ apply(*Request) }

type option func(*Request)

func (o option) apply(r *Request) { o(r) }

// NoWait refuses with ErrBusy rather than wait.
func NoWait() Option { return option(func(r *Request) { r.NoWait = true }) }

// WaitAtMost refuses with ErrBusy after a wait of d. A d of 0 or less is NoWait.
func WaitAtMost(d time.Duration) Option {
	return option(func(r *Request) { r.Wait, r.NoWait = max(d, 0), d <= 0 })
}

// Shared shares the lock with other shared holders: a read lock.
func Shared() Option { return option(func(r *Request) { r.Mode = ModeShared }) }

// Permits makes the lock a semaphore of so many permits and takes n of them.
// All who use the name at one time must agree on the number.
func Permits(n, of int) Option {
	return option(func(r *Request) { r.Mode, r.Permits, r.Capacity = ModePermits, n, of })
}

// Delay keeps the lock from everybody for at least d after this holder's
// session was lost (not after a release): for resources that cannot check
// tokens. The engine counts it, in whole seconds. Default none. (Chubby's
// lock-delay.)
func Delay(d time.Duration) Option { return option(func(r *Request) { r.Delay = d }) }

// Note is shown to people who look at the lock.
func Note(s string) Option { return option(func(r *Request) { r.Note = s }) }

// NewRequest is what the options say together; those that do not fit are left
// for Check to name.
func NewRequest(opts ...Option) Request {
	r := Request{Mode: ModeExclusive}
	for _, o := range opts {
		o.apply(&r)
	}
	return r
}

// Check names every fault of a request for a name at once, as ErrInvalid.
func (r Request) Check(name string) error {
	faults := []error{CheckName(name)}
	switch r.Mode {
	case ModeExclusive, ModeShared:
	case ModePermits:
		if r.Permits < 1 || r.Permits > r.Capacity || r.Capacity > MaxPermits {
			faults = append(faults, fmt.Errorf("%d of %d permits: want 1 ≤ n ≤ of ≤ %d", r.Permits, r.Capacity, MaxPermits))
		}
	default:
		faults = append(faults, fmt.Errorf("mode %q: want %q, %q or %q", r.Mode, ModeExclusive, ModeShared, ModePermits))
	}
	if r.Delay < 0 || r.Delay > MaxDelay {
		faults = append(faults, fmt.Errorf("delay %v: want 0 to %v", r.Delay, MaxDelay))
	}
	if len(r.Note) > MaxNote || !utf8.ValidString(r.Note) {
		faults = append(faults, fmt.Errorf("note: want at most %d bytes of UTF-8", MaxNote))
	}
	if err := errors.Join(faults...); err != nil {
		return &holdfast.Error{Key: "lock " + name, Op: "acquire", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	return nil
}

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("name: must not be empty")
	case len(name) > MaxName:
		return fmt.Errorf("name: %d bytes, want at most %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("name: not UTF-8")
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			return errors.New("name: has a control character")
		}
	}
	return nil
}
