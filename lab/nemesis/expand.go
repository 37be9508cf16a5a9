package nemesis

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Selectors are names for hosts that are chosen: by a draw, or by what the
// system says at the time of injection.
const (
	SelectAll           = "all"            // every node
	SelectOne           = "one"            // one node
	SelectSome          = "some"           // at least one node
	SelectMinority      = "minority"       // as many nodes as can be missing with a majority left
	SelectMajority      = "majority"       // as few nodes as make a majority
	SelectMinorityThird = "minority-third" // as many nodes as are less than a third
	SelectClients       = "clients"        // every host of clients
	SelectClient        = "client"         // one of them
	SelectPrimary       = "primary"        // a node that takes itself for the primary; one of them where there are several
	SelectPrimaries     = "primaries"      // all that do
	SelectFollower      = "follower"       // one node that does not
	SelectFollowers     = "followers"      // all that do not
)

// Lab is the name of the lab itself on the network: clients that have no host
// of their own live there.
const Lab = "lab"

var selectors = []string{
	SelectAll, SelectOne, SelectSome, SelectMinority, SelectMajority, SelectMinorityThird, SelectClients, SelectClient,
	SelectPrimary, SelectPrimaries, SelectFollower, SelectFollowers,
}

// later: only the running system knows.
func later(selector string) bool {
	switch selector {
	case SelectPrimary, SelectPrimaries, SelectFollower, SelectFollowers:
		return true
	}
	return false
}

// Expand replaces what a fault leaves to chance by names: "one", "minority",
// "clients", the shapes of partitions. What only the running system knows stays
// as it is and is resolved at injection: primary, primaries, follower,
// followers. The same seed draws the same hosts. It fails where a name is no
// host, and where there are too few hosts for what was asked.
func Expand(f Fault, nodes, clients []string, seed uint64) (Fault, error) {
	if f.spec == nil {
		return f, errors.New("fault: empty")
	}
	s := &scope{nodes: nodes, clients: clients, seed: seed, text: f.String()}
	spec, err := f.spec.expand(s)
	if err != nil {
		return Fault{}, fmt.Errorf("%s: %w", f, err)
	}
	return Fault{spec: spec, dur: f.dur}, nil
}

// Dynamic reports whether the fault names hosts that only the running system
// can tell, such as its primary.
func (f Fault) Dynamic() bool {
	if f.spec == nil {
		return false
	}
	if c, ok := f.spec.(cutSpec); ok && c.shape == ShapePrimaries {
		return true
	}
	return slices.ContainsFunc(f.spec.targets(), later)
}

// resolve replaces also what only the running system knows.
func resolve(ctx context.Context, f Fault, w World, seed uint64) (Fault, error) {
	if f.spec == nil {
		return f, errors.New("fault: empty")
	}
	s := &scope{nodes: w.Nodes(), clients: w.Clients(), seed: seed, text: f.String(), now: true}
	s.ask = func() ([]string, error) { return w.Primaries(ctx) }
	spec, err := f.spec.expand(s)
	if err != nil {
		return Fault{}, err
	}
	return Fault{spec: spec, dur: f.dur}, nil
}

// scope is what names mean in one expansion of one fault.
type scope struct {
	nodes, clients []string
	seed           uint64
	text           string // of the fault: the name of its draws
	draws          int

	now       bool // the system is asked for its primaries
	ask       func() ([]string, error)
	asked     bool
	primaries []string
	askErr    error
}

// draw gives the next source of choices of this fault.
func (s *scope) draw() *draw {
	s.draws++
	return newDraw(s.seed, "expand", s.text, strconv.Itoa(s.draws))
}

// leaders is the primaries, in the order of the nodes.
func (s *scope) leaders() ([]string, error) {
	if !s.asked {
		s.asked = true
		found, err := s.ask()
		for _, node := range s.nodes {
			if slices.Contains(found, node) {
				s.primaries = append(s.primaries, node)
			}
		}
		s.askErr = err
	}
	if s.askErr != nil {
		return nil, fmt.Errorf("ask for the primary: %w", s.askErr)
	}
	if len(s.primaries) == 0 {
		return nil, errors.New("no node takes itself for the primary now")
	}
	return s.primaries, nil
}

