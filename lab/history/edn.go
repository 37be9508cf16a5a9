package history

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ReadEDN reads a history in Clojure's notation: see [Options.ReadEDN].
func ReadEDN(r io.Reader) (History, error) { return Options{}.ReadEDN(r) }

// ReadEDN reads a history as Jepsen writes it: a vector or list of maps, or
// maps one after the other. Keywords, symbols and characters become strings
// without their marks; lists, vectors and sets become []any; keys of maps
// become strings; tags are dropped, so that #jepsen.history.Op{…} is its map
// and #inst "…" its text. Fields that Op does not have are left out. Ratios,
// NaN and integers beyond 64 bits are an error, as what is no EDN; errors name
// the line. A history that ends in the middle of an operation is read up to
// there, with a note.
func (o Options) ReadEDN(r io.Reader) (History, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	e := edn{b: bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), names: map[string]string{}}
	h, err := e.history(o)
	switch {
	case errors.Is(err, errCut) && len(h) > 0:
		o.note("the history is cut off after index %d", h[len(h)-1].Index)
		return h, nil
	case err != nil:
		return nil, fmt.Errorf("line %d: %w", 1+bytes.Count(e.b[:min(e.at, len(e.b))], []byte("\n")), err)
	}
	return h, nil
}

type edn struct {
	b     []byte
	at    int
	names map[string]string
}

func (e *edn) history(o Options) (History, error) {
	h := make(History, 0, 1024)
	var keys keys
	if err := e.skip(0); err != nil {
		return nil, err
	}
	var end byte
	switch e.peek() {
	case '[':
		end = ']'
		e.at++
	case '(':
		end = ')'
		e.at++
	}
	for {
		if err := e.skip(0); err != nil {
			return h, err
		}
		switch c := e.peek(); {
		case c == 0 && end == 0:
			return h, nil
		case c == 0:
			return h, errCut
		case c == end:
			e.at++
			if err := e.skip(0); err != nil {
				return h, err
			}
			if e.at < len(e.b) {
				return h, fmt.Errorf("%q after the end of the history", e.b[e.at])
			}
			return h, nil
		}
		h = append(h, Op{})
		op := &h[len(h)-1]
		hasIndex, err := e.op(op)
		if err != nil {
			return h[:len(h)-1], err
		}
		if err := h.number(hasIndex); err != nil {
			return h[:len(h)-1], err
		}
		if o.Tuples {
			keys.split(op)
		}
	}
}

// peek is the byte at hand, 0 at the end (and for a zero byte, which nothing
// accepts).
func (e *edn) peek() byte {
	if e.at >= len(e.b) {
		return 0
	}
	return e.b[e.at]
}

