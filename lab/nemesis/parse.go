package nemesis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// SyntaxError says where the text of a fault cannot be read, and what was
// expected there.
type SyntaxError struct {
	Line     string // the whole text
	Column   int    // in characters, from 1; one past the end where the text is too short
	Expected string
	Found    string // the word there; "" at the end
}

// Error is one line that names the column.
func (e *SyntaxError) Error() string {
	found := "the text ends"
	if e.Found != "" {
		found = "found " + strconv.Quote(e.Found)
	}
	return fmt.Sprintf("fault %q: column %d: expected %s, %s", e.Line, e.Column, e.Expected, found)
}

// Parse reads one fault. The error is a *SyntaxError. docs/lab-faults.md has the
// language with an example of every fault.
func Parse(line string) (Fault, error) {
	p := parser{line: line}
	p.scan()
	f := Fault{spec: p.fault()}
	if p.accept("for") {
		f.dur = p.duration()
	}
	p.end()
	if p.err != nil {
		return Fault{}, p.err
	}
	return f, nil
}

// MustParse is Parse for texts in programs; it panics where Parse fails.
func MustParse(line string) Fault {
	f, err := Parse(line)
	if err != nil {
		panic("nemesis: " + err.Error())
	}
	return f
}

// word is what stands between blanks, or a quoted string.
type word struct {
	text   string
	at     int // byte offset in the line
	quoted bool
}

func (w word) source() string {
	if w.quoted {
		return strconv.Quote(w.text)
	}
	return w.text
}

// parser goes through the words. After the first error it reads nothing more
// and every method returns a zero value.
type parser struct {
	line  string
	words []word
	next  int
	seen  map[string]bool // options of the fault that were given
	err   *SyntaxError
}

func (p *parser) scan() {
	rest := p.line
	for p.err == nil {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return
		}
		at := len(p.line) - len(rest)
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				p.fail(at, "a string that ends with a quotation mark", rest)
				return
			}
			rest = rest[len(quoted):]
			if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
				p.fail(len(p.line)-len(rest), "a blank after the quotation mark", rest)
				return
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				p.fail(at, "a quoted string", quoted)
				return
			}
			p.words = append(p.words, word{text: text, at: at, quoted: true})
			continue
		}
		n := strings.IndexAny(rest, " \t")
		if n < 0 {
			n = len(rest)
		}
		text := rest[:n]
		if i := strings.IndexFunc(text, unreadable); i >= 0 {
			p.fail(at+i, "a character that can be printed", text[i:])
			return
		}
		p.words = append(p.words, word{text: text, at: at})
		rest = rest[n:]
	}
}

// unreadable characters do not stand outside of quotation marks.
func unreadable(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r) || unicode.IsSpace(r)
}

// quote is the text as a word of a fault.
func quote(s string) string {
	if s == "" || s == "for" || s[0] == '"' || strings.ContainsFunc(s, unreadable) {
		return strconv.Quote(s)
	}
	return s
}

// fail notes the first error, at a byte offset of the line.
func (p *parser) fail(at int, expected, found string) {
	if p.err != nil {
		return
	}
	p.err = &SyntaxError{Line: p.line, Column: utf8.RuneCountInString(p.line[:at]) + 1, Expected: expected, Found: found}
}

// expected fails at the next word.
func (p *parser) expected(what string) {
	if p.next < len(p.words) {
		w := p.words[p.next]
		p.fail(w.at, what, w.source())
		return
	}
	p.fail(len(p.line), what, "")
}

// refuse fails at the word that was taken last.
func (p *parser) refuse(what string) {
	if p.next > 0 {
		w := p.words[p.next-1]
		p.fail(w.at, what, w.source())
	}
}

// more reports whether there is a word before "for" and the end.
func (p *parser) more() bool {
	return p.err == nil && p.next < len(p.words) && (p.words[p.next].quoted || p.words[p.next].text != "for")
}

// peek is the next word where it is not quoted, else "".
func (p *parser) peek() string {
	if p.err != nil || p.next >= len(p.words) || p.words[p.next].quoted {
		return ""
	}
	return p.words[p.next].text
}

// accept takes the next word if it is this one.
func (p *parser) accept(text string) bool {
	if p.peek() != text {
		return false
	}
	p.next++
	return true
}

// oneOf takes the next word if it is one of these, else returns "".
func (p *parser) oneOf(texts ...string) string {
	if w := p.peek(); w != "" && slices.Contains(texts, w) {
		p.next++
		return w
	}
	return ""
}

// option takes the next word if it is one of these, each only once.
func (p *parser) option(texts ...string) string {
	w := p.peek()
	if w == "" || !slices.Contains(texts, w) {
		return ""
	}
	if p.seen[w] {
		p.expected(strconv.Quote(w) + " only once")
		return ""
	}
	if p.seen == nil {
		p.seen = make(map[string]bool)
	}
	p.seen[w] = true
	p.next++
	return w
}

