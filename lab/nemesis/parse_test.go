package nemesis

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const docFile = "../../docs/lab-faults.md"

// examples are the faults of the documentation: every line of its fault blocks.
func examples(tb testing.TB) []string {
	tb.Helper()
	doc, err := os.ReadFile(docFile)
	if err != nil {
		tb.Fatal(err)
	}
	var lines []string
	for _, block := range regexp.MustCompile("(?s)```fault\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func TestCanonicalText(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"net cut n1|n2,n3", "net cut n1|n2,n3"},
		{"  net\tcut n1>n2,n3  jammed  for 1m0s ", "net cut n1|n2,n3 oneway jammed for 1m"},
		{"net cut n1|n2|n3 stopped port 2380 for 5000ms", "net cut n1|n2|n3 port 2380 for 5s"},
		{"net cut majorities-ring slowed", "net cut majorities-ring slowed"},
		{"net cut minority-third inward", "net cut minority-third inward"},
		{"net cut links n1-n3+minority-third>n2,n4", "net cut links n1-n3+minority-third>n2,n4"},
		{"net cut primary|followers,c1", "net cut primary|followers,c1"},
		{"net link n1>n2 delay 50ms", "net delay n1>n2 50ms"},
		{"net delay all 50ms jitter 10ms corr 25% normal loss 1%", "net link all delay 50ms jitter 10ms corr 25% normal loss 1%"},
		{"net delay all 50ms jitter 10ms uniform", "net delay all 50ms jitter 10ms"},
		{"net loss n1,n2-n3 7% burst 5", "net loss n1,n2-n3 7% burst 5"},
		{"net reorder all 5%", "net link all delay 10ms reorder 5%"},
		{"net corrupt n1 0.5% fix-checksum", "net corrupt n1 0.5% fix-checksum"},
		{"net rate n1 1000kbit queue 100", "net rate n1 1mbit queue 100"},
		{"net mtu n1-n2 1200 port 80 proto udp", "net mtu n1-n2 1200 proto udp port 80"},
		{"net clog n1 jammed", "net clog n1"},
		{"net microburst n1>n2 10MiB every 0.1s", "net microburst n1>n2 10485760B every 100ms"},
		{"dns stale db.lab 10.0.0.1,::1", "dns stale db.lab 10.0.0.1,::1"},
		{"dns slow 1h0m0s", "dns slow 1h"},
		{`proc kill n1 "a b"`, `proc kill n1 "a b"`},
		{`proc kill n1 "server"`, "proc kill n1 server"},
		{`proc kill n1 "for"`, `proc kill n1 "for"`},
		{"host power one ext4-ordered aged 30s for 5s", "host power one ext4-ordered aged 30s for 5s"},
		{"clock jump n1 +3600s", "clock jump n1 +1h"},
		{"clock jump n1 -1500ms", "clock jump n1 -1.5s"},
		{"clock drift n1 x1.00002", "clock drift n1 +20ppm"},
		{"clock drift n1 +500000ppm", "clock drift n1 x1.5"},
		{"clock drift n1 x0", "clock drift n1 x0"},
		{"disk eio n1 write,fsync path wal/** 10%", "disk eio n1 write,fsync path wal/** 10%"},
		{"disk full n1", "disk full n1"},
		{"disk full n1 10000KB", "disk full n1 10MB"},
		{`act promote n2 "two words"`, `act promote n2 "two words"`},
	} {
		f, err := Parse(c.in)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := f.String(); got != c.want {
			t.Errorf("%q prints as %q, not %q", c.in, got, c.want)
		}
	}
}

