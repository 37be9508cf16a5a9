package nemesis

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/lab/netem"
)

// netKind is shared by all faults of the network.
type netKind struct{}

func (netKind) kind() Kind { return KindNet }

func (p *parser) net() spec {
	const verbs = "cut, link, delay, loss, dup, corrupt, reorder, rate, mtu, clog, swizzle, microburst, nic-loss, reset or syn-hole"
	switch verb := p.oneOf("cut", "link", "clog", "swizzle", "microburst", "nic-loss", "reset", "syn-hole",
		"delay", "loss", "dup", "corrupt", "reorder", "rate", "mtu"); verb {
	case "":
		p.expected(verbs)
		return nil
	case "cut":
		return p.cut()
	case "link":
		return p.impair("")
	case "clog":
		f := clogSpec{hosts: p.target()}
		f.mode = p.mode(netem.Jammed)
		return f
	case "swizzle":
		f := swizzleSpec{hosts: p.target()}
		if !p.accept("over") {
			p.expected("over and a duration")
		}
		f.over = p.duration()
		f.mode = p.mode(netem.Jammed)
		return f
	case "microburst":
		f := burstSpec{links: p.links(), bytes: p.size()}
		if !p.accept("every") {
			p.expected("every and a duration")
		}
		f.every = p.duration()
		return f
	case "nic-loss":
		return nicLossSpec{hosts: p.target(), loss: p.percent()}
	case "reset":
		c := p.inside("groups of hosts such as n1|n2,n3")
		f := resetSpec{groups: c.groups()}
		if !c.done() || len(f.groups) < 2 {
			c.expected("| and the hosts at the other end")
		}
		return f
	case "syn-hole":
		f := synHoleSpec{hosts: p.target()}
		if p.option("port") != "" {
			f.port = p.port()
		}
		return f
	default:
		return p.impair(verb)
	}
}

// mode reads how a link is cut; usual is what is meant when nothing is said.
func (p *parser) mode(usual netem.Cut) netem.Cut {
	if m := p.option(string(netem.Stopped), string(netem.Slowed), string(netem.Jammed)); m != "" {
		return netem.Cut(m)
	}
	return usual
}

func modeWords(m, usual netem.Cut) []string {
	if m == usual {
		return nil
	}
	return []string{string(m)}
}

// groups reads sides of hosts, without a host twice or one of the others.
func (c *cursor) groups(others ...string) [][]string {
	var groups [][]string
	for c.p.err == nil {
		g := c.hosts(others...)
		groups = append(groups, g)
		others = append(others, g...)
		if !c.accept('|') {
			break
		}
	}
	return groups
}

func joinGroups(groups [][]string) string {
	texts := make([]string, len(groups))
	for i, g := range groups {
		texts[i] = strings.Join(g, ",")
	}
	return strings.Join(texts, "|")
}

// Directions of a cut between groups.
const (
	bothWays = ""
	outward  = "oneway" // from the first group to the others
	inward   = "inward" // from the others to the first
)

// cutSpec is a partition: a shape, or groups, or links.
type cutSpec struct {
	netKind

	shape  string
	groups [][]string
	links  []term
	way    string
	mode   netem.Cut
	port   int
}

func (p *parser) cut() spec {
	f := cutSpec{}
	if f.shape = p.oneOf(shapes...); f.shape == "" {
		if p.accept("links") {
			f.links = p.links()
		} else {
			f.groups, f.way = p.sides()
		}
	}
	f.mode = netem.Stopped
	modes := 0
	for p.more() {
		switch opt := p.option(outward, inward, "stopped", "slowed", "jammed", "port"); opt {
		case outward, inward:
			if f.links != nil {
				p.refuse("stopped, slowed, jammed, port or for: links have their direction")
			}
			if f.way != bothWays && f.way != opt {
				p.refuse("one direction only")
			}
			if f.shape == ShapeMajoritiesRing && opt == inward {
				p.refuse("oneway: a ring has no first group")
			}
			f.way = opt
		case "port":
			f.port = p.port()
		case "stopped", "slowed", "jammed":
			if modes++; modes > 1 {
				p.refuse("one of stopped, slowed and jammed")
			}
			f.mode = netem.Cut(opt)
		default:
			p.expected("oneway, inward, stopped, slowed, jammed, port, for or the end")
		}
	}
	return f
}

// sides reads n1|n2,n3 or n1>n2,n3.
func (p *parser) sides() (groups [][]string, way string) {
	c := p.inside("groups such as n1|n2,n3, links, or a shape: one, halves, majority, majorities-ring, bridge, minority-third, primaries")
	groups = c.groups()
	if len(groups) == 1 && c.accept('>') {
		way = outward
		groups = append(groups, c.groups(groups[0]...)...)
	}
	if !c.done() || len(groups) < 2 {
		c.expected("| and another group")
	}
	return groups, way
}

