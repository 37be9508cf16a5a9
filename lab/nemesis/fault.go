package nemesis

import (
	"slices"
	"strings"
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
	// words is the text.
	words() []string
	// expand replaces selectors by hosts.
	expand(s *scope) (spec, error)
	// targets is the hosts that an expanded fault stands on.
	targets() []string
	// failure is how an expanded fault is done.
	failure(b builder) failure
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
// The zero Fault has none.
func (f Fault) String() string {
	if f.spec == nil {
		return ""
	}
	words := f.spec.words()
	if f.dur > 0 {
		words = append(words, "for", formatDuration(f.dur))
	}
	return strings.Join(words, " ")
}

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

// affected is the hosts that a resolved fault hits. Of a partition it is the
// nodes outside of the largest set that is whole, and the other hosts that it
// names.
func affected(f Fault, nodes, everyone []string) []string {
	cut, ok := f.spec.(cutSpec)
	if !ok {
		if f.Kind() == KindAct || f.Kind() == KindDNS {
			return nil
		}
		return inOrder(without(f.spec.targets(), []string{Lab}), everyone)
	}
	links := make(map[Link]bool)
	for _, l := range cut.cutLinks(everyone) {
		links[l] = true
	}
	hosts := outsiders(nodes, links)
	for _, name := range cut.targets() {
		if name != Lab && !slices.Contains(nodes, name) && !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	return inOrder(hosts, everyone)
}