func TestErrorsPointAtTheColumn(t *testing.T) {
	for _, c := range []struct {
		in       string
		column   int
		expected string
	}{
		{"", 1, "net, dns, proc"},
		{"nett cut", 1, "net, dns, proc"},
		{"net", 4, "cut, link"},
		{"net cut", 8, "groups such as"},
		{"net cut n1", 11, "another group"},
		{"net cut n1|", 12, "a host"},
		{"net cut n1|n2,n1", 15, "another host"},
		{"net cut n1>n2,n1", 15, "another host"},
		{"net cut n1,n1|n2", 12, "another host"},
		{"net cut n1|n2 sideways", 15, "oneway, inward"},
		{"net cut n1|n2 oneway inward", 22, "one direction"},
		{"net cut one oneway oneway", 20, "only once"},
		{"net cut one stopped jammed", 21, "one of stopped"},
		{"net cut links n1>n2 oneway", 21, "links have their direction"},
		{"net cut n1|n2 port 70000", 20, "a port"},
		{"net cut n1|n2 for", 18, "a duration"},
		{"net cut n1|n2 for 0s", 19, "a duration"},
		{"net cut n1|n2 for 5s for 6s", 22, "the end"},
		{"net delay n1 5x", 14, "a duration such as 50ms"},
		{"net delay n1 -5ms", 14, "a duration"},
		{"net link n1", 12, "delay, loss"},
		{"net loss n1 0%", 13, "a percentage"},
		{"net loss n1 101%", 13, "a percentage"},
		{"net loss n1 1e1%", 13, "a percentage"},
		{"net loss n1 99% burst 5", 23, "a burst that is longer"},
		{"net loss n1 5% loss 6%", 16, "only once"},
		{"net rate n1 1mb", 13, "a rate"},
		{"net swizzle n1 3s", 16, "over"},
		{"net reset n1", 13, "the hosts at the other end"},
		{"dns stale db.lab nowhere", 18, "an address"},
		{"dns nx", 7, "a name"},
		{`dns nx ""`, 8, "a name"},
		{"proc kill", 10, "hosts such as"},
		{"proc kill n1 a b", 16, "the end"},
		{"proc kill n1 \"a", 14, "quotation mark"},
		{"proc kill n1 \"a\"b", 17, "a blank"},
		{"proc kill n1-n2", 13, "a comma"},
		{"proc throttle n1 20", 18, "a percentage"},
		{"host reboot n1", 6, "power"},
		{"host power n1 posix lazyfs", 21, "one profile"},
		{"clock jump n1 1h", 15, "with its sign"},
		{"clock drift n1 500ppm", 16, "a drift"},
		{"clock drift n1 +0ppm", 16, "a drift"},
		{"clock drift n1 +", 16, "a drift"},
		{"disk eio n1 write,rid", 19, "operations"},
		{"disk full n1 10MB 5%", 19, "path, for"},
		{"disk torn n1 5% nth 3", 17, "path, a percentage"},
		{"disk flip n1 wal/*", 19, "how many bits"},
		{"act", 4, "an action"},
		{"näh", 1, "net, dns"},
		{"dns nx ä bc", 10, "the end"},
	} {
		_, err := Parse(c.in)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: error %v", c.in, err)
			continue
		}
		if syntax.Column != c.column || !strings.Contains(syntax.Expected, c.expected) {
			t.Errorf("%q: %v; want column %d and %q", c.in, err, c.column, c.expected)
		}
	}
}

func TestDocumentedFaultsParse(t *testing.T) {
	lines := examples(t)
	if len(lines) < 40 {
		t.Fatalf("only %d examples in %s", len(lines), docFile)
	}
	verbs := map[string]bool{}
	for _, line := range lines {
		f, err := Parse(line)
		if err != nil {
			t.Error(err)
			continue
		}
		again, err := Parse(f.String())
		if err != nil || again.String() != f.String() {
			t.Errorf("%q prints as %q, which reads as %q, %v", line, f, again, err)
		}
		w := strings.Fields(line)
		verbs[w[0]+" "+w[1]] = true
	}
	for _, verb := range allVerbs {
		if !verbs[verb] {
			t.Errorf("%s has no example of %q", docFile, verb)
		}
	}
}

// allVerbs is every fault of the language.
var allVerbs = []string{
	"net cut", "net link", "net delay", "net loss", "net dup", "net corrupt", "net reorder", "net rate", "net mtu",
	"net clog", "net swizzle", "net microburst", "net nic-loss", "net reset", "net syn-hole",
	"dns stale", "dns nx", "dns silent", "dns slow", "dns fail",
	"proc kill", "proc pause", "proc restart", "proc rolling", "proc throttle", "host power",
	"clock jump", "clock drift", "clock strobe", "clock reset",
	"disk eio", "disk fsync-eio", "disk full", "disk readonly", "disk stall", "disk slow", "disk torn", "disk stale",
	"disk misdirect", "disk flip-read", "disk flip", "act promote",
}

