package history

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner reads JSON values in normal form from one line. It is written by
// hand because histories are long and encoding/json spends twenty times as
// much on them.
type scanner struct {
	b     []byte
	at    int
	names map[string]string // strings that repeat: f, key, node, error, keys of maps
}

// maxNames bounds what is remembered of strings that may repeat.
const maxNames = 1 << 16

var errCut = errors.New("ends in the middle")

func (s *scanner) fail(format string, args ...any) error {
	return fmt.Errorf("column %d: %s", s.at+1, fmt.Sprintf(format, args...))
}

func (s *scanner) space() {
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// next skips space and returns the byte there, 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.at == len(s.b) {
		return 0
	}
	return s.b[s.at]
}

func (s *scanner) expect(c byte) error {
	switch got := s.next(); got {
	case c:
		s.at++
		return nil
	case 0:
		return errCut
	default:
		return s.fail("%q where %q belongs", got, c)
	}
}

// intern is string(b), with one copy for all that are alike.
func (s *scanner) intern(b []byte) string {
	if name, ok := s.names[string(b)]; ok {
		return name
	}
	name := string(b)
	if s.names != nil && len(s.names) < maxNames {
		s.names[name] = name
	}
	return name
}

// members calls f for each member of an object, with the scanner at its value.
func (s *scanner) members(f func(name []byte) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	if s.next() == '}' {
		s.at++
		return nil
	}
	for {
		if c := s.next(); c != '"' && c != 0 {
			return s.fail("%q where the name of a field belongs", c)
		}
		name, err := s.text()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := f(name); err != nil {
			return err
		}
		switch c := s.next(); c {
		case ',':
			s.at++
		case '}':
			s.at++
			return nil
		case 0:
			return errCut
		default:
			return s.fail("%q where ',' or '}' belongs", c)
		}
	}
}

// value reads any value.
func (s *scanner) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, s.fail("value nests deeper than %d", maxDepth)
	}
	switch c := s.next(); c {
	case 0:
		return nil, errCut
	case '"':
		b, err := s.text()
		if err != nil {
			return nil, err
		}
		return string(b), nil
	case '{':
		m := map[string]any{}
		err := s.members(func(name []byte) error {
			key := s.intern(name)
			v, err := s.value(depth + 1)
			m[key] = v
			return err
		})
		if err != nil {
			return nil, err
		}
		return m, nil
	case '[':
		return s.array(depth)
	case 't':
		return true, s.word("true")
	case 'f':
		return false, s.word("false")
	case 'n':
		return nil, s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) array(depth int) (any, error) {
	s.at++
	list := []any{}
	if s.next() == ']' {
		s.at++
		return list, nil
	}
	for {
		v, err := s.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		switch c := s.next(); c {
		case ',':
			s.at++
		case ']':
			s.at++
			return list, nil
		case 0:
			return nil, errCut
		default:
			return nil, s.fail("%q where ',' or ']' belongs", c)
		}
	}
}

func (s *scanner) word(word string) error {
	rest := s.b[s.at:]
	switch {
	case bytes.HasPrefix(rest, []byte(word)):
		s.at += len(word)
		return nil
	case bytes.HasPrefix([]byte(word), rest):
		return errCut
	default:
		return s.fail("%q is no JSON value", rest[:1])
	}
}

// number reads a number as int64 or float64.
func (s *scanner) number() (any, error) {
	from := s.at
	i := from
	negative := i < len(s.b) && s.b[i] == '-'
	if negative {
		i++
	}
	digits := i
	var n uint64
	for i < len(s.b) && s.b[i]-'0' <= 9 && i-digits < 19 {
		n = n*10 + uint64(s.b[i]-'0')
		i++
	}
	if i == digits {
		if i == len(s.b) {
			return nil, errCut
		}
		return nil, s.fail("%q is no JSON value", s.b[from:i+1])
	}
	if n <= math.MaxInt64 && (i == len(s.b) || !inNumber(s.b[i])) {
		if s.b[digits] == '0' && i > digits+1 {
			return nil, s.fail("number %s begins with 0", s.b[from:i])
		}
		s.at = i
		if negative {
			return -int64(n), nil
		}
		return int64(n), nil
	}
	for i < len(s.b) && inNumber(s.b[i]) {
		i++
	}
	v, err := number(string(s.b[from:i]))
	if err != nil {
		return nil, s.fail("%v", err)
	}
	s.at = i
	return v, nil
}

func inNumber(c byte) bool {
	return c-'0' <= 9 || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// number gives the normal form of a number in JSON's notation.
func number(text string) (any, error) {
	digits := len(text) > 0 && (text[0] == '-' || text[0]-'0' <= 9)
	for i := 1; i < len(text); i++ {
		digits = digits && text[i]-'0' <= 9
	}
	if digits {
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange):
			return nil, fmt.Errorf("number %s does not fit 64 bits with a sign", text)
		case err != nil:
			return nil, fmt.Errorf("number %q is malformed", text)
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return nil, fmt.Errorf("number %s is too large", text)
	case err != nil:
		return nil, fmt.Errorf("number %q is malformed", text)
	}
	return normalFloat(f)
}