// must takes the next word, quoted or not; it is not empty.
func (p *parser) must(what string) string {
	text := p.any(what)
	if text == "" {
		p.refuse(what)
	}
	return text
}

// any takes the next word, quoted or not.
func (p *parser) any(what string) string {
	if !p.more() {
		p.expected(what)
		return ""
	}
	p.next++
	return p.words[p.next-1].text
}

// bare takes the next word, which must not be quoted.
func (p *parser) bare(what string) string {
	if p.peek() == "" || !p.more() {
		p.expected(what)
		return ""
	}
	p.next++
	return p.words[p.next-1].text
}

// end fails where words are left.
func (p *parser) end() {
	if p.err == nil && p.next < len(p.words) {
		p.expected("the end")
	}
}

// fault reads all but the duration.
func (p *parser) fault() spec {
	const kinds = "net, dns, proc, host, clock, disk or act"
	switch p.oneOf("net", "dns", "proc", "host", "clock", "disk", "act") {
	case "net":
		return p.net()
	case "dns":
		return p.dns()
	case "proc":
		return p.proc()
	case "host":
		return p.power()
	case "clock":
		return p.clock()
	case "disk":
		return p.disk()
	case "act":
		return p.act()
	}
	p.expected(kinds)
	return nil
}

// Hosts and links.

// cursor reads inside one word.
type cursor struct {
	p    *parser
	text string
	at   int // byte offset of text in the line
	pos  int
}

func (p *parser) inside(what string) *cursor {
	text := p.bare(what)
	c := &cursor{p: p, text: text}
	if p.err == nil {
		c.at = p.words[p.next-1].at
	}
	return c
}

func (c *cursor) done() bool { return c.p.err != nil || c.pos >= len(c.text) }

func (c *cursor) is(b byte) bool { return !c.done() && c.text[c.pos] == b }

func (c *cursor) accept(b byte) bool {
	if c.is(b) {
		c.pos++
		return true
	}
	return false
}

func (c *cursor) expected(what string) {
	c.p.fail(c.at+c.pos, what, c.text[c.pos:])
}

// name reads a host or a selector.
func (c *cursor) name() string {
	rest := c.text[c.pos:]
	n := 0
	for n < len(rest) && nameByte(rest[n], n == 0) {
		n++
	}
	// The one selector with a dash, which otherwise stands between hosts.
	if long := SelectMinorityThird; strings.HasPrefix(rest, long) && (len(rest) == len(long) || !nameByte(rest[len(long)], false)) {
		n = len(long)
	}
	if n == 0 {
		c.expected("a host such as n1, or a selector such as one or primary")
		return ""
	}
	c.pos += n
	return rest[:n]
}

func nameByte(b byte, first bool) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || !first && ('0' <= b && b <= '9' || b == '_' || b == '.')
}

// hosts reads names with commas between them, none twice and none of those that
// are in another group.
func (c *cursor) hosts(others ...string) []string {
	var hosts []string
	for c.p.err == nil {
		start := c.pos
		name := c.name()
		if slices.Contains(hosts, name) || slices.Contains(others, name) {
			c.pos = start
			c.expected("another host: " + name + " is there already")
		}
		hosts = append(hosts, name)
		if !c.accept(',') {
			break
		}
	}
	return hosts
}

// target reads one word of hosts.
func (p *parser) target() []string {
	c := p.inside("hosts such as n1,n2, or a selector such as one, minority, primary or all")
	if p.err != nil {
		return nil
	}
	hosts := c.hosts()
	if !c.done() {
		c.expected("a comma and another host, or a blank")
	}
	return hosts
}

// term is some of the links: between two sets of hosts, from one to the other,
// or everything that hosts send and receive.
type term struct {
	from []string
	way  byte // '>', '-', or 0: to and from everyone
	to   []string
}

func (t term) String() string {
	text := strings.Join(t.from, ",")
	if t.way != 0 {
		text += string(t.way) + strings.Join(t.to, ",")
	}
	return text
}

func joinTerms(terms []term) string {
	texts := make([]string, len(terms))
	for i, t := range terms {
		texts[i] = t.String()
	}
	return strings.Join(texts, "+")
}

// links reads one word of links.
func (p *parser) links() []term {
	c := p.inside("links such as all, n1, n1>n2 or n1,n2-n3")
	var terms []term
	for p.err == nil {
		t := term{from: c.hosts()}
		if c.is('>') || c.is('-') {
			t.way = c.text[c.pos]
			c.pos++
			t.to = c.hosts()
		}
		terms = append(terms, t)
		if !c.accept('+') {
			break
		}
	}
	if !c.done() {
		c.expected("+ and more links, or a blank")
	}
	return terms
}

// Quantities.

// duration reads a time above zero.
func (p *parser) duration() time.Duration {
	const what = "a duration such as 50ms, 2s or 1m30s"
	d, err := time.ParseDuration(p.bare(what))
	if err != nil || d <= 0 {
		p.refuse(what)
		return 0
	}
	return d
}