func TestTextIsJSON(t *testing.T) {
	step := Step{At: time.Second, Fault: MustParse("proc kill n1 for 5s")}
	text, err := json.Marshal(step)
	if err != nil || string(text) != `{"at":1000000000,"fault":"proc kill n1 for 5s"}` {
		t.Fatalf("%s, %v", text, err)
	}
	var back Step
	if err := json.Unmarshal(text, &back); err != nil || back.Fault.String() != step.Fault.String() || back.Fault.For() != 5*time.Second {
		t.Fatalf("%+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"fault":"proc kil n1"}`), &back); err == nil || !strings.Contains(err.Error(), "column 6") {
		t.Fatalf("error %v", err)
	}
}

// roundTrip: what a fault prints is read as the same fault.
func roundTrip(t interface{ Fatalf(string, ...any) }, f Fault) {
	text := f.String()
	back, err := Parse(text)
	if err != nil {
		t.Fatalf("%q does not parse: %v", text, err)
	}
	if back.String() != text || back.For() != f.For() {
		t.Fatalf("%q reads as %q", text, back)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := drawFault(t)
		f, err := Parse(line)
		if err != nil {
			t.Fatalf("%v", err)
		}
		roundTrip(t, f)
	})
}

func FuzzParse(f *testing.F) {
	for _, line := range examples(f) {
		f.Add(line)
	}
	f.Add(`proc kill n1 "\xff\x00"`)
	f.Fuzz(func(t *testing.T, line string) {
		fault, err := Parse(line)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Column < 1 || syntax.Column > len(line)+1 || syntax.Expected == "" {
				t.Fatalf("%q: error %v", line, err)
			}
			return
		}
		roundTrip(t, fault)
		// Whatever parses is expanded without a panic.
		_, _ = Expand(fault, []string{"n1", "n2", "n3"}, []string{"c1"}, 1)
	})
}

