package nemesis

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ScheduleConfig says which faults a random schedule is made of.
type ScheduleConfig struct {
	Seed    uint64
	Nodes   []string
	Clients []string // may be empty
	// Kinds names sets of default templates: net (partitions), packet
	// (impairments of links), proc, host (power), clock, disk, dns. Default: net
	// and proc. Ignored where Templates is set.
	Kinds []string
	// Templates are the faults to draw from instead. They are one set.
	Templates []Template
	// Start and Length are the window: no fault begins before Start, and those
	// that end have ended at Start+Length.
	Start, Length time.Duration
	// Interval is the time from one fault's beginning to the next one's, on
	// average; default 10s. Each kind has a rhythm of its own, so that faults of
	// different kinds overlap, and those of one do not.
	Interval time.Duration
	// For is how long a fault lasts, on average; default half of Interval. It has
	// to be below it.
	For time.Duration
	// MaxAffected bounds how many nodes are stopped, cut off, held or damaged at
	// one time, so that a system which survives so many has to; 0 is no bound.
	// One of three, two of five. Damage to disks that outlasts its fault counts
	// until the end. Slow or lossy links, clocks and names do not count: a system
	// has to bear those everywhere.
	MaxAffected int
}

// Template is a fault with blanks: {10ms..500ms} is filled with a value between
// the two, evenly in its logarithm and rounded to two digits; {a,b,c} with one
// of the words.
type Template struct {
	Text   string  `json:"text"`
	Weight float64 `json:"weight,omitempty"` // relative to the others; default 1
}

// Step is one fault of a schedule; its duration is in the fault.
type Step struct {
	At    time.Duration `json:"at"`
	Fault Fault         `json:"fault"`
}

// Kinds is the names of the sets of default templates.
func Kinds() []string { return []string{"net", "packet", "proc", "host", "clock", "disk", "dns"} }

// DefaultTemplates is the set of a name in Kinds; nil of no such set. The
// ranges are Jepsen's where it has them. Loss is what is written: netem's
// correlation, which turns Jepsen's 20 % into 0.1 %, is not used.
func DefaultTemplates(kind string) []Template {
	switch kind {
	case "net":
		return []Template{
			{Text: "net cut one", Weight: 2},
			{Text: "net cut majority", Weight: 2},
			{Text: "net cut majorities-ring", Weight: 2},
			{Text: "net cut primaries", Weight: 2},
			{Text: "net cut bridge"},
			{Text: "net cut {one,primaries} {oneway,inward}", Weight: 2},
			{Text: "net cut {one,majority} jammed"},
			{Text: "net clog one"},
			{Text: "net swizzle some over 3s"},
		}
	case "packet":
		return []Template{
			{Text: "net delay all-all {10ms..500ms} jitter 10ms normal", Weight: 2},
			{Text: "net delay one {50ms..2s} jitter 50ms"},
			{Text: "net loss all-all {1%..30%}", Weight: 2},
			{Text: "net loss one {5%..50%} burst {2..20}"},
			{Text: "net nic-loss one 7%"},
			{Text: "net dup all-all {1%..20%}"},
			{Text: "net corrupt all-all {1%..20%}"},
			{Text: "net link all-all delay {10ms..100ms} reorder {5%..30%}"},
			{Text: "net rate all-all {128kbit..2mbit} queue 50"},
		}
	case "proc":
		return []Template{
			{Text: "proc kill {one,minority,primary}", Weight: 3},
			{Text: "proc kill all"},
			{Text: "proc pause {one,minority,primary}", Weight: 3},
			{Text: "proc pause majority"},
			{Text: "proc throttle one {2%..10%}"},
			{Text: "proc restart {one,primary}"},
		}
	case "host":
		return []Template{
			{Text: "host power one", Weight: 2},
			{Text: "host power one {aged,subset,prefix,torn-tail}"},
			{Text: "host power primary"},
			{Text: "host power all"},
		}
	case "clock":
		return []Template{
			{Text: "clock jump some {+,-}{11ms..288s}", Weight: 3},
			{Text: "clock jump {primary,one} {+,-}{11ms..288s}"},
			{Text: "clock strobe some {4ms..262s} every {10ms..1s}"},
			{Text: "clock drift one {+,-}{1000..100000}ppm"},
			{Text: "clock drift one x{1.5,2,0.5}"},
		}
	case "disk":
		return []Template{
			{Text: "disk slow {one,primary} {1ms..100ms}", Weight: 2},
			{Text: "disk stall one fsync,fdatasync"},
			{Text: "disk stall primary fsync,fdatasync"},
			{Text: "disk eio one write,fsync {5%..50%}"},
			{Text: "disk fsync-eio one nth 1"},
			{Text: "disk full one {4KB..1MB}"},
			{Text: "disk readonly one"},
		}
	case "dns":
		return []Template{
			{Text: "dns slow {500ms..5s}"},
			{Text: "dns silent"},
			{Text: "dns fail"},
		}
	}
	return nil
}