// skip passes over space, comments, discarded forms and metadata.
func (e *edn) skip(depth int) error {
	for e.at < len(e.b) {
		switch c := e.b[e.at]; {
		case c == ' ' || c == ',' || c == '\n' || c == '\t' || c == '\r' || c == '\f':
			e.at++
		case c == ';':
			n := bytes.IndexByte(e.b[e.at:], '\n')
			if n < 0 {
				e.at = len(e.b)
				return nil
			}
			e.at += n
		case c == '#' && e.at+1 < len(e.b) && e.b[e.at+1] == '_':
			e.at += 2
			if _, err := e.form(depth + 1); err != nil {
				return err
			}
		case c == '^':
			e.at++
			if _, err := e.form(depth + 1); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// op reads one operation.
func (e *edn) op(op *Op) (hasIndex bool, err error) {
	for e.peek() == '#' { // a record's tag
		if e.at+1 == len(e.b) {
			return false, errCut
		}
		e.at++
		if len(e.token()) == 0 {
			return false, fmt.Errorf("%q where an operation belongs", e.b[e.at-1:e.at+1])
		}
		if err := e.skip(0); err != nil {
			return false, err
		}
	}
	if c := e.peek(); c != '{' {
		if c == 0 {
			return false, errCut
		}
		return false, fmt.Errorf("%q where an operation, a map, belongs", c)
	}
	var hasProcess bool
	err = e.members(0, func(name string) error {
		if err := e.skip(0); err != nil {
			return err
		}
		from := e.at
		v, err := e.form(1)
		if err != nil {
			return err
		}
		switch name {
		case "index":
			n, ok := v.(int64)
			if !ok || n < 0 || n > math.MaxInt32 {
				return fmt.Errorf("index is %v, want a number", v)
			}
			op.Index, hasIndex = int(n), true
		case "time":
			n, ok := v.(int64)
			if !ok {
				return fmt.Errorf("time is %v, want nanoseconds", v)
			}
			op.Time = time.Duration(n)
		case "process":
			p, ok := processOf(v)
			if !ok {
				return fmt.Errorf("process is %v, want a number or :nemesis", v)
			}
			op.Process, hasProcess = p, true
		case "type":
			t, _ := v.(string)
			if op.Type = Type(t); !op.Type.known() {
				return fmt.Errorf("type is %v, want :invoke, :ok, :fail or :info", v)
			}
			op.Type = Type(e.intern(t))
		case "f":
			f, ok := v.(string)
			if !ok {
				return fmt.Errorf("f is %v, want a keyword", v)
			}
			op.F = e.intern(f)
		case "value":
			op.Value = v
		case "key":
			op.Key = e.loose(v, from)
		case "error":
			op.Error = e.loose(v, from)
		case "node":
			op.Node = e.loose(v, from)
		}
		return nil
	})
	switch {
	case err != nil && e.at >= len(e.b): // whatever it is, the map has no end
		return false, errCut
	case err != nil:
		return false, err
	}
	return hasIndex, op.complete(hasProcess)
}

// loose is a string as it is, and anything else as it was written.
func (e *edn) loose(v any, from int) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return e.intern(v)
	default:
		return e.intern(string(bytes.TrimSpace(e.b[from:e.at])))
	}
}

func (e *edn) intern(s string) string {
	if name, ok := e.names[s]; ok {
		return name
	}
	if len(e.names) < maxNames {
		e.names[s] = s
	}
	return s
}

// members calls f for each key of the map at hand, to read its value.
func (e *edn) members(depth int, f func(name string) error) error {
	e.at++
	for {
		if err := e.skip(depth); err != nil {
			return err
		}
		switch e.peek() {
		case 0:
			return errCut
		case '}':
			e.at++
			return nil
		}
		key, err := e.form(depth + 1)
		if err != nil {
			return err
		}
		if err := e.skip(depth); err != nil {
			return err
		}
		if e.peek() == '}' {
			return fmt.Errorf("map with the key %v and no value to it", key)
		}
		name, ok := key.(string)
		if !ok {
			name = string(appendJSON(nil, key))
		}
		if err := f(name); err != nil {
			return err
		}
	}
}

// form reads the next value.
func (e *edn) form(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value nests deeper than %d", maxDepth)
	}
	if err := e.skip(depth); err != nil {
		return nil, err
	}
	switch c := e.peek(); c {
	case 0:
		if e.at < len(e.b) {
			return nil, errors.New("a zero byte")
		}
		return nil, errCut
	case '[':
		return e.sequence(depth, ']')
	case '(':
		return e.sequence(depth, ')')
	case '{':
		m := map[string]any{}
		err := e.members(depth, func(name string) error {
			v, err := e.form(depth + 1)
			m[e.intern(name)] = v
			return err
		})
		return m, err
	case '"':
		return e.text()
	case '\\':
		return e.char()
	case '#':
		return e.dispatch(depth)
	case ']', ')', '}', '\'', '`', '~', '@':
		return nil, fmt.Errorf("%q where a value belongs", c)
	default:
		return e.atom()
	}
}