func (f cutSpec) words() []string {
	w := []string{"net", "cut"}
	switch {
	case f.shape != "":
		w = append(w, f.shape)
	case f.links != nil:
		w = append(w, "links", joinTerms(f.links))
	default:
		w = append(w, joinGroups(f.groups))
	}
	if f.way != bothWays {
		w = append(w, f.way)
	}
	w = append(w, modeWords(f.mode, netem.Stopped)...)
	return append(w, portWords(f.port)...)
}

func portWords(port int) []string {
	if port == 0 {
		return nil
	}
	return []string{"port", strconv.Itoa(port)}
}

func (f cutSpec) expand(s *scope) (spec, error) {
	var err error
	switch {
	case f.links != nil:
		f.links, err = s.terms(f.links)
	case f.shape == ShapeMajoritiesRing:
		f.links, err = ring(s.nodes, f.way != bothWays, s.draw())
		f.shape, f.way = "", bothWays
	case f.shape == ShapePrimaries && !s.now:
	case f.shape != "":
		var primaries []string
		if f.shape == ShapePrimaries {
			if primaries, err = s.leaders(); err != nil {
				return nil, err
			}
		}
		f.groups, err = groupsOf(f.shape, s.nodes, primaries, s.draw())
		f.shape = ""
	default:
		f.groups, err = s.groups(f.groups)
	}
	return f, err
}

// groups replaces the selectors in groups, which stay apart.
func (s *scope) groups(groups [][]string) ([][]string, error) {
	out := make([][]string, len(groups))
	seen := make(map[string]bool)
	for i, g := range groups {
		hosts, err := s.hosts(g, true)
		if err != nil {
			return nil, err
		}
		for _, name := range hosts {
			if seen[name] {
				return nil, fmt.Errorf("%s is in two groups of %s", name, joinGroups(groups))
			}
			seen[name] = true
		}
		out[i] = hosts
	}
	return out, nil
}

// cutLinks is the links of an expanded cut.
func (f cutSpec) cutLinks(everyone []string) []Link {
	if f.links != nil {
		return linksOf(f.links, everyone)
	}
	var terms []term
	for i, group := range f.groups {
		for _, other := range f.groups[i+1:] {
			switch f.way {
			case bothWays:
				terms = append(terms, term{from: group, way: '-', to: other})
			case outward:
				terms = append(terms, term{from: f.groups[0], way: '>', to: other})
			case inward:
				terms = append(terms, term{from: other, way: '>', to: f.groups[0]})
			}
		}
	}
	return linksOf(terms, everyone)
}

func (f cutSpec) targets() []string {
	if f.links != nil {
		return namesOf(f.links)
	}
	return slices.Concat(f.groups...)
}

func (f cutSpec) failure(b builder) failure {
	return b.rule(f.cutLinks(b.everyone), Match{Port: f.port}, netem.Impairment{Cut: f.mode})
}

// clogSpec is the network stack of hosts standing still.
type clogSpec struct {
	netKind

	hosts []string
	mode  netem.Cut
}

func (f clogSpec) words() []string {
	return append([]string{"net", "clog", strings.Join(f.hosts, ",")}, modeWords(f.mode, netem.Jammed)...)
}

func (f clogSpec) expand(s *scope) (spec, error) {
	var err error
	f.hosts, err = s.hosts(f.hosts, true)
	return f, err
}
func (f clogSpec) targets() []string { return f.hosts }

func (f clogSpec) failure(b builder) failure {
	return b.rule(b.around(f.hosts), Match{}, netem.Impairment{Cut: f.mode})
}

// swizzleSpec clogs hosts one after the other, and unclogs them in another order.
type swizzleSpec struct {
	netKind

	hosts []string
	over  time.Duration
	mode  netem.Cut
}

func (f swizzleSpec) words() []string {
	w := []string{"net", "swizzle", strings.Join(f.hosts, ","), "over", formatDuration(f.over)}
	return append(w, modeWords(f.mode, netem.Jammed)...)
}

func (f swizzleSpec) expand(s *scope) (spec, error) {
	var err error
	f.hosts, err = s.hosts(f.hosts, true)
	return f, err
}
func (f swizzleSpec) targets() []string { return f.hosts }

func (f swizzleSpec) failure(b builder) failure { return b.swizzle(f) }

// burstSpec is noise that fills a link's queue again and again.
type burstSpec struct {
	netKind

	links []term
	bytes int64
	every time.Duration
}

func (f burstSpec) words() []string {
	return []string{"net", "microburst", joinTerms(f.links), formatQuantity(f.bytes, sizes), "every", formatDuration(f.every)}
}

func (f burstSpec) expand(s *scope) (spec, error) {
	var err error
	f.links, err = s.terms(f.links)
	return f, err
}
func (f burstSpec) targets() []string { return namesOf(f.links) }