// formatDuration is Go's without zeros at the end: 1m, not 1m0s.
func formatDuration(d time.Duration) string {
	s := strings.Replace(d.String(), "µ", "u", 1)
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// signed reads a time with its sign.
func (p *parser) signed() time.Duration {
	const what = "a duration with its sign, such as +1h or -30s"
	text := p.bare(what)
	d, err := time.ParseDuration(text)
	if err != nil || d == 0 || text[0] != '+' && text[0] != '-' {
		p.refuse(what)
		return 0
	}
	return d
}

func formatSigned(d time.Duration) string {
	if d < 0 {
		return formatDuration(d)
	}
	return "+" + formatDuration(d)
}

// percent is a probability or share in hundredths, kept as it was written so
// that it prints the same.
type percent float64

func (x percent) String() string { return strconv.FormatFloat(float64(x), 'f', -1, 64) + "%" }

// of1 is the probability between 0 and 1.
func (x percent) of1() float64 { return float64(x) / 100 }

// percent reads a share above zero.
func (p *parser) percent() percent {
	const what = "a percentage above 0% and up to 100%, such as 7%"
	text := p.bare(what)
	digits, ok := strings.CutSuffix(text, "%")
	x, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || x <= 0 || x > 100 || !plainNumber(digits) {
		p.refuse(what)
		return 0
	}
	return percent(x)
}

func plainNumber(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r != '.' && (r < '0' || '9' < r) })
}

// count reads a whole number from 1 to the bound.
func (p *parser) count(most int, what string) int {
	n, err := strconv.Atoi(p.bare(what))
	if err != nil || n < 1 || n > most || strings.HasPrefix(p.words[p.next-1].text, "+") {
		p.refuse(what)
		return 0
	}
	return n
}

func (p *parser) port() int { return p.count(65535, "a port from 1 to 65535") }

// unit is a name for a multiple.
type unit struct {
	name  string
	value int64
}

// The first of equal size is the canonical one; largest first.
var (
	bitrates = []unit{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
	sizes    = []unit{{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}
	readable = append([]unit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}, sizes...)
)

// quantity reads a whole number with one of the units.
func (p *parser) quantity(units []unit, what string) int64 {
	text := p.bare(what)
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok || !plainNumber(digits) {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 1 || n > 1<<60/u.value {
			break
		}
		return n * u.value
	}
	p.refuse(what)
	return 0
}

func (p *parser) bitrate() int64 { return p.quantity(bitrates, "a rate such as 1mbit or 64kbit") }
func (p *parser) size() int64    { return p.quantity(readable, "a size such as 10MB or 64KB") }

func formatQuantity(n int64, units []unit) string {
	for _, u := range units {
		if n%u.value == 0 {
			return strconv.FormatInt(n/u.value, 10) + u.name
		}
	}
	return "" // the last unit is 1
}

// drift is how much faster a clock runs, in parts per billion: whole, so that
// it prints as it was written.
type drift int64

func (d drift) String() string {
	if d >= 1e8 || d <= -1e8 {
		return "x" + formatDecimal(1e9+int64(d), 9)
	}
	if d < 0 {
		return "-" + formatDecimal(int64(-d), 3) + "ppm"
	}
	return "+" + formatDecimal(int64(d), 3) + "ppm"
}

// drift reads +500ppm, -20.5ppm or x1.5.
func (p *parser) drift() drift {
	const what = "a drift such as +500ppm, -20ppm or x1.5"
	text := p.bare(what)
	var d drift
	if digits, ok := strings.CutPrefix(text, "x"); ok {
		n, ok := parseDecimal(digits, 9)
		if ok && n <= 100e9 {
			d = drift(n - 1e9)
		}
	} else if digits, ok := strings.CutSuffix(text, "ppm"); ok && digits != "" {
		n, ok := parseDecimal(digits[1:], 3)
		switch {
		case !ok || n > 99e9:
		case digits[0] == '+':
			d = drift(n)
		case digits[0] == '-' && n <= 1e9:
			d = drift(-n)
		}
	}
	if d == 0 {
		p.refuse(what)
	}
	return d
}

// formatDecimal prints n·10^-places without zeros at the end.
func formatDecimal(n int64, places int) string {
	s := strconv.FormatInt(n, 10)
	if len(s) <= places {
		s = strings.Repeat("0", places+1-len(s)) + s
	}
	whole, part := s[:len(s)-places], strings.TrimRight(s[len(s)-places:], "0")
	if part == "" {
		return whole
	}
	return whole + "." + part
}

// parseDecimal is its inverse; more places than there are is not a number.
func parseDecimal(s string, places int) (int64, bool) {
	whole, part, dot := strings.Cut(s, ".")
	if !plainNumber(whole) || len(whole) > 9 || dot && !plainNumber(part) || len(part) > places || strings.Contains(part, ".") {
		return 0, false
	}
	n, err := strconv.ParseInt(whole+part+strings.Repeat("0", places-len(part)), 10, 64)
	return n, err == nil
}
