package nemesis

import (
	"errors"
	"time"
)

// Kind is what a fault breaks; it is the first word of its text.
type Kind string

// The kinds.
const (
	KindNet   Kind = "net"
	KindDNS   Kind = "dns"
	KindProc  Kind = "proc"
	KindHost  Kind = "host"
	KindClock Kind = "clock"
	KindDisk  Kind = "disk"
	KindAct   Kind = "act"
)

// Fault is one way to break the world, with its parameters. It comes from
// Parse, prints as the text that Parse reads, and is a string in JSON and YAML.
// Faults are values: they do not change, and may be shared.
type Fault struct {
	spec spec
	dur  time.Duration
}

// spec is what the fault is, without for how long.
type spec interface {
	kind() Kind
}

// Kind is what the fault breaks; "" for the zero Fault.
func (f Fault) Kind() Kind {
	if f.spec == nil {
		return ""
	}
	return f.spec.kind()
}

// IsZero reports whether the fault is the zero value, which breaks nothing and
// cannot be injected.
func (f Fault) IsZero() bool { return f.spec == nil }

// For is how long the fault lasts; 0 is until it is recovered.
func (f Fault) For() time.Duration { return f.dur }

// WithFor is the same fault for another time; 0 is until it is recovered.
func (f Fault) WithFor(d time.Duration) Fault {
	f.dur = max(d, 0)
	return f
}

// String is the fault's text in its canonical form: Parse returns an equal fault.
func (f Fault) String() string { return "" }

// MarshalText makes the fault a string in JSON.
func (f Fault) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is Parse.
func (f *Fault) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*f = parsed
	return nil
}

// Parse reads one fault. The error is a *SyntaxError.
func Parse(line string) (Fault, error) { return Fault{}, errors.New("not yet") }

// MustParse is Parse for texts in programs; it panics where Parse fails.
func MustParse(line string) Fault {
	f, err := Parse(line)
	if err != nil {
		panic("nemesis: " + err.Error())
	}
	return f
}

// Expand replaces what a fault leaves to chance by names: "one", "minority",
// "clients", the shapes of partitions. What only the running system knows stays
// as it is and is resolved at injection: primary, primaries, follower,
// followers. The same seed draws the same hosts. It fails where a name is no
// host, and where there are too few hosts for what was asked.
func Expand(f Fault, nodes, clients []string, seed uint64) (Fault, error) { return f, nil }