func (e *edn) sequence(depth int, end byte) (any, error) {
	e.at++
	list := []any{}
	for {
		if err := e.skip(depth); err != nil {
			return nil, err
		}
		switch e.peek() {
		case 0:
			if e.at >= len(e.b) {
				return nil, errCut
			}
		case end:
			e.at++
			return list, nil
		}
		v, err := e.form(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

// dispatch reads what begins with #: sets and tagged values.
func (e *edn) dispatch(depth int) (any, error) {
	e.at++
	switch c := e.peek(); c {
	case 0:
		return nil, errCut
	case '{':
		return e.sequence(depth, '}')
	case '#':
		e.at++
		return nil, fmt.Errorf("##%s has no form in a history", e.token())
	}
	if tag := e.token(); len(tag) == 0 || tag[0] == '\'' || tag[0] == '?' {
		return nil, fmt.Errorf("#%c where a value belongs", e.peek())
	}
	return e.form(depth + 1)
}

// token passes over everything up to a delimiter.
func (e *edn) token() []byte {
	from := e.at
	for e.at < len(e.b) {
		switch e.b[e.at] {
		case ' ', ',', '\n', '\t', '\r', '\f', '(', ')', '[', ']', '{', '}', '"', ';', '\\':
			return e.b[from:e.at]
		}
		e.at++
	}
	return e.b[from:]
}

// atom reads nil, booleans, keywords, numbers and symbols.
func (e *edn) atom() (any, error) {
	t := e.token()
	switch string(t) {
	case "nil":
		return nil, nil //nolint:nilnil // nil is a value
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	if t[0] == ':' {
		t = t[1:]
		if len(t) == 0 {
			return nil, errors.New("a keyword without a name")
		}
		return e.keyword(t), nil
	}
	if digit(t[0]) || (t[0] == '-' || t[0] == '+') && len(t) > 1 && digit(t[1]) {
		return ednNumber(t)
	}
	return e.keyword(t), nil
}

func (e *edn) keyword(t []byte) string {
	if name, ok := e.names[string(t)]; ok {
		return name
	}
	return e.intern(string(t))
}

func digit(c byte) bool { return c-'0' <= 9 }

func ednNumber(t []byte) (any, error) {
	text := strings.TrimPrefix(string(t), "+")
	last := text[len(text)-1]
	switch {
	case strings.Contains(text, "/"):
		return nil, fmt.Errorf("ratio %s has no form in a history", t)
	case last == 'N':
		text = text[:len(text)-1]
		if strings.ContainsAny(text, ".eE") {
			return nil, fmt.Errorf("number %q is malformed", t)
		}
	case last == 'M':
		text = text[:len(text)-1]
	}
	if strings.ContainsAny(text, "xXpP_iInN") { // Go's own notations
		return nil, fmt.Errorf("number %q is malformed", t)
	}
	return number(text)
}

func (e *edn) text() (any, error) {
	e.at++
	from := e.at
	for i := from; i < len(e.b); i++ {
		switch e.b[i] {
		case '"':
			e.at = i + 1
			return string(e.b[from:i]), nil
		case '\\':
			e.at = i
			return e.escaped(from)
		}
	}
	e.at = len(e.b)
	return nil, errCut
}

func (e *edn) escaped(from int) (any, error) {
	out := append([]byte(nil), e.b[from:e.at]...)
	for e.at < len(e.b) {
		c := e.b[e.at]
		e.at++
		if c == '"' {
			return string(out), nil
		}
		if c != '\\' {
			out = append(out, c)
			continue
		}
		if e.at == len(e.b) {
			return nil, errCut
		}
		c = e.b[e.at]
		e.at++
		switch c {
		case 't':
			out = append(out, '\t')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case '"', '\\':
			out = append(out, c)
		case 'u':
			if e.at+4 > len(e.b) {
				e.at = len(e.b)
				return nil, errCut
			}
			n, err := strconv.ParseUint(string(e.b[e.at:e.at+4]), 16, 16)
			if err != nil {
				return nil, fmt.Errorf("\\u%s is no character", e.b[e.at:e.at+4])
			}
			out = utf8.AppendRune(out, rune(n))
			e.at += 4
		default:
			if c < '0' || c > '7' {
				return nil, fmt.Errorf("unknown escape \\%c", c)
			}
			n := rune(c - '0')
			for range 2 {
				if d := e.peek(); d >= '0' && d <= '7' {
					n = n*8 + rune(d-'0')
					e.at++
				}
			}
			out = utf8.AppendRune(out, n)
		}
	}
	return nil, errCut
}

// char reads a character such as \a or \newline.
func (e *edn) char() (any, error) {
	e.at++
	if e.at >= len(e.b) {
		return nil, errCut
	}
	_, size := utf8.DecodeRune(e.b[e.at:])
	from := e.at
	e.at += size
	e.token()
	t := string(e.b[from:e.at])
	switch t {
	case "newline":
		return "\n", nil
	case "space":
		return " ", nil
	case "tab":
		return "\t", nil
	case "return":
		return "\r", nil
	case "backspace":
		return "\b", nil
	case "formfeed":
		return "\f", nil
	}
	if len(t) == size {
		return t, nil
	}
	var n uint64
	err := strconv.ErrSyntax
	switch {
	case t[0] == 'u' && len(t) == 5:
		n, err = strconv.ParseUint(t[1:], 16, 16)
	case t[0] == 'o' && len(t) <= 4:
		n, err = strconv.ParseUint(t[1:], 8, 8)
	}
	if err != nil {
		return nil, fmt.Errorf("\\%s is no character", t)
	}
	return string(rune(n)), nil
}

// WriteEDN writes a history in Clojure's notation: see [Options.WriteEDN].
func WriteEDN(w io.Writer, h History) error { return Options{}.WriteEDN(w, h) }

// WriteEDN writes a history as Jepsen's tools read it, one map per line. Type,
// f, the nemesis, keys of maps that can be keywords, and the first words of the
// steps of transactions (f is txn) become keywords, keys of maps that are whole
// numbers become numbers; other strings stay strings. ReadEDN reads it back.
func (o Options) WriteEDN(w io.Writer, h History) error {
	return writeAll(w, h, o.appendEDN)
}

func (o Options) appendEDN(b []byte, op *Op) ([]byte, error) {
	v, err := Normalize(op.Value)
	if err != nil {
		return b, fmt.Errorf("index %d: %w", op.Index, err)
	}
	normal := *op
	normal.Value = v
	if op.F == "txn" {
		normal.Value = steps(v)
	}
	if o.Tuples {
		normal.join()
	}
	op = &normal
	b = append(b, "{:index "...)
	b = strconv.AppendInt(b, int64(op.Index), 10)
	b = append(b, ", :time "...)
	b = strconv.AppendInt(b, int64(op.Time), 10)
	b = append(b, ", :process "...)
	if op.Process == Nemesis {
		b = append(b, ":nemesis"...)
	} else {
		b = strconv.AppendInt(b, int64(op.Process), 10)
	}
	b = append(b, ", :type :"...)
	b = append(b, op.Type...)
	b = append(b, ", :f "...)
	b = appendWord(b, op.F)
	if op.Key != "" {
		b = append(b, ", :key "...)
		b = appendString(b, op.Key)
	}
	b = append(b, ", :value "...)
	b = appendForm(b, op.Value)
	if op.Error != "" {
		b = append(b, ", :error "...)
		b = appendString(b, op.Error)
	}
	if op.Node != "" {
		b = append(b, ", :node "...)
		b = appendString(b, op.Node)
	}
	return append(b, '}', '\n'), nil
}

// A word is written as a keyword.
type word string

// steps turns the first element of each step of a transaction into a word.
func steps(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
		if step, ok := s.([]any); ok && len(step) > 0 {
			if name, ok := step[0].(string); ok {
				out[i] = append([]any{word(name)}, step[1:]...)
			}
		}
	}
	return out
}

func appendForm(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "nil"...)
	case word:
		return appendWord(b, string(v))
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ' ')
			}
			b = appendForm(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range sorted(v) {
			if i > 0 {
				b = append(b, ", "...)
			}
			if n, err := strconv.ParseInt(k, 10, 64); err == nil && strconv.FormatInt(n, 10) == k {
				b = append(b, k...)
			} else {
				b = appendWord(b, k)
			}
			b = append(b, ' ')
			b = appendForm(b, v[k])
		}
		return append(b, '}')
	default:
		return appendJSON(b, v)
	}
}

// appendWord writes a keyword, or a string where it would be none.
func appendWord(b []byte, s string) []byte {
	if s == "" || digit(s[0]) || strings.Contains("+-.", s[:1]) {
		return appendString(b, s)
	}
	for i := range len(s) {
		c := s[i]
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && !strings.Contains("*+!_?<>=.&%$-", string(rune(c))) {
			return appendString(b, s)
		}
	}
	return append(append(b, ':'), s...)
}
