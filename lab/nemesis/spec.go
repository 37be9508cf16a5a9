package nemesis

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/lab/faultfs"
)

// onHosts is shared by the faults that stand on hosts.
type onHosts struct{ hosts []string }

func (t onHosts) targets() []string { return t.hosts }
func (t onHosts) list() string      { return strings.Join(t.hosts, ",") }

func (t onHosts) in(s *scope) (onHosts, error) {
	hosts, err := s.hosts(t.hosts, false)
	return onHosts{hosts}, err
}

func (p *parser) on() onHosts { return onHosts{p.target()} }

// Name server.

type dnsSpec struct {
	verb  string // stale, nx, silent, slow, fail
	name  string // "" is all names
	addrs []netip.Addr
	delay time.Duration
}

func (p *parser) dns() spec {
	const aName = "a name such as db.lab"
	f := dnsSpec{verb: p.oneOf("stale", "nx", "silent", "slow", "fail")}
	switch f.verb {
	case "":
		p.expected("stale, nx, silent, slow or fail")
		return nil
	case "stale":
		f.name = p.must(aName)
		const anAddr = "an address such as 10.77.0.11, or several with commas between them"
		for text := range strings.SplitSeq(p.bare(anAddr), ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				p.refuse(anAddr)
				break
			}
			f.addrs = append(f.addrs, addr)
		}
	case "nx":
		f.name = p.must(aName)
	case "slow":
		f.delay = p.duration()
	}
	if f.name == "" && p.more() {
		f.name = p.must(aName)
	}
	return f
}

func (dnsSpec) kind() Kind { return KindDNS }

func (f dnsSpec) words() []string {
	w := []string{"dns", f.verb}
	if f.delay > 0 {
		w = append(w, formatDuration(f.delay))
	}
	if f.name != "" {
		w = append(w, quote(f.name))
	}
	texts := make([]string, len(f.addrs))
	for i, a := range f.addrs {
		texts[i] = a.String()
	}
	if len(texts) > 0 {
		w = append(w, strings.Join(texts, ","))
	}
	return w
}
func (f dnsSpec) expand(*scope) (spec, error) { return f, nil }
func (f dnsSpec) targets() []string           { return nil }
func (f dnsSpec) failure(b builder) failure   { return b.dns(f) }

func (f dnsSpec) fault() DNSFault {
	return DNSFault{Answer: f.addrs, NX: f.verb == "nx", Silent: f.verb == "silent", Fail: f.verb == "fail", Delay: f.delay}
}

// Processes.

type procSpec struct {
	onHosts

	verb  string        // kill, pause, restart, rolling, throttle
	name  string        // of the process; "" is all of the system's
	every time.Duration // of rolling
	share percent       // of throttle
}

func (p *parser) proc() spec {
	f := procSpec{verb: p.oneOf("kill", "pause", "restart", "rolling", "throttle")}
	if f.verb == "" {
		p.expected("kill, pause, restart, rolling or throttle")
		return nil
	}
	f.onHosts = p.on()
	switch f.verb {
	case "kill", "pause":
		if p.more() {
			f.name = p.must("the name of a process")
		}
	case "rolling":
		if !p.accept("every") {
			p.expected("every and a duration")
		}
		f.every = p.duration()
	case "throttle":
		f.share = p.percent()
	}
	return f
}

func (procSpec) kind() Kind { return KindProc }

func (f procSpec) words() []string {
	w := []string{"proc", f.verb, f.list()}
	if f.name != "" {
		w = append(w, quote(f.name))
	}
	if f.every > 0 {
		w = append(w, "every", formatDuration(f.every))
	}
	if f.share > 0 {
		w = append(w, f.share.String())
	}
	return w
}

func (f procSpec) expand(s *scope) (spec, error) {
	var err error
	f.onHosts, err = f.in(s)
	return f, err
}

func (f procSpec) failure(b builder) failure {
	switch f.verb {
	case "kill":
		return b.kill(f.hosts, f.name)
	case "pause":
		return b.pause(f.hosts, f.name)
	case "restart":
		return b.restart(f.hosts)
	case "rolling":
		return b.rolling(f.hosts, f.every)
	default:
		return b.throttle(f.hosts, f.share.of1())
	}
}

// Power.

type powerSpec struct {
	onHosts

	crash faultfs.Crash // what is zero is as the lab's disks are set
}

func (p *parser) power() spec {
	if !p.accept("power") {
		p.expected("power")
		return nil
	}
	f := powerSpec{onHosts: p.on()}
	for p.more() {
		switch opt := p.oneOf("posix", "ext4-ordered", "lazyfs", "lose-all", "aged", "subset", "prefix", "torn-tail"); opt {
		case "posix", "ext4-ordered", "lazyfs":
			if f.crash.Profile != "" {
				p.refuse("one profile only")
			}
			f.crash.Profile = faultfs.Profile(opt)
		case "":
			p.expected("posix, ext4-ordered, lazyfs, lose-all, aged, subset, prefix, torn-tail, for or the end")
		default:
			if f.crash.Policy != "" {
				p.refuse("one policy only")
			}
			f.crash.Policy = faultfs.Policy(opt)
			if opt == "aged" && p.more() {
				f.crash.Age = p.duration()
			}
		}
	}
	return f
}