// text reads a string. What it returns may be part of the line.
func (s *scanner) text() ([]byte, error) {
	if err := s.expect('"'); err != nil {
		return nil, err
	}
	from := s.at
	for s.at < len(s.b) {
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			return s.b[from : s.at-1], nil
		case c == '\\':
			return s.escaped(from)
		case c < ' ':
			return nil, s.fail("control character %q in a string", c)
		default:
			s.at++
		}
	}
	return nil, errCut
}

func (s *scanner) escaped(from int) ([]byte, error) {
	out := append([]byte(nil), s.b[from:s.at]...)
	for s.at < len(s.b) {
		c := s.b[s.at]
		switch {
		case c == '"':
			s.at++
			return out, nil
		case c < ' ':
			return nil, s.fail("control character %q in a string", c)
		case c != '\\':
			out = append(out, c)
			s.at++
			continue
		}
		if s.at+1 == len(s.b) {
			return nil, errCut
		}
		switch e := s.b[s.at+1]; e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := s.hex4(s.at + 2)
			if err != nil {
				return nil, err
			}
			if utf16.IsSurrogate(r) && s.at+7 < len(s.b) && s.b[s.at+6] == '\\' && s.b[s.at+7] == 'u' {
				low, err := s.hex4(s.at + 8)
				if err != nil {
					return nil, err
				}
				if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
					r = both
					s.at += 6
				}
			}
			out = utf8.AppendRune(out, r)
			s.at += 4
		default:
			return nil, s.fail("unknown escape \\%c", e)
		}
		s.at += 2
	}
	return nil, errCut
}

func (s *scanner) hex4(at int) (rune, error) {
	if at+4 > len(s.b) {
		return 0, errCut
	}
	n, err := strconv.ParseUint(string(s.b[at:at+4]), 16, 16)
	if err != nil {
		return 0, s.fail("\\u%s is no character", s.b[at:at+4])
	}
	return rune(n), nil
}

// op reads one operation. hasIndex says whether the line had an index.
func (s *scanner) op(op *Op) (hasIndex bool, err error) {
	var hasProcess bool
	if c := s.next(); c == '[' {
		return false, s.fail("an array where an operation belongs: write one operation per line, as jq -c '.[]' does")
	}
	err = s.members(func(name []byte) error {
		var err error
		switch string(name) {
		case "index":
			var n int64
			n, err = s.integer("index")
			op.Index, hasIndex = int(n), true
			if err == nil && (n < 0 || n > math.MaxInt32) {
				err = s.fail("index %d is out of range", n)
			}
		case "time":
			var n int64
			n, err = s.integer("time")
			op.Time = time.Duration(n)
		case "process":
			hasProcess = true
			op.Process, err = s.process()
		case "type":
			var t string
			t, err = s.name("type")
			op.Type = Type(t)
			if err == nil && !op.Type.known() {
				err = s.fail("type is %q, want invoke, ok, fail or info", t)
			}
		case "f":
			op.F, err = s.name("f")
		case "key":
			op.Key, err = s.loose()
		case "value":
			op.Value, err = s.value(0)
		case "error":
			op.Error, err = s.loose()
		case "node":
			op.Node, err = s.loose()
		default:
			_, err = s.value(0)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if c := s.next(); c != 0 {
		return false, s.fail("%q after the operation", c)
	}
	return hasIndex, op.complete(hasProcess)
}

// complete reports what an operation lacks.
func (op *Op) complete(hasProcess bool) error {
	switch {
	case op.Type == "":
		return errors.New("the operation has no type")
	case !hasProcess:
		return errors.New("the operation has no process")
	case op.F == "":
		return errors.New("the operation has no f")
	default:
		return nil
	}
}

func (t Type) known() bool { return t == Invoke || t == OK || t == Fail || t == Info }

func (s *scanner) integer(field string) (int64, error) {
	s.space()
	at := s.at
	v, err := s.value(0)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok {
		s.at = at
		return 0, s.fail("%s is no whole number", field)
	}
	return n, nil
}

func (s *scanner) process() (int, error) {
	s.space()
	at := s.at
	v, err := s.value(0)
	if err != nil {
		return 0, err
	}
	p, ok := processOf(v)
	if !ok {
		s.at = at
		return 0, s.fail("process is %v, want a number or \"nemesis\"", v)
	}
	return p, nil
}

func processOf(v any) (int, bool) {
	switch v := v.(type) {
	case int64:
		return int(v), v >= Nemesis && v <= math.MaxInt32
	case string:
		return Nemesis, v == nemesisName
	default:
		return 0, false
	}
}

const nemesisName = "nemesis"

// name reads a string that many operations share.
func (s *scanner) name(field string) (string, error) {
	if c := s.next(); c != '"' && c != 0 {
		return "", s.fail("%s is no string", field)
	}
	b, err := s.text()
	if err != nil {
		return "", err
	}
	return s.intern(b), nil
}

// loose reads a string; null is the empty one, any other value its own JSON.
func (s *scanner) loose() (string, error) {
	if s.next() == '"' {
		return s.name("")
	}
	from := s.at
	v, err := s.value(0)
	if err != nil || v == nil {
		return "", err
	}
	return s.intern(bytes.TrimSpace(s.b[from:s.at])), nil
}