// Schedule draws the faults of a run, in the order of their times. The same
// configuration gives the same steps, and the steps of one kind do not change
// when another kind is added, unless MaxAffected forbids some of them. What only
// the running system knows (its primary) is left in the text; each such fault
// counts as one node more than those that are affected already.
func Schedule(cfg ScheduleConfig) ([]Step, error) {
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.For <= 0 {
		cfg.For = cfg.Interval / 2
	}
	if cfg.For >= cfg.Interval {
		return nil, fmt.Errorf("schedule: faults of %s every %s would not end: For has to be below Interval", cfg.For, cfg.Interval)
	}
	sets, err := templateSets(&cfg)
	if err != nil {
		return nil, err
	}
	var slots []slot
	for _, set := range sets {
		slots = append(slots, rhythm(cfg, set.name)...)
	}
	slices.SortStableFunc(slots, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.set, b.set))
	})
	budget := budget{max: cfg.MaxAffected}
	var steps []Step
	for _, s := range slots {
		budget.forget(s.at)
		step, ok, err := cfg.fill(s, sets, &budget)
		if err != nil {
			return nil, err
		}
		if ok {
			steps = append(steps, step)
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps, nil
}

// templateSet is templates that share a rhythm.
type templateSet struct {
	name      string
	templates []Template
}

// templateSets are the sets of the configuration, proven to be faults, without
// those that these hosts are too few for.
func templateSets(cfg *ScheduleConfig) ([]templateSet, error) {
	var sets []templateSet
	if len(cfg.Templates) > 0 {
		sets = append(sets, templateSet{name: "templates", templates: cfg.Templates})
	} else {
		if len(cfg.Kinds) == 0 {
			cfg.Kinds = []string{"net", "proc"}
		}
		for i, kind := range cfg.Kinds {
			set := templateSet{name: kind, templates: DefaultTemplates(kind)}
			if set.templates == nil || slices.Contains(cfg.Kinds[:i], kind) {
				return nil, fmt.Errorf("schedule: kind %q: there are %s, each once", kind, strings.Join(Kinds(), ", "))
			}
			sets = append(sets, set)
		}
	}
	for i := range sets {
		var fitting []Template
		var unfit error
		for _, t := range sets[i].templates {
			if t.Weight < 0 || math.IsNaN(t.Weight) || math.IsInf(t.Weight, 0) {
				return nil, fmt.Errorf("template %q: weight %v", t.Text, t.Weight)
			}
			f, err := t.fill(newDraw(cfg.Seed, "check", t.Text))
			if err != nil {
				return nil, err
			}
			if _, err := Expand(f, cfg.Nodes, cfg.Clients, cfg.Seed); err != nil {
				unfit = err
				continue
			}
			fitting = append(fitting, t)
		}
		if len(fitting) == 0 || len(cfg.Templates) > 0 && unfit != nil {
			return nil, fmt.Errorf("schedule: %w", cmp.Or(unfit, errors.New("no templates")))
		}
		sets[i].templates = fitting
	}
	return sets, nil
}

// slot is room for one fault.
type slot struct {
	set    string
	number int
	at     time.Duration
	dur    time.Duration
	limit  time.Duration // the next one of its set may begin here
}

// rhythm is when the faults of one set are: pauses and durations vary by half
// of their mean to either side.
func rhythm(cfg ScheduleConfig, set string) []slot {
	var slots []slot
	at := cfg.Start
	for i := 0; ; i++ {
		d := newDraw(cfg.Seed, "rhythm", set, strconv.Itoa(i))
		vary := func(mean time.Duration) time.Duration {
			return time.Duration(float64(mean) * (0.5 + d.float())).Round(100 * time.Millisecond)
		}
		pause, dur := vary(cfg.Interval-cfg.For), max(vary(cfg.For), 100*time.Millisecond)
		if i == 0 {
			pause = (pause / 2).Round(100 * time.Millisecond)
		}
		at += pause
		if i > 0 {
			slots[i-1].limit = min(at, cfg.Start+cfg.Length)
		}
		if at+dur > cfg.Start+cfg.Length {
			return slots
		}
		slots = append(slots, slot{set: set, number: i, at: at, dur: dur})
		at += dur
	}
}

// attempts is how many faults are tried for one slot at one time, and shifts how
// often it is moved to when something else has ended, before it stays empty.
const (
	attempts = 50
	shifts   = 4
	shortest = 500 * time.Millisecond // of a slot that was moved
)

// fill draws a fault for a slot; ok is false where none fits the budget.
func (cfg ScheduleConfig) fill(s slot, sets []templateSet, b *budget) (Step, bool, error) {
	for shift := range shifts {
		step, ok, err := cfg.fillAt(s, shift, sets, b)
		if ok || err != nil {
			return step, ok, err
		}
		at, ok := b.next(s.at)
		if !ok || at+min(shortest, s.dur) > s.limit {
			break
		}
		s.at, s.dur = at, min(s.dur, s.limit-at).Truncate(100*time.Millisecond)
	}
	return Step{}, false, nil
}

func (cfg ScheduleConfig) fillAt(s slot, shift int, sets []templateSet, b *budget) (Step, bool, error) {
	i := slices.IndexFunc(sets, func(set templateSet) bool { return set.name == s.set })
	templates := sets[i].templates
	for try := range attempts {
		name := []string{"fault", s.set, strconv.Itoa(s.number), strconv.Itoa(shift*attempts + try)}
		d := newDraw(cfg.Seed, name...)
		f, err := pick(templates, d).fill(d)
		if err != nil {
			return Step{}, false, err
		}
		f, err = Expand(f, cfg.Nodes, cfg.Clients, d.number())
		if err != nil {
			continue // too few hosts for this draw of the blanks
		}
		if f.dur == 0 && !f.endsItself() {
			f = f.WithFor(s.dur)
		}
		until := s.at + s.dur
		if f.dur > s.dur {
			until = s.at + f.dur
		}
		hosts, unknown := f.stricken(cfg.Nodes, slices.Concat(cfg.Nodes, cfg.Clients, []string{Lab}))
		t := taking{until: until, hosts: hosts, unknown: unknown, down: f.stops(), inVain: f.inVain()}
		if !b.take(s.at, t, f.lasting()) {
			continue
		}
		return Step{At: s.at, Fault: f}, true, nil
	}
	return Step{}, false, nil
}

func pick(templates []Template, d *draw) Template {
	var sum float64
	for _, t := range templates {
		sum += cmp.Or(t.Weight, 1)
	}
	x := d.float() * sum
	for _, t := range templates {
		if x -= cmp.Or(t.Weight, 1); x < 0 {
			return t
		}
	}
	return templates[len(templates)-1]
}

// budget keeps how many nodes are affected at one time.
type budget struct {
	max   int
	taken []taking // in the order of their beginnings
	worn  []string // damaged for good
}

type taking struct {
	until   time.Duration
	hosts   []string
	unknown int
	down    []string // nothing runs there meanwhile
	inVain  []string // hosts on which something has to run, or the fault is in vain
}

// take notes a fault where it fits. Faults come in the order of their times; one
// that was moved counts from the time it had.
func (b *budget) take(at time.Duration, t taking, lasting bool) bool {
	all := slices.Concat(b.worn, t.hosts)
	more := t.unknown
	for _, other := range b.taken {
		if other.until <= at {
			continue
		}
		all = append(all, other.hosts...)
		more += other.unknown
		if slices.ContainsFunc(t.inVain, func(h string) bool { return slices.Contains(other.down, h) }) ||
			slices.ContainsFunc(other.inVain, func(h string) bool { return slices.Contains(t.down, h) }) {
			return false
		}
	}
	slices.Sort(all)
	if b.max > 0 && len(slices.Compact(all))+more > b.max && len(t.hosts)+t.unknown > 0 {
		return false
	}
	b.taken = append(b.taken, t)
	if lasting {
		b.worn = append(b.worn, t.hosts...)
	}
	return true
}

// forget drops what has ended.
func (b *budget) forget(at time.Duration) {
	b.taken = slices.DeleteFunc(b.taken, func(t taking) bool { return t.until <= at })
}

// next is when the first of the faults ends that are active at a time.
func (b *budget) next(at time.Duration) (time.Duration, bool) {
	var first time.Duration
	for _, t := range b.taken {
		if t.until > at && (first == 0 || t.until < first) {
			first = t.until
		}
	}
	return first, first > 0
}

// stops is the hosts on which nothing of the system runs while the fault lasts.
func (f Fault) stops() []string {
	switch s := f.spec.(type) {
	case powerSpec:
		return s.targets()
	case procSpec:
		if s.verb == "kill" {
			return s.targets()
		}
	}
	return nil
}

// inVain is the hosts on which the fault does nothing unless something runs there.
func (f Fault) inVain() []string {
	switch s := f.spec.(type) {
	case procSpec, powerSpec, diskSpec:
		return s.targets()
	}
	return nil
}

// endsItself: the fault needs no duration.
func (f Fault) endsItself() bool {
	switch s := f.spec.(type) {
	case resetSpec, actSpec:
		return true
	case procSpec:
		return s.verb == "restart" || s.verb == "rolling"
	case clockSpec:
		return s.verb == "reset"
	case diskSpec:
		return s.action == flipAtRest
	}
	return false
}

func (f Fault) lasting() bool {
	s, ok := f.spec.(diskSpec)
	return ok && s.lasting()
}

// stricken is the nodes that the fault takes from the system while it lasts,
// and how many more that nobody can name yet.
func (f Fault) stricken(nodes, everyone []string) (hosts []string, unknown int) {
	names := f.spec.targets()
	switch s := f.spec.(type) {
	case cutSpec:
		if f.Dynamic() {
			return nil, 1
		}
		return affected(f, nodes, everyone), 0
	case clogSpec, swizzleSpec, synHoleSpec, powerSpec, diskSpec:
	case procSpec:
		if s.verb == "rolling" && len(names) > 0 {
			return nil, 1 // one after the other
		}
	default:
		return nil, 0
	}
	for _, name := range names {
		switch {
		case slices.Contains(nodes, name):
			hosts = append(hosts, name)
		case name == SelectPrimary || name == SelectFollower || name == SelectPrimaries:
			unknown++
		case name == SelectFollowers:
			unknown += len(nodes) - 1
		}
	}
	return hosts, unknown
}

// fill draws the blanks and reads the fault.
func (t Template) fill(d *draw) (Fault, error) {
	var text strings.Builder
	rest := t.Text
	for {
		before, after, found := strings.Cut(rest, "{")
		text.WriteString(before)
		if !found {
			break
		}
		blank, next, closed := strings.Cut(after, "}")
		if !closed {
			return Fault{}, fmt.Errorf("template %q: a { without its }", t.Text)
		}
		value, err := fillBlank(blank, d)
		if err != nil {
			return Fault{}, fmt.Errorf("template %q: %w", t.Text, err)
		}
		text.WriteString(value)
		rest = next
	}
	f, err := Parse(text.String())
	if err != nil {
		return Fault{}, fmt.Errorf("template %q: %w", t.Text, err)
	}
	return f, nil
}

// fillBlank draws a word or a value.
func fillBlank(blank string, d *draw) (string, error) {
	from, to, isRange := strings.Cut(blank, "..")
	if !isRange {
		words := strings.Split(blank, ",")
		return words[d.below(len(words))], nil
	}
	if low, err := time.ParseDuration(from); err == nil {
		high, err := time.ParseDuration(to)
		if err != nil || low <= 0 || high < low {
			return "", fmt.Errorf("blank {%s}: not two durations in order", blank)
		}
		return formatDuration(time.Duration(between(float64(low), float64(high), d))), nil
	}
	for _, units := range [][]unit{{{"%", 1}}, {{"", 1}}, bitrates, readable} {
		low, ok1 := parseUnits(from, units)
		high, ok2 := parseUnits(to, units)
		if !ok1 || !ok2 {
			continue
		}
		if low <= 0 || high < low {
			return "", fmt.Errorf("blank {%s}: not two values in order", blank)
		}
		x := between(low, high, d)
		if units[0].name == "%" {
			return percent(x).String(), nil
		}
		n := int64(max(1, math.Round(x)))
		if len(units) == 1 {
			return strconv.FormatInt(n, 10), nil
		}
		if units[0].name == bitrates[0].name {
			return formatQuantity(n, bitrates), nil
		}
		return formatQuantity(n, sizes), nil
	}
	return "", fmt.Errorf("blank {%s}: a range is between two durations, percentages, rates, sizes or numbers", blank)
}

func parseUnits(text string, units []unit) (float64, bool) {
	for _, u := range units {
		if digits, ok := strings.CutSuffix(text, u.name); ok && plainNumber(digits) {
			x, err := strconv.ParseFloat(digits, 64)
			return x * float64(u.value), err == nil
		}
	}
	return 0, false
}

// between draws evenly in the logarithm, with two digits, within the bounds.
func between(low, high float64, d *draw) float64 {
	x := math.Exp(math.Log(low) + d.float()*(math.Log(high)-math.Log(low)))
	digit := math.Pow(10, math.Floor(math.Log10(x))-1)
	x, _ = strconv.ParseFloat(strconv.FormatFloat(math.Round(x/digit)*digit, 'g', 6, 64), 64)
	return min(high, max(low, x))
}