func (f burstSpec) failure(b builder) failure { return b.burst(f) }

// nicLossSpec is a bad network card: loss on all that a host sends and receives.
type nicLossSpec struct {
	netKind

	hosts []string
	loss  percent
}

func (f nicLossSpec) words() []string {
	return []string{"net", "nic-loss", strings.Join(f.hosts, ","), f.loss.String()}
}

func (f nicLossSpec) expand(s *scope) (spec, error) {
	var err error
	f.hosts, err = s.hosts(f.hosts, true)
	return f, err
}
func (f nicLossSpec) targets() []string { return f.hosts }

func (f nicLossSpec) failure(b builder) failure {
	return b.rule(b.around(f.hosts), Match{}, netem.Impairment{Loss: f.loss.of1()})
}

// resetSpec ends the TCP connections between groups.
type resetSpec struct {
	netKind

	groups [][]string
}

func (f resetSpec) words() []string { return []string{"net", "reset", joinGroups(f.groups)} }

func (f resetSpec) expand(s *scope) (spec, error) {
	var err error
	f.groups, err = s.groups(f.groups)
	return f, err
}
func (f resetSpec) targets() []string { return slices.Concat(f.groups...) }

func (f resetSpec) failure(b builder) failure {
	return b.reset(cutSpec{groups: f.groups}.cutLinks(b.everyone))
}

// synHoleSpec loses the SYNs to hosts: what is connected stays connected.
type synHoleSpec struct {
	netKind

	hosts []string
	port  int
}

func (f synHoleSpec) words() []string {
	return append([]string{"net", "syn-hole", strings.Join(f.hosts, ",")}, portWords(f.port)...)
}

func (f synHoleSpec) expand(s *scope) (spec, error) {
	var err error
	f.hosts, err = s.hosts(f.hosts, true)
	return f, err
}
func (f synHoleSpec) targets() []string { return f.hosts }

func (f synHoleSpec) failure(b builder) failure {
	links := linksOf([]term{{from: b.everyone, way: '>', to: f.hosts}}, b.everyone)
	return b.rule(links, Match{Proto: "tcp", Port: f.port, SYN: true}, netem.Impairment{Cut: netem.Stopped})
}

// linkSpec is impairments of links. A family that is not there has zero values.
type linkSpec struct {
	netKind

	links []term

	delay, jitter time.Duration
	jitterCorr    percent
	distribution  netem.Distribution
	loss          percent
	lossCorr      percent
	burst         int // mean length of a burst of losses
	dup, dupCorr  percent
	corrupt       percent
	corruptCorr   percent
	fixChecksum   bool
	reorder       percent
	reorderCorr   percent
	gap           int
	rate          int64
	queue         int
	mtu           int

	proto string
	port  int
}

// usualReorderDelay is what the frames that are not reordered wait when nobody
// says how long: without a delay nothing can overtake.
const usualReorderDelay = 10 * time.Millisecond

// impair reads what links suffer; first is the family that the verb named.
func (p *parser) impair(first string) spec {
	f := linkSpec{links: p.links()}
	if first != "" {
		if p.seen == nil {
			p.seen = make(map[string]bool)
		}
		p.seen[first] = true
		p.family(&f, first)
	}
	const families = "delay, loss, dup, corrupt, reorder, rate or mtu"
	for p.more() {
		switch opt := p.option("delay", "loss", "dup", "corrupt", "reorder", "rate", "mtu", "proto", "port"); opt {
		case "":
			p.expected(families + ", proto, port, for or the end")
		case "proto":
			if f.proto = p.oneOf("tcp", "udp"); f.proto == "" {
				p.expected("tcp or udp")
			}
		case "port":
			f.port = p.port()
		default:
			p.family(&f, opt)
		}
	}
	if f.delay == 0 && f.reorder != 0 {
		f.delay = usualReorderDelay
	}
	if f.families() == 0 {
		p.expected(families)
	}
	return f
}

// family reads one kind of impairment with what belongs to it.
func (p *parser) family(f *linkSpec, name string) {
	switch name {
	case "delay":
		f.delay = p.duration()
		if p.accept("jitter") {
			f.jitter = p.duration()
			f.jitterCorr = p.correlation()
			f.distribution = netem.Distribution(p.oneOf("uniform", "normal", "pareto", "paretonormal"))
			if f.distribution == netem.Uniform {
				f.distribution = ""
			}
		}
	case "loss":
		f.loss = p.percent()
		if f.lossCorr = p.correlation(); f.lossCorr == 0 && p.accept("burst") {
			f.burst = p.count(1_000_000, "the mean length of a burst in frames, such as 5")
			if p.err == nil && float64(f.burst) < f.loss.of1()/(1-f.loss.of1()) {
				p.refuse("a burst that is longer, or a loss that is lower: gaps of less than a frame cannot be")
			}
		}
	case "dup":
		f.dup, f.dupCorr = p.percent(), p.correlation()
	case "corrupt":
		f.corrupt, f.corruptCorr = p.percent(), p.correlation()
		f.fixChecksum = p.accept("fix-checksum")
	case "reorder":
		f.reorder, f.reorderCorr = p.percent(), p.correlation()
		if p.accept("gap") {
			f.gap = p.count(1_000_000, "every how many frames, such as 5")
		}
	case "rate":
		f.rate = p.bitrate()
		if p.accept("queue") {
			f.queue = p.count(10_000_000, "how many frames the queue holds, such as 100")
		}
	case "mtu":
		f.mtu = p.count(65535, "a number of bytes such as 1200")
	}
}

