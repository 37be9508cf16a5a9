// Package call is what the drivers share: how a call's arguments are read, how
// its end is told, and how settings are read.
package call

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"holdfast.dev/lab/history"
)

// OK is the end of a call that happened.
func OK(op history.Op, value any) history.Op {
	op.Type, op.Value, op.Error = history.OK, value, ""
	return op
}

// Fail is the end of a call that did not happen and never will.
func Fail(op history.Op, err error) history.Op {
	op.Type, op.Error = history.Fail, err.Error()
	return op
}

// Info is the end of a call that may have happened.
func Info(op history.Op, err error) history.Op {
	op.Type, op.Error = history.Info, err.Error()
	return op
}

// End is OK, or Fail or Info as certain says: that the call did not happen.
func End(op history.Op, value any, err error, certain bool) history.Op {
	switch {
	case err == nil:
		return OK(op, value)
	case certain:
		return Fail(op, err)
	default:
		return Info(op, err)
	}
}

// Unknown is the end of a call that the client has no method for.
func Unknown(op history.Op) history.Op {
	return Fail(op, fmt.Errorf("this client has no %q", op.F))
}

// Encode is a value as text, to be stored. Whole numbers are decimal.
func Encode(v any) (string, error) {
	data, err := json.Marshal(v)
	return string(data), err
}

// Decode reads what Encode wrote; whole numbers are int64.
func Decode(s string) (any, error) {
	d := json.NewDecoder(bytes.NewReader([]byte(s)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("stored value %q: %w", s, err)
	}
	return normal(v), nil
}

// normal turns numbers into int64 where they are whole, and float64 otherwise.
func normal(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // the decoder accepted it as a number
		return f
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
		return v
	case map[string]any:
		for k := range v {
			v[k] = normal(v[k])
		}
		return v
	default:
		return v
	}
}

// Int reads a whole number.
func Int(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		if n := int64(v); float64(n) == v {
			return n, nil
		}
	case json.Number:
		return v.Int64()
	}
	return 0, fmt.Errorf("value %v: want a whole number", v)
}

// Pair reads [a, b].
func Pair(v any) (a, b any, err error) {
	switch v := v.(type) {
	case []any:
		if len(v) == 2 {
			return v[0], v[1], nil
		}
	case []int64:
		if len(v) == 2 {
			return v[0], v[1], nil
		}
	case [2]int64:
		return v[0], v[1], nil
	}
	return nil, nil, fmt.Errorf("value %v: want [old, new]", v)
}

// Micro is one operation of a transaction: ["r", key, nil] or
// ["append", key, value].
type Micro struct {
	Append bool
	Key    any    // as it was given
	Name   string // the key as text
	Value  int64  // of an append
}

// Txn reads the operations of a transaction.
func Txn(v any) ([]Micro, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("value %v: want a list of operations", v)
	}
	out := make([]Micro, 0, len(list))
	for _, item := range list {
		op, ok := item.([]any)
		if !ok || len(op) != 3 {
			return nil, fmt.Errorf(`operation %v: want ["r", key, nil] or ["append", key, value]`, item)
		}
		m := Micro{Key: op[1], Name: fmt.Sprint(op[1])}
		switch op[0] {
		case "r":
		case "append":
			n, err := Int(op[2])
			if err != nil {
				return nil, err
			}
			m.Append, m.Value = true, n
		default:
			return nil, fmt.Errorf("operation %v: want r or append", item)
		}
		out = append(out, m)
	}
	return out, nil
}

// Run applies a transaction to the lists it began with, which Run changes, and
// returns its operations with the reads filled in.
func Run(ops []Micro, lists map[string][]any) []any {
	out := make([]any, len(ops))
	for i, m := range ops {
		if m.Append {
			lists[m.Name] = append(lists[m.Name], m.Value)
			out[i] = []any{"append", m.Key, m.Value}
			continue
		}
		out[i] = []any{"r", m.Key, append([]any{}, lists[m.Name]...)}
	}
	return out
}

// Transfer is the value of a bank's transfer.
type Transfer struct {
	From, To string
	Amount   int64
}

// ParseTransfer reads {from, to, amount}.
func ParseTransfer(v any) (Transfer, error) {
	m, ok := v.(map[string]any)
	if !ok || m["from"] == nil || m["to"] == nil {
		return Transfer{}, fmt.Errorf("value %v: want from, to and amount", v)
	}
	amount, err := Int(m["amount"])
	return Transfer{From: fmt.Sprint(m["from"]), To: fmt.Sprint(m["to"]), Amount: amount}, err
}

// Balances are those of the accounts "0", "1", … that a bank begins with: total
// shared evenly, the rest with the first.
func Balances(v any) ([]int64, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("value %v: want accounts and total", v)
	}
	n, err := Int(m["accounts"])
	if err != nil {
		return nil, err
	}
	total, err := Int(m["total"])
	if err != nil {
		return nil, err
	}
	if n < 1 || n > 1000 || total < 0 {
		return nil, fmt.Errorf("value %v: want 1 to 1000 accounts and a total", v)
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = total / n
	}
	out[0] += total % n
	return out, nil
}

// Account is the name of the account with that number.
func Account(i int) string { return strconv.Itoa(i) }

// ErrShort says that an account has less than a transfer takes.
var ErrShort = errors.New("the account has too little")

// ErrMissing says that a transfer names no account.
var ErrMissing = errors.New("there is no such account")
