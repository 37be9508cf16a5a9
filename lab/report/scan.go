package report

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/lab/history"
)

// outcome is how a call ended. Charts draw them in this order.
type outcome uint8

const (
	isOK outcome = iota
	isFail
	isUnknown
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "fail", "unknown"}

func (o outcome) String() string { return outcomeNames[o] }

// call is what charts need of a call, and where in the file the rest stands:
// a million of them have to fit.
type call struct {
	from, to   time.Duration // to is the end of the history where no completion was recorded
	invokeAt   int64         // offset of its line, or -1
	completeAt int64
	invoke     int // index in the history
	complete   int // or -1
	process    int32
	f, key     int32 // numbers of names
	node       int32
	how        outcome
}

func (c *call) latency() time.Duration { return c.to - c.from }

// ended reports whether a completion was recorded: what is open has no latency.
func (c *call) ended() bool { return c.complete >= 0 }

// calls is a history as charts want it. Unlike [history.History.Calls] it makes
// do with what is not well formed: a history of a run that goes on, or the
// end of one.
type calls struct {
	all   []call // by the time of invocation
	end   time.Duration
	names []string // by number: functions, keys, nodes
	src   io.ReaderAt
	notes []string
}

func (h *calls) name(n int32) string { return h.names[n] }

// scanner reads lines of a history without making operations of them. The
// lines of our own writer are taken apart in place; all others go through
// encoding/json.
type scanner struct {
	calls
	numbers map[string]int32
	pending map[int32]int // a process' open call
	at      int64
	odd     int // lines that are no operations
}

type line struct {
	index, time int64
	process     int32
	kind        history.Type
	f, key      int32
	node        int32
}

// openHistory scans a file. The caller closes it when it is done with the result.
func openHistory(name string, from int64) (*calls, io.Closer, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &calls{notes: []string{"there is no history.jsonl"}}, io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, nil, err
	}
	h, err := scan(f, from)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return h, f, nil
}

// scan reads a history from an offset on; from anywhere but the beginning
// the first line is taken for a piece of one.
func scan(src io.ReaderAt, from int64) (*calls, error) {
	s := scanner{numbers: map[string]int32{}, pending: map[int32]int{}, at: from}
	s.src = src
	s.number(nil) // 0 is no name
	in := bufio.NewReaderSize(io.NewSectionReader(src, from, 1<<62-from), 1<<18)
	var long []byte
	for first := true; ; first = false {
		b, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = long[:0]
			for errors.Is(err, bufio.ErrBufferFull) {
				long = append(long, b...)
				b, err = in.ReadSlice('\n')
			}
			long = append(long, b...)
			b = long
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		begin := s.at
		s.at += int64(len(b))
		if t := bytes.TrimSpace(b); len(t) > 0 && (!first || from == 0) {
			var l line
			switch {
			case s.quick(t, &l) || s.slow(t, &l):
				s.add(&l, begin)
			case err == nil:
				s.odd++
			}
		}
		if err != nil {
			break
		}
	}
	for _, i := range s.pending {
		c := &s.all[i]
		c.to, c.how = max(s.end, c.from), isUnknown
	}
	if s.odd > 0 {
		s.notes = append(s.notes, fmt.Sprintf("%s lines of the history are no operations and were left out", number(int64(s.odd))))
	}
	if !slices.IsSortedFunc(s.all, byTime) {
		slices.SortStableFunc(s.all, byTime)
	}
	return &s.calls, nil
}

func byTime(a, b call) int { return cmp.Compare(a.from, b.from) }

func (s *scanner) number(name []byte) int32 {
	if n, ok := s.numbers[string(name)]; ok {
		return n
	}
	n := int32(len(s.names)) //nolint:gosec // names fit
	s.names = append(s.names, clean(string(name)))
	s.numbers[string(name)] = n
	return n
}

func (s *scanner) add(l *line, at int64) {
	t := time.Duration(l.time)
	if l.process == history.Nemesis {
		return
	}
	s.end = max(s.end, t)
	i, open := s.pending[l.process]
	if l.kind == history.Invoke {
		if open { // the completion is missing
			s.all[i].to, s.all[i].how = max(t, s.all[i].from), isUnknown
		}
		s.pending[l.process] = len(s.all)
		s.all = append(s.all, call{
			from: t, to: t, invokeAt: at, completeAt: -1, invoke: int(l.index), complete: -1,
			process: l.process, f: l.f, key: l.key, node: l.node, how: isUnknown,
		})
		return
	}
	if !open { // the invocation is before the piece that is read
		return
	}
	delete(s.pending, l.process)
	c := &s.all[i]
	c.to, c.complete, c.completeAt = max(t, c.from), int(l.index), at
	switch l.kind {
	case history.OK:
		c.how = isOK
	case history.Fail:
		c.how = isFail
	case history.Info, history.Invoke:
		c.how = isUnknown
	default:
		c.how = isUnknown
	}
	if c.node == 0 {
		c.node = l.node
	}
}

