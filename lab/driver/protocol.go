package driver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast.dev/lab/history"
)

// Version is the version of the protocol of lines that docs/lab-protocol.md
// describes.
const Version = 1

// maxLine bounds a line of the protocol: a list of a hundred thousand elements
// fits, a program gone mad does not fill the memory.
const maxLine = 16 << 20

var errLongLine = fmt.Errorf("a line is longer than %d bytes", maxLine)

// Hello is the first request on each connection to a client's program.
type Hello struct {
	Version  int    `json:"version"`
	Workload string `json:"workload"`
	Node     string `json:"node"` // whom to talk to
	Addr     string `json:"addr"` // and where it is
}

// request is one line to the program: a Hello or an operation.
type request struct {
	ID        int64      `json:"id"`
	Hello     *Hello     `json:"hello,omitempty"`
	Op        *requestOp `json:"op,omitempty"`
	TimeoutMS int64      `json:"timeout_ms,omitempty"`
}

type requestOp struct {
	F       string `json:"f"`
	Key     string `json:"key"`
	Value   any    `json:"value"`
	Process int    `json:"process"`
	Node    string `json:"node"`
}

func (o requestOp) op() history.Op {
	return history.Op{Type: history.Invoke, F: o.F, Key: o.Key, Value: o.Value, Process: o.Process, Node: o.Node}
}

// answer is one line from the program.
type answer struct {
	ID          *int64          `json:"id"`
	Type        history.Type    `json:"type"`
	Value       json.RawMessage `json:"value,omitempty"` // absent: the operation's own
	Error       string          `json:"error,omitempty"`
	Concurrency int             `json:"concurrency,omitempty"` // to Hello: how many requests at once; default 1
}

// parseAnswer reads a line, strictly enough that nonsense is not taken for an
// answer: fields that are not known are ignored, for versions to come.
func parseAnswer(line []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{}, fmt.Errorf("malformed line %s: %w", quoted(line), err)
	}
	switch {
	case a.ID == nil:
		return answer{}, fmt.Errorf("malformed line %s: no id", quoted(line))
	case a.Type != history.OK && a.Type != history.Fail && a.Type != history.Info:
		return answer{}, fmt.Errorf("malformed line %s: type must be ok, fail or info", quoted(line))
	}
	return a, nil
}

// complete is the operation as the answer ends it.
func (a answer) complete(op history.Op) (history.Op, error) {
	op.Type, op.Error = a.Type, a.Error
	if a.Value == nil {
		return op, nil
	}
	v, err := decodeValue(a.Value)
	if err != nil {
		return op, err
	}
	op.Value = v
	return op, nil
}

// decodeValue reads JSON in the form that histories have.
func decodeValue(src []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return history.Normalize(v)
}

// encode makes a line.
func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}

// readLine reads up to the next newline, without it. A last line without
// newline is a line that was cut off: io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, errLongLine
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		default:
			return bytes.TrimRight(line, "\r\n"), nil
		}
	}
}

// quoted is the beginning of a line, for people.
func quoted(line []byte) string {
	const most = 80
	if len(line) > most {
		return fmt.Sprintf("%.*q…", most, line)
	}
	return fmt.Sprintf("%q", line)
}

// millis is a duration in whole milliseconds, at least 1.
func millis(d time.Duration) int64 { return max(1, d.Milliseconds()) }
