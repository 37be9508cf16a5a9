package history

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Write writes a history as JSON lines, as it is: indices are not changed.
func Write(w io.Writer, h History) error { return Options{}.Write(w, h) }

// Write writes a history as JSON lines, as it is: indices are not changed.
// Values that Normalize refuses are an error that names the index.
func (o Options) Write(w io.Writer, h History) error {
	return writeAll(w, h, func(b []byte, op *Op) ([]byte, error) { return o.appendOp(b, op) })
}

func writeAll(w io.Writer, h History, appendOp func([]byte, *Op) ([]byte, error)) error {
	var buf []byte
	for i := range h {
		var err error
		if buf, err = appendOp(buf, &h[i]); err != nil {
			return err
		}
		if len(buf) >= writeSize || i == len(h)-1 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}

// What a killed process loses of a history at most: a Writer passes on what it
// has once that is writeSize long, or once writeDelay of the history's own time
// has passed since it did so last.
const (
	writeSize  = 64 << 10
	writeDelay = 100 * time.Millisecond
	maxPending = 16 << 20 // where Append waits for a slow disk
)

// Writer writes a history while it happens. Its methods may be called
// concurrently. Make it with NewWriter; call Flush at the end.
type Writer struct {
	w       io.Writer
	mu      sync.Mutex
	idle    sync.Cond // nobody writes
	pending []byte
	spare   []byte
	next    int
	passed  time.Duration // the time of the operation that last made it write
	writing bool
	err     error
}

// NewWriter returns a Writer of JSON lines to w, which is never called
// concurrently.
func NewWriter(w io.Writer) *Writer {
	hw := &Writer{w: w}
	hw.idle.L = &hw.mu
	return hw
}

// Append records an operation and returns it with its index and its value in
// normal form: what must be known to have been recorded before a request is
// sent is recorded when Append returns, unless the process is killed in the next
// 100 ms. A value without a normal form is recorded as text, so that no
// operation is missing. Errors of writing are returned by Flush and Err.
func (w *Writer) Append(op Op) Op {
	if v, err := Normalize(op.Value); err == nil {
		op.Value = v
	} else {
		op.Value = fmt.Sprint(op.Value)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) >= maxPending && w.err == nil {
		w.pass()
	}
	op.Index = w.next
	w.next++
	if w.err != nil {
		return op
	}
	w.pending = appendNormal(w.pending, &op)
	due := len(w.pending) >= writeSize || op.Time-w.passed >= writeDelay
	if due && !w.writing {
		w.passed = op.Time
		w.pass()
	}
	return op
}

// pass writes what is pending, or waits while somebody else writes. It holds
// the lock except while it does so.
func (w *Writer) pass() {
	if w.writing {
		w.idle.Wait()
		return
	}
	out := w.pending
	w.pending = w.spare[:0]
	w.writing = true
	w.mu.Unlock()
	_, err := w.w.Write(out)
	w.mu.Lock()
	w.writing = false
	w.spare = out
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("history: %w", err)
	}
	w.idle.Broadcast()
}

// Flush passes on everything that was appended before, and returns the first
// error of writing there was. After an error nothing more is written.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for (w.writing || len(w.pending) > 0) && w.err == nil {
		w.pass()
	}
	return w.err
}

// Err is the first error of writing there was.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Len is how many operations were appended.
func (w *Writer) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

func (o Options) appendOp(b []byte, op *Op) ([]byte, error) {
	v, err := Normalize(op.Value)
	if err != nil {
		return b, fmt.Errorf("index %d: %w", op.Index, err)
	}
	normal := *op
	normal.Value = v
	if o.Tuples {
		normal.join()
	}
	return appendNormal(b, &normal), nil
}

// join makes one value of Key and Value.
func (op *Op) join() {
	if op.Process == Nemesis || op.Key == "" {
		return
	}
	var key any = op.Key
	if n, err := strconv.ParseInt(op.Key, 10, 64); err == nil && strconv.FormatInt(n, 10) == op.Key {
		key = n
	}
	op.Key, op.Value = "", []any{key, op.Value}
}

func appendNormal(b []byte, op *Op) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(op.Index), 10)
	b = append(b, `,"time":`...)
	b = strconv.AppendInt(b, int64(op.Time), 10)
	b = append(b, `,"process":`...)
	if op.Process == Nemesis {
		b = append(b, `"nemesis"`...)
	} else {
		b = strconv.AppendInt(b, int64(op.Process), 10)
	}
	b = append(b, `,"type":"`...)
	b = append(b, op.Type...)
	b = append(b, `","f":`...)
	b = appendString(b, op.F)
	if op.Key != "" {
		b = append(b, `,"key":`...)
		b = appendString(b, op.Key)
	}
	b = append(b, `,"value":`...)
	b = appendJSON(b, op.Value)
	if op.Error != "" {
		b = append(b, `,"error":`...)
		b = appendString(b, op.Error)
	}
	if op.Node != "" {
		b = append(b, `,"node":`...)
		b = appendString(b, op.Node)
	}
	return append(b, '}', '\n')
}

// appendJSON appends a value in normal form, maps by ascending keys.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return strconv.AppendFloat(b, v, 'g', -1, 64)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range sorted(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			b = appendJSON(b, v[k])
		}
		return append(b, '}')
	default: // not normal: a caller's mistake that must not lose the line
		return appendString(b, fmt.Sprint(v))
	}
}

func sorted(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

const hexDigits = "0123456789abcdef"

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			if c >= utf8.RuneSelf {
				b = append(b, "\ufffd"...)
			} else {
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
		}
		i += size
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
