package history

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Options say how histories are read and written. The zero value is Holdfast's
// own way.
type Options struct {
	// Tuples is for histories of Jepsen's independent workloads: the value
	// of each operation of a client is a pair [key value]. Reading takes
	// it apart into Key and Value; writing puts it together. Values
	// without such a pair are left alone, with an empty Key.
	Tuples bool

	// Note, if set, is told about what is worth knowing and no error, such as
	// a last line that was cut off.
	Note func(string)
}

func (o Options) note(format string, args ...any) {
	if o.Note != nil {
		o.Note(fmt.Sprintf(format, args...))
	}
}

// Read reads JSON lines: see [Options.Read].
func Read(r io.Reader) (History, error) { return Options{}.Read(r) }

// Read reads a history of one JSON object per line. Fields that Op does not
// have are left out; index may be missing on every line, then it is the position;
// otherwise it must ascend. Numbers that do not fit int64 are an error. A last
// line without its end that cannot be read is left out with a note: the
// run was killed while writing it. Errors name the line.
func (o Options) Read(r io.Reader) (History, error) {
	var (
		h     = make(History, 0, 1024)
		in    = bufio.NewReaderSize(r, 1<<20)
		s     = scanner{names: map[string]string{}}
		keys  keys
		long  []byte
		begun bool
	)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = long[:0]
			for errors.Is(err, bufio.ErrBufferFull) {
				long = append(long, line...)
				line, err = in.ReadSlice('\n')
			}
			long = append(long, line...)
			line = long
		}
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if !begun {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
			begun = true
		}
		s.b, s.at = line, 0
		if s.next() == 0 && s.at == len(line) {
			if last {
				return h, nil
			}
			continue
		}
		h = append(h, Op{})
		op := &h[len(h)-1]
		hasIndex, err := s.op(op)
		if err != nil {
			h = h[:len(h)-1]
			if last {
				o.note("line %d is cut off: left out", n)
				return h, nil
			}
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := h.number(hasIndex); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if o.Tuples {
			keys.split(op)
		}
		if last {
			return h, nil
		}
	}
}

// number gives the last operation its index, if it has none, or checks it.
func (h History) number(has bool) error {
	at := len(h) - 1
	switch op := &h[at]; {
	case at == 0:
	case !has:
		op.Index = h[at-1].Index + 1
	case op.Index <= h[at-1].Index:
		return fmt.Errorf("index %d follows index %d: the operations are not in order", op.Index, h[at-1].Index)
	}
	return nil
}

// keys takes tuples apart.
type keys map[string]string

func (k *keys) split(op *Op) {
	pair, ok := op.Value.([]any)
	if !ok || len(pair) != 2 || op.Process == Nemesis || op.Key != "" {
		return
	}
	text, ok := pair[0].(string)
	if !ok {
		text = string(appendJSON(nil, pair[0]))
	}
	if *k == nil {
		*k = keys{}
	}
	if known, ok := (*k)[text]; ok {
		text = known
	} else if len(*k) < maxNames {
		(*k)[text] = text
	}
	op.Key, op.Value = text, pair[1]
}

// ReadAny reads JSON lines or EDN, whichever it is: see [Options.ReadAny].
func ReadAny(r io.Reader) (History, error) { return Options{}.ReadAny(r) }

// ReadAny is Read or ReadEDN, by what the history begins with.
func (o Options) ReadAny(r io.Reader) (History, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4 << 10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		return nil, errors.New("the history is compressed: give it through gunzip")
	}
	if looksLikeEDN(head) {
		return o.ReadEDN(in)
	}
	return o.Read(in)
}

// looksLikeEDN decides by the first characters: {" and [{" begin JSON, as does
// anything that is neither.
func looksLikeEDN(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n,\ufeff")
	if len(head) == 0 {
		return false
	}
	switch head[0] {
	case ';', '#', '(':
		return true
	case '[', '{':
		rest := bytes.TrimLeft(head[1:], " \t\r\n,")
		return len(rest) == 0 && head[0] == '[' || len(rest) > 0 && (rest[0] == ':' || rest[0] == '#' || rest[0] == ';' || head[0] == '[' && looksLikeEDN(rest))
	default:
		return false
	}
}