// quick takes apart a line as lab/history writes it.
func (s *scanner) quick(b []byte, l *line) bool {
	b, ok := bytes.CutPrefix(b, []byte(`{"index":`))
	if !ok {
		return false
	}
	if l.index, b, ok = integer(b); !ok {
		return false
	}
	if b, ok = bytes.CutPrefix(b, []byte(`,"time":`)); !ok {
		return false
	}
	if l.time, b, ok = integer(b); !ok {
		return false
	}
	if b, ok = bytes.CutPrefix(b, []byte(`,"process":`)); !ok {
		return false
	}
	if rest, nemesis := bytes.CutPrefix(b, []byte(`"nemesis"`)); nemesis {
		l.process, b = history.Nemesis, rest
	} else {
		var p int64
		if p, b, ok = integer(b); !ok || p < -1 || p > 1<<31-1 {
			return false
		}
		l.process = int32(p)
	}
	var kind, f, key []byte
	if kind, b, ok = field(b, `,"type":"`); !ok {
		return false
	}
	switch string(kind) {
	case "invoke":
		l.kind = history.Invoke
	case "ok":
		l.kind = history.OK
	case "fail":
		l.kind = history.Fail
	case "info":
		l.kind = history.Info
	default:
		return false
	}
	if f, b, ok = field(b, `,"f":"`); !ok {
		return false
	}
	if bytes.HasPrefix(b, []byte(`,"key":"`)) {
		if key, b, ok = field(b, `,"key":"`); !ok {
			return false
		}
	}
	if !bytes.HasPrefix(b, []byte(`,"value":`)) {
		return false
	}
	l.f, l.key, l.node = s.number(f), s.number(key), 0
	// A quotation mark in a string is escaped, so this is a field; it is ours
	// and not one of the value if nothing but the end follows.
	if i := bytes.LastIndex(b, []byte(`,"node":"`)); i >= 0 {
		node, rest, ok := field(b[i:], `,"node":"`)
		if ok && string(rest) == "}" {
			l.node = s.number(node)
		}
		return ok
	}
	return len(b) > 0 && b[len(b)-1] == '}'
}

// slow reads any other line.
func (s *scanner) slow(b []byte, l *line) bool {
	var op struct {
		Index   *int64          `json:"index"`
		Time    float64         `json:"time"`
		Process json.RawMessage `json:"process"`
		Type    history.Type    `json:"type"`
		F       string          `json:"f"`
		Key     string          `json:"key"`
		Node    string          `json:"node"`
	}
	if json.Unmarshal(b, &op) != nil {
		return false
	}
	p, err := strconv.ParseInt(string(op.Process), 10, 32)
	if err != nil {
		p = history.Nemesis
	}
	l.process, l.kind = int32(p), op.Type
	l.time = int64(min(max(op.Time, 0), 1<<62))
	l.index = int64(2 * len(s.all))
	if op.Index != nil {
		l.index = *op.Index
	}
	l.f, l.key, l.node = s.number([]byte(op.F)), s.number([]byte(op.Key)), s.number([]byte(op.Node))
	return true
}

func integer(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && i < 18 && b[i] >= '0' && b[i] <= '9'; i++ {
		n = n*10 + int64(b[i]-'0')
	}
	if i == 0 || i == len(b) || b[i] >= '0' && b[i] <= '9' {
		return 0, b, false // -1 too: json does it
	}
	return n, b[i:], true
}

// field is a string without escapes after a prefix.
func field(b []byte, prefix string) (value, rest []byte, ok bool) {
	if len(b) < len(prefix) || string(b[:len(prefix)]) != prefix {
		return nil, b, false
	}
	b = b[len(prefix):]
	i := bytes.IndexByte(b, '"')
	if i < 0 || bytes.IndexByte(b[:i], '\\') >= 0 {
		return nil, b, false
	}
	return b[:i], b[i+1:], true
}

// full is what a call was about, read from the file again.
type full struct {
	Value string // what was given or returned, whichever says more
	Error string
}

// look reads what scan passed over.
func (h *calls) look(c *call, limit int) full {
	var out full
	invoke, ok := h.opAt(c.invokeAt)
	if ok {
		out.Value = string(invoke.Value)
	}
	if complete, ok := h.opAt(c.completeAt); ok {
		out.Error = complete.Error
		if v := string(complete.Value); c.how == isOK && v != "" && v != "null" {
			out.Value = v
		}
	}
	if out.Value == "null" {
		out.Value = "nil"
		if c.how != isOK {
			out.Value = ""
		}
	}
	out.Value, out.Error = shorten(clean(out.Value), limit), shorten(clean(out.Error), 4*limit)
	return out
}

type lineText struct {
	Value json.RawMessage `json:"value"`
	Error string          `json:"error"`
}

func (h *calls) opAt(at int64) (l lineText, ok bool) {
	if at < 0 || h.src == nil {
		return l, false
	}
	buf := make([]byte, 512)
	for {
		n, err := h.src.ReadAt(buf, at)
		b := buf[:n]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[:i]
		} else if err == nil && len(buf) < 1<<20 {
			buf = make([]byte, 8*len(buf))
			continue
		}
		return l, json.Unmarshal(b, &l) == nil
	}
}

// clean makes text harmless for eyes: control characters, and those that turn
// the direction of writing, become visible. Escaping is the business of whoever
// writes the text.
func clean(s string) string {
	bad := func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 ||
			r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0xfeff
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	if strings.IndexFunc(s, bad) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return -1
		case r < ' ' && bad(r):
			return 0x2400 + r
		case bad(r):
			return '\ufffd'
		}
		return r
	}, s)
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-1, 0)]) + "…"
}