func (powerSpec) kind() Kind { return KindHost }

func (f powerSpec) words() []string {
	w := []string{"host", "power", f.list()}
	if f.crash.Profile != "" {
		w = append(w, string(f.crash.Profile))
	}
	if f.crash.Policy != "" {
		w = append(w, string(f.crash.Policy))
	}
	if f.crash.Age > 0 {
		w = append(w, formatDuration(f.crash.Age))
	}
	return w
}

func (f powerSpec) expand(s *scope) (spec, error) {
	var err error
	f.onHosts, err = f.in(s)
	return f, err
}
func (f powerSpec) failure(b builder) failure { return b.power(f) }

// Clocks.

type clockSpec struct {
	onHosts

	verb  string        // jump, drift, strobe, reset
	jump  time.Duration // of jump and strobe
	drift drift
	every time.Duration // of strobe
}

func (p *parser) clock() spec {
	f := clockSpec{verb: p.oneOf("jump", "drift", "strobe", "reset")}
	if f.verb == "" {
		p.expected("jump, drift, strobe or reset")
		return nil
	}
	f.onHosts = p.on()
	switch f.verb {
	case "jump":
		f.jump = p.signed()
	case "drift":
		f.drift = p.drift()
	case "strobe":
		f.jump = p.duration()
		if !p.accept("every") {
			p.expected("every and a duration")
		}
		f.every = p.duration()
	}
	return f
}

func (clockSpec) kind() Kind { return KindClock }

func (f clockSpec) words() []string {
	w := []string{"clock", f.verb, f.list()}
	switch f.verb {
	case "jump":
		w = append(w, formatSigned(f.jump))
	case "drift":
		w = append(w, f.drift.String())
	case "strobe":
		w = append(w, formatDuration(f.jump), "every", formatDuration(f.every))
	}
	return w
}

func (f clockSpec) expand(s *scope) (spec, error) {
	var err error
	f.onHosts, err = f.in(s)
	return f, err
}

func (f clockSpec) failure(b builder) failure {
	switch f.verb {
	case "strobe":
		return b.strobe(f)
	case "reset":
		return b.clockReset(f.hosts)
	default:
		return b.clock(f)
	}
}

// Disks.

type diskSpec struct {
	onHosts

	action faultfs.Action // eio, …; full, readonly and flip are written with these words of ours
	ops    []string
	path   string
	chance percent
	nth    int
	delay  time.Duration // of slow
	quota  int64         // of full; 0: nothing is left
	flips  int           // of flip
}

// flipAtRest is done once and not by a rule of the filesystem.
const flipAtRest faultfs.Action = "flip"

// diskVerbs are the words for the filesystem's actions.
var diskVerbs = []struct {
	word   string
	action faultfs.Action
}{
	{"eio", faultfs.EIO},
	{"fsync-eio", faultfs.FsyncEIO},
	{"full", faultfs.ENOSPC},
	{"readonly", faultfs.EROFS},
	{"stall", faultfs.Stall},
	{"slow", faultfs.Slow},
	{"flip-read", faultfs.FlipRead},
	{"torn", faultfs.Torn},
	{"stale", faultfs.Stale},
	{"misdirect", faultfs.Misdirect},
	{"flip", flipAtRest},
}

// diskOps are the operations that a rule of the filesystem can name.
var diskOps = []string{
	"read", "write", "fsync", "fdatasync", "fsyncdir", "open", "create", "mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename",
	"truncate", "setattr", "getattr", "lookup", "setxattr", "getxattr", "fallocate", "copy", "readdir", "readlink", "statfs",
}

// choosesOps: the operations of the other actions are given by what they are.
func (f diskSpec) choosesOps() bool {
	return f.action == faultfs.EIO || f.action == faultfs.Stall || f.action == faultfs.Slow
}

// chooses says whether a rule can be narrowed to some operations by chance or
// number: full and readonly are states of the whole disk.
func (f diskSpec) chooses() bool {
	return f.action != faultfs.ENOSPC && f.action != faultfs.EROFS
}

func (p *parser) disk() spec {
	words := make([]string, len(diskVerbs))
	for i, v := range diskVerbs {
		words[i] = v.word
	}
	verb := p.oneOf(words...)
	if verb == "" {
		p.expected(strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1])
		return nil
	}
	f := diskSpec{action: diskVerbs[slices.Index(words, verb)].action, onHosts: p.on()}
	if f.action == flipAtRest {
		f.path = p.glob()
		f.flips = p.count(1_000_000, "how many bits, such as 3")
		return f
	}
	if f.action == faultfs.Slow {
		f.delay = p.duration()
	}
	if f.action == faultfs.ENOSPC && p.more() && p.peek() != "path" {
		f.quota = p.size()
	}
	if f.choosesOps() && p.more() && p.ops(p.peek()) {
		f.ops = p.opList()
	}
	p.diskOptions(&f)
	return f
}