// drawFault is the text of some fault, not always the canonical one.
func drawFault(t *rapid.T) string {
	word := func(choices ...string) string { return rapid.SampledFrom(choices).Draw(t, "word") }
	maybe := func(text string) string {
		if rapid.Bool().Draw(t, "there") {
			return " " + text
		}
		return ""
	}
	hosts := func() string {
		names := append([]string{"n1", "n2", "n3", "c1"}, selectors...)
		return strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID[string]).Draw(t, "hosts"), ",")
	}
	links := func() string {
		terms := make([]string, rapid.IntRange(1, 3).Draw(t, "terms"))
		for i := range terms {
			terms[i] = hosts()
			if way := word("", "-", ">"); way != "" {
				terms[i] += way + hosts()
			}
		}
		return strings.Join(terms, "+")
	}
	dur := func() string {
		return time.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "duration")).String()
	}
	pct := func() string { return percent(rapid.Float64Range(0.000001, 45).Draw(t, "percent")).String() }
	num := func() string { return rapid.StringMatching(`[1-9][0-9]{0,3}`).Draw(t, "number") }
	size := func() string { return num() + word("B", "KB", "MB", "GB", "KiB") }
	name := func() string { return quote(rapid.String().Draw(t, "name")) }
	nonEmpty := func() string { return quote("x" + rapid.String().Draw(t, "name")) }
	groups := func() string { return word("n1|n2,n3", "n1>n2|n3", "n1,c1|n2|n3,lab", "primary|followers") }
	corr := func() string { return maybe("corr " + pct()) }
	families := map[string]func() string{
		"delay":   func() string { return dur() + maybe("jitter "+dur()+corr()+maybe(word("normal", "pareto", "uniform"))) },
		"loss":    func() string { return pct() + word("", " burst 5", " corr 5%") },
		"dup":     func() string { return pct() + corr() },
		"corrupt": func() string { return pct() + corr() + maybe("fix-checksum") },
		"reorder": func() string { return pct() + corr() + maybe("gap "+num()) },
		"rate":    func() string { return num() + word("bit", "kbit", "mbit", "gbit") + maybe("queue "+num()) },
		"mtu":     num,
	}
	impair := func() string {
		order := rapid.Permutation([]string{"delay", "loss", "dup", "corrupt", "reorder", "rate", "mtu"}).Draw(t, "families")
		order = order[:rapid.IntRange(1, len(order)).Draw(t, "how many")]
		text := "net link " + links()
		if rapid.Bool().Draw(t, "short") {
			text = "net " + order[0] + " " + links() + " " + families[order[0]]()
			order = order[1:]
		}
		for _, f := range order {
			text += " " + f + " " + families[f]()
		}
		return text + maybe("proto "+word("tcp", "udp")) + maybe("port "+num())
	}
	ops := func() string { return maybe(word("read", "write,fsync", "fsync,fdatasync,create")) }
	which := func() string { return maybe("path "+nonEmpty()) + word("", " "+pct(), " nth "+num()) }
	makers := []func() string{
		func() string {
			return "net cut " + word(word(shapes...), groups()) + maybe("oneway") + maybe(word("stopped", "slowed", "jammed")) + maybe("port "+num())
		},
		func() string { return "net cut links " + links() + maybe("slowed") },
		impair, impair,
		func() string { return "net clog " + hosts() + maybe("stopped") },
		func() string { return "net swizzle " + hosts() + " over " + dur() + maybe("slowed") },
		func() string { return "net microburst " + links() + " " + size() + " every " + dur() },
		func() string { return "net nic-loss " + hosts() + " " + pct() },
		func() string { return "net reset n1|n2,n3" },
		func() string { return "net syn-hole " + hosts() + maybe("port "+num()) },
		func() string { return "dns stale " + nonEmpty() + " 10.0.0.1" + word("", ",10.0.0.2", ",fe80::1") },
		func() string { return "dns nx " + nonEmpty() },
		func() string { return "dns " + word("silent", "fail", "slow "+dur()) + maybe(nonEmpty()) },
		func() string { return "proc " + word("kill", "pause") + " " + hosts() + maybe(nonEmpty()) },
		func() string { return "proc restart " + hosts() },
		func() string { return "proc rolling " + hosts() + " every " + dur() },
		func() string { return "proc throttle " + hosts() + " " + pct() },
		func() string {
			return "host power " + hosts() + maybe(word("posix", "ext4-ordered", "lazyfs")) + maybe(word("lose-all", "aged", "aged "+dur(), "prefix"))
		},
		func() string { return "clock jump " + hosts() + " " + word("+", "-") + dur() },
		func() string {
			return "clock drift " + hosts() + " " + word("+", "-") + rapid.StringMatching(`[1-9][0-9]{0,4}(\.[0-9]{1,3})?`).Draw(t, "ppm") + "ppm"
		},
		func() string {
			return "clock drift " + hosts() + " x" + rapid.StringMatching(`[02-9](\.[0-9]{1,9})?`).Draw(t, "x")
		},
		func() string { return "clock strobe " + hosts() + " " + dur() + " every " + dur() },
		func() string { return "clock reset " + hosts() },
		func() string { return "disk " + word("eio", "stall") + " " + hosts() + ops() + which() },
		func() string { return "disk slow " + hosts() + " " + dur() + ops() + which() },
		func() string {
			return "disk " + word("fsync-eio", "torn", "stale", "misdirect", "flip-read") + " " + hosts() + which()
		},
		func() string { return "disk full " + hosts() + maybe(size()) + maybe("path "+nonEmpty()) },
		func() string { return "disk readonly " + hosts() + maybe("path "+nonEmpty()) },
		func() string { return "disk flip " + hosts() + " " + nonEmpty() + " " + num() },
		func() string { return "act " + nonEmpty() + maybe(name()) + maybe(hosts()) },
	}
	return rapid.SampledFrom(makers).Draw(t, "fault")() + maybe("for "+dur())
}
