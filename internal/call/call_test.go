package call_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

func TestEnd(t *testing.T) {
	op, boom := history.Op{Type: history.Invoke, F: "write", Value: int64(1)}, errors.New("boom")
	for _, c := range []struct {
		err     error
		certain bool
		want    history.Op
	}{
		{nil, true, history.Op{Type: history.OK, F: "write", Value: int64(2)}},
		{nil, false, history.Op{Type: history.OK, F: "write", Value: int64(2)}},
		{boom, true, history.Op{Type: history.Fail, F: "write", Value: int64(1), Error: "boom"}},
		{boom, false, history.Op{Type: history.Info, F: "write", Value: int64(1), Error: "boom"}},
	} {
		if got := call.End(op, int64(2), c.err, c.certain); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v, %v: %+v", c.err, c.certain, got)
		}
	}
}

func TestEncode_Decode(t *testing.T) {
	for _, v := range []any{
		nil, int64(7), int64(9007199254740993), "x", true, 1.5,
		[]any{int64(1), []any{"a"}},
		map[string]any{"k": int64(1)},
	} {
		text, err := call.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := call.Decode(text); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%v became %v, %v", v, got, err)
		}
	}
	if v, err := call.Decode("{"); err == nil {
		t.Errorf("half a value is %v", v)
	}
}

func TestTxn(t *testing.T) {
	ops, err := call.Txn([]any{[]any{"r", "x", nil}, []any{"append", "x", int64(2)}, []any{"r", "x", nil}})
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string][]any{"x": {int64(1)}}
	got := call.Run(ops, lists)
	want := []any{
		[]any{"r", "x", []any{int64(1)}}, []any{"append", "x", int64(2)}, []any{"r", "x", []any{int64(1), int64(2)}},
	}
	if !reflect.DeepEqual(got, want) || len(lists["x"]) != 2 {
		t.Errorf("got %v, lists %v", got, lists)
	}
	for _, bad := range []any{nil, []any{"r"}, []any{[]any{"r", "x"}}, []any{[]any{"w", "x", int64(1)}}, []any{[]any{"append", "x", "y"}}} {
		if ops, err := call.Txn(bad); err == nil {
			t.Errorf("%v is %v", bad, ops)
		}
	}
}

func TestBalances(t *testing.T) {
	got, err := call.Balances(map[string]any{"accounts": int64(3), "total": int64(100)})
	if err != nil || !reflect.DeepEqual(got, []int64{34, 33, 33}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []any{nil, map[string]any{}, map[string]any{"accounts": int64(0), "total": int64(1)}} {
		if got, err := call.Balances(bad); err == nil {
			t.Errorf("%v: %v", bad, got)
		}
	}
}

// world has only options.
type world struct {
	driver.Env
	options map[string]string
}

func (w world) Option(name string) string { return w.options[name] }

func TestOptions(t *testing.T) {
	o := call.NewOptions(world{options: map[string]string{
		"n": "5", "d": "2s", "b": "false", "c": "two", "badn": "0", "badd": "soon", "badb": "perhaps", "badc": "four",
	}})
	if n, d, b, c := o.Int("n", 1, 1), o.Duration("d", 1), o.Bool("b", true), o.Choice("c", "one", "two"); n != 5 || d != 2*time.Second || b || c != "two" {
		t.Error(n, d, b, c)
	}
	if n, d, b, c := o.Int("-", 1, 1), o.Duration("-", 3), o.Bool("-", true), o.Choice("-", "one", "two"); n != 1 || d != 3 || !b || c != "one" {
		t.Error(n, d, b, c)
	}
	if err := o.Err(); err != nil {
		t.Fatal(err)
	}
	o.Int("badn", 1, 1)
	o.Duration("badd", 1)
	o.Bool("badb", true)
	o.Choice("badc", "one", "two")
	for _, name := range []string{"badn", "badd", "badb", "badc"} {
		if err := o.Err(); err == nil || !strings.Contains(err.Error(), "option "+name+":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