// ops: the word is a list of operations, not an option.
func (p *parser) ops(word string) bool {
	return word != "" && word != "path" && word != "nth" && !strings.HasSuffix(word, "%")
}

func (p *parser) opList() []string {
	ops := strings.Split(p.bare("operations"), ",")
	at := p.words[p.next-1].at
	for i, op := range ops {
		if !slices.Contains(diskOps, op) || slices.Contains(ops[:i], op) {
			p.fail(at, "operations, each once: "+strings.Join(diskOps, ", ")+"; or path, a percentage, nth or for", op)
			return nil
		}
		at += len(op) + 1
	}
	return ops
}

func (p *parser) glob() string {
	return p.must("a glob such as wal/*.log; ** crosses directories")
}

func (p *parser) diskOptions(f *diskSpec) {
	for p.more() {
		switch opt := p.peek(); {
		case opt == "path" && f.path == "":
			p.next++
			f.path = p.glob()
		case opt == "nth" && f.chooses() && f.nth == 0 && f.chance == 0:
			p.next++
			f.nth = p.count(1_000_000_000, "which operation, from 1")
		case strings.HasSuffix(opt, "%") && f.chooses() && f.nth == 0 && f.chance == 0:
			f.chance = p.percent()
		case f.chooses():
			p.expected("path, a percentage or nth, for or the end")
		default:
			p.expected("path, for or the end")
		}
	}
}

func (diskSpec) kind() Kind { return KindDisk }

func (f diskSpec) verb() string {
	for _, v := range diskVerbs {
		if v.action == f.action {
			return v.word
		}
	}
	return string(f.action)
}

func (f diskSpec) words() []string {
	w := []string{"disk", f.verb(), f.list()}
	if f.action == flipAtRest {
		return append(w, quote(f.path), strconv.Itoa(f.flips))
	}
	if f.quota > 0 {
		w = append(w, formatQuantity(f.quota, sizes))
	}
	if f.delay > 0 {
		w = append(w, formatDuration(f.delay))
	}
	if len(f.ops) > 0 {
		w = append(w, strings.Join(f.ops, ","))
	}
	if f.path != "" {
		w = append(w, "path", quote(f.path))
	}
	if f.chance > 0 {
		w = append(w, f.chance.String())
	}
	if f.nth > 0 {
		w = append(w, "nth", strconv.Itoa(f.nth))
	}
	return w
}

func (f diskSpec) expand(s *scope) (spec, error) {
	var err error
	f.onHosts, err = f.in(s)
	return f, err
}

func (f diskSpec) failure(b builder) failure {
	if f.action == flipAtRest {
		return b.flip(f)
	}
	return b.disk(f)
}

// rule is the fault in the filesystem's words.
func (f diskSpec) rule(id string) faultfs.Rule {
	return faultfs.Rule{
		ID: id, Ops: f.ops, Path: f.path, Action: f.action,
		Probability: f.chance.of1(), Nth: f.nth, Delay: f.delay, Quota: f.quota,
	}
}

// lasting: the damage stays when the fault is recovered.
func (f diskSpec) lasting() bool {
	switch f.action {
	case faultfs.FsyncEIO, faultfs.Torn, faultfs.Stale, faultfs.Misdirect, flipAtRest:
		return true
	case faultfs.EIO, faultfs.ENOSPC, faultfs.EROFS, faultfs.Stall, faultfs.Slow, faultfs.FlipRead:
	}
	return false
}

// Actions of the system's driver.

type actSpec struct {
	action string
	args   []string
}

func (p *parser) act() spec {
	f := actSpec{action: p.must("an action of the system's driver, such as promote")}
	for p.more() {
		f.args = append(f.args, p.any("an argument"))
	}
	return f
}

func (actSpec) kind() Kind { return KindAct }

func (f actSpec) words() []string {
	w := []string{"act", quote(f.action)}
	for _, arg := range f.args {
		w = append(w, quote(arg))
	}
	return w
}

// expand replaces arguments that are selectors by hosts with commas between
// them. Other arguments are the driver's affair.
func (f actSpec) expand(s *scope) (spec, error) {
	args := slices.Clone(f.args)
	for i, arg := range args {
		if !slices.Contains(selectors, arg) {
			continue
		}
		hosts, err := s.hosts([]string{arg}, false)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i+1, err)
		}
		args[i] = strings.Join(hosts, ",")
	}
	f.args = args
	return f, nil
}

// targets is the arguments: hosts may be among them.
func (f actSpec) targets() []string         { return f.args }
func (f actSpec) failure(b builder) failure { return b.act(f) }