func (p *parser) correlation() percent {
	if !p.accept("corr") {
		return 0
	}
	return p.percent()
}

// families is how many kinds of impairments there are.
func (f linkSpec) families() int {
	n := 0
	for _, there := range []bool{f.delay > 0, f.loss > 0, f.dup > 0, f.corrupt > 0, f.reorder > 0, f.rate > 0, f.mtu > 0} {
		if there {
			n++
		}
	}
	return n
}

func (f linkSpec) words() []string {
	w := []string{"net"}
	links := joinTerms(f.links)
	alone := f.families() == 1
	if !alone {
		w = append(w, "link", links)
	}
	family := func(name string, value string) {
		w = append(w, name)
		if alone {
			w = append(w, links)
		}
		w = append(w, value)
	}
	corr := func(c percent) {
		if c > 0 {
			w = append(w, "corr", c.String())
		}
	}
	if f.delay > 0 {
		family("delay", formatDuration(f.delay))
		if f.jitter > 0 {
			w = append(w, "jitter", formatDuration(f.jitter))
			corr(f.jitterCorr)
			if f.distribution != "" {
				w = append(w, string(f.distribution))
			}
		}
	}
	if f.loss > 0 {
		family("loss", f.loss.String())
		corr(f.lossCorr)
		if f.burst > 0 {
			w = append(w, "burst", strconv.Itoa(f.burst))
		}
	}
	if f.dup > 0 {
		family("dup", f.dup.String())
		corr(f.dupCorr)
	}
	if f.corrupt > 0 {
		family("corrupt", f.corrupt.String())
		corr(f.corruptCorr)
		if f.fixChecksum {
			w = append(w, "fix-checksum")
		}
	}
	if f.reorder > 0 {
		family("reorder", f.reorder.String())
		corr(f.reorderCorr)
		if f.gap > 0 {
			w = append(w, "gap", strconv.Itoa(f.gap))
		}
	}
	if f.rate > 0 {
		family("rate", formatQuantity(f.rate, bitrates))
		if f.queue > 0 {
			w = append(w, "queue", strconv.Itoa(f.queue))
		}
	}
	if f.mtu > 0 {
		family("mtu", strconv.Itoa(f.mtu))
	}
	if f.proto != "" {
		w = append(w, "proto", f.proto)
	}
	return append(w, portWords(f.port)...)
}

func (f linkSpec) expand(s *scope) (spec, error) {
	var err error
	f.links, err = s.terms(f.links)
	return f, err
}
func (f linkSpec) targets() []string { return namesOf(f.links) }

func (f linkSpec) failure(b builder) failure {
	return b.rule(linksOf(f.links, b.everyone), Match{Proto: f.proto, Port: f.port}, f.impairment())
}

// impairment is the same in netem's words.
func (f linkSpec) impairment() netem.Impairment {
	im := netem.Impairment{
		Delay: f.delay, Jitter: f.jitter, Distribution: f.distribution, Correlation: f.jitterCorr.of1(),
		LossCorrelation: f.lossCorr.of1(),
		Duplicate:       f.dup.of1(), DuplicateCorrelation: f.dupCorr.of1(),
		Corrupt: f.corrupt.of1(), CorruptCorrelation: f.corruptCorr.of1(), FixChecksum: f.fixChecksum,
		Reorder: f.reorder.of1(), ReorderCorrelation: f.reorderCorr.of1(), Gap: f.gap,
		Rate: f.rate, Limit: f.queue, MTU: f.mtu,
	}
	if f.burst == 0 {
		im.Loss = f.loss.of1()
		return im
	}
	// In the bad state everything is lost and a burst ends with probability 1/b
	// at each frame. The share of time in the bad state, p/(p+r), is the loss.
	l, r := f.loss.of1(), 1/float64(f.burst)
	im.Gilbert = &netem.Gilbert{P: min(1, r*l/(1-l)), R: r, LossBad: 1}
	return im
}

// errNoLinks: a fault of the network that touches no link.
var errNoLinks = errors.New("no link between these hosts")