// hosts replaces the selectors in a list of names. On the network there are
// other names than those of hosts.
func (s *scope) hosts(names []string, network bool) ([]string, error) {
	var out []string
	add := func(more ...string) {
		for _, name := range more {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	for _, name := range names {
		if slices.Contains(selectors, name) {
			chosen, err := s.choose(name)
			if err != nil {
				return nil, err
			}
			add(chosen...)
			continue
		}
		known := slices.Concat(s.nodes, s.clients)
		if network {
			known = append(known, Lab)
		}
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("no host %q: there are %s", name, strings.Join(known, ", "))
		}
		add(name)
	}
	return out, nil
}

// choose is the hosts that a selector stands for, or the selector itself while
// nobody can tell.
func (s *scope) choose(selector string) ([]string, error) {
	if later(selector) {
		if !s.now {
			return []string{selector}, nil
		}
		return s.chooseNow(selector)
	}
	n := len(s.nodes)
	some := func(size int) ([]string, error) {
		if size < 1 {
			return nil, fmt.Errorf("%s: there is none of %d nodes", selector, n)
		}
		return inOrder(shuffled(s.nodes, s.draw())[:size], s.nodes), nil
	}
	switch selector {
	case SelectAll:
		return some(n)
	case SelectOne:
		return some(min(1, n))
	case SelectSome:
		if n == 0 {
			return some(0)
		}
		return some(1 + s.draw().below(n))
	case SelectMinority:
		return some((n - 1) / 2)
	case SelectMajority:
		return some(min(n/2+1, n))
	case SelectMinorityThird:
		return some((n - 1) / 3)
	case SelectClients, SelectClient:
		if len(s.clients) == 0 {
			return nil, fmt.Errorf("%s: clients have no hosts of their own here", selector)
		}
		if selector == SelectClients {
			return s.clients, nil
		}
		return []string{s.clients[s.draw().below(len(s.clients))]}, nil
	}
	return nil, fmt.Errorf("%s: no such selector", selector)
}

func (s *scope) chooseNow(selector string) ([]string, error) {
	primaries, err := s.leaders()
	if err != nil {
		return nil, err
	}
	from := primaries
	if selector == SelectFollower || selector == SelectFollowers {
		from = without(s.nodes, primaries)
	}
	if len(from) == 0 {
		return nil, fmt.Errorf("%s: every node takes itself for the primary", selector)
	}
	if selector == SelectPrimary || selector == SelectFollower {
		return []string{from[s.draw().below(len(from))]}, nil
	}
	return from, nil
}

// terms replaces the selectors in links.
func (s *scope) terms(terms []term) ([]term, error) {
	out := make([]term, len(terms))
	for i, t := range terms {
		from, err := s.hosts(t.from, true)
		if err != nil {
			return nil, err
		}
		out[i] = term{from: from, way: t.way}
		if t.way == 0 {
			continue
		}
		if out[i].to, err = s.hosts(t.to, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// linksOf is the directed links of terms without selectors, each once.
func linksOf(terms []term, everyone []string) []Link {
	var links []Link
	seen := make(map[Link]bool)
	add := func(from, to string) {
		l := Link{from, to}
		if from != to && !seen[l] {
			seen[l] = true
			links = append(links, l)
		}
	}
	for _, t := range terms {
		to := t.to
		if t.way == 0 {
			to = everyone
		}
		for _, a := range t.from {
			for _, b := range to {
				add(a, b)
				if t.way != '>' {
					add(b, a)
				}
			}
		}
	}
	return links
}

// namesOf is the hosts that links name.
func namesOf(terms []term) []string {
	var names []string
	for _, t := range terms {
		names = append(names, t.from...)
		names = append(names, t.to...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// draw is a source of choices that depends on nothing but the seed and a name.
type draw struct{ rnd *rand.Rand }

func newDraw(seed uint64, name ...string) *draw {
	h := sha256.New()
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], seed)
	_, _ = h.Write(b[:])
	for _, part := range name {
		_, _ = h.Write([]byte(part))
		_, _ = h.Write([]byte{0})
	}
	sum := h.Sum(nil)
	return &draw{rnd: rand.New(rand.NewPCG(binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])))}
}

func (d *draw) below(n int) int { return d.rnd.IntN(n) }
func (d *draw) float() float64  { return d.rnd.Float64() }
func (d *draw) number() uint64  { return d.rnd.Uint64() }
