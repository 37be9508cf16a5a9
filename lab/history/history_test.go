package history_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/lab/history"
)

func TestRead(t *testing.T) {
	const in = `{"index":0,"time":5,"process":0,"type":"invoke","f":"write","key":"k","value":3}

{ "type" : "info", "process":"nemesis", "f":"cut", "time":7, "index":4, "value":["n1", {"b":1.0, "a":1.5}], "color":{"x":[1]} }
{"index":5,"time":9,"process":0,"type":"ok","f":"write","value":3e2,"error":["timed-out", 5],"node":null}
{"index":6,"time":9,"process":2,"type":"invoke","f":"r\u00e9\ud83d\ude00\n","value":-0,"key":7}`
	h, err := history.Read(strings.NewReader("\ufeff" + in))
	if err != nil {
		t.Fatal(err)
	}
	want := history.History{
		{Index: 0, Time: 5, Process: 0, Type: history.Invoke, F: "write", Key: "k", Value: int64(3)},
		{Index: 4, Time: 7, Process: -1, Type: history.Info, F: "cut", Value: []any{"n1", map[string]any{"a": 1.5, "b": int64(1)}}},
		{Index: 5, Time: 9, Process: 0, Type: history.OK, F: "write", Value: int64(300), Error: `["timed-out", 5]`},
		{Index: 6, Time: 9, Process: 2, Type: history.Invoke, F: "ré😀\n", Key: "7", Value: int64(0)},
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestReadErrors(t *testing.T) {
	const good = `{"index":3,"time":0,"process":0,"type":"invoke","f":"read","value":null}` + "\n"
	for _, tt := range []struct{ line, want string }{
		{`{"process":0,"type":"invoke"}`, "line 2: the operation has no f"},
		{`{"process":0,"f":"read"}`, "line 2: the operation has no type"},
		{`{"type":"ok","f":"read"}`, "line 2: the operation has no process"},
		{`{"process":0,"type":"okay","f":"read"}`, `line 2: column 27: type is "okay", want invoke, ok, fail or info`},
		{`{"process":"bob","type":"ok","f":"read"}`, `line 2: column 12: process is bob, want a number or "nemesis"`},
		{`{"process":1.5,"type":"ok","f":"read"}`, `line 2: column 12: process is 1.5, want a number or "nemesis"`},
		{`{"process":1,"type":"ok","f":"read","value":18446744073709551615}`, "line 2: column 45: number 18446744073709551615 does not fit 64 bits with a sign"},
		{`{"process":1,"type":"ok","f":"read","value":1e999}`, "line 2: column 45: number 1e999 is too large"},
		{`{"process":1,"type":"ok","f":"read","value":007}`, "line 2: column 45: number 007 begins with 0"},
		{`{"process":1,"type":"ok","f":"read","value":[1 2]}`, "line 2: column 48: '2' where ',' or ']' belongs"},
		{`{"process":1,"type":"ok","f":"read","value":nil}`, `line 2: column 45: "n" is no JSON value`},
		{`{"process":1,"type":"ok","f":"read","value":` + strings.Repeat("[", 300), "line 2: column 246: value nests deeper than 200"},
		{`{"process":1,"type":"ok","f":"read","index":3}`, "line 2: index 3 follows index 3: the operations are not in order"},
		{`{"process":1,"type":"ok","f":"read","index":"3"}`, "line 2: column 45: index is no whole number"},
		{`{"process":1,"type":"ok","f":"read"} x`, "line 2: column 38: 'x' after the operation"},
		{`[{"process":1,"type":"ok","f":"read"}]`, "line 2: column 1: an array where an operation belongs: write one operation per line, as jq -c '.[]' does"},
		{`{"process":1,"type":"ok","f":"read"`, "line 2: ends in the middle"},
	} {
		_, err := history.Read(strings.NewReader(good + tt.line + "\n"))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.line, err, tt.want)
		}
	}
}

func TestReadKilledRun(t *testing.T) {
	const whole = `{"index":0,"time":0,"process":0,"type":"invoke","f":"read","key":"a\"b","value":[1,{"x":true}],"node":"n1"}`
	for n := range len(whole) {
		var notes []string
		o := history.Options{Note: func(s string) { notes = append(notes, s) }}
		h, err := o.Read(strings.NewReader(whole + "\n" + whole[:n]))
		if err != nil || len(h) != 1 || len(notes) != min(n, 1) {
			t.Fatalf("cut after %d: %v, %d operations, notes %q", n, err, len(h), notes)
		}
	}
	// A last line that is whole but for its end is no cut.
	h, err := history.Read(strings.NewReader(whole))
	if err != nil || len(h) != 1 {
		t.Errorf("%v, %v", h, err)
	}
}

func TestReadLongLine(t *testing.T) {
	list := strings.Repeat("1,", 3<<20)
	in := `{"process":0,"type":"ok","f":"read","value":[` + list + `2]}` + "\n" + `{"process":0,"type":"invoke","f":"read"}` + "\n"
	h, err := history.Read(strings.NewReader(in))
	if err != nil || len(h) != 2 || len(h[0].Value.([]any)) != 3<<20+1 || h[1].Index != 1 {
		t.Errorf("%d operations, %v", len(h), err)
	}
}

func TestTuples(t *testing.T) {
	const in = `{"process":0,"type":"invoke","f":"write","value":[17,[1,2]]}
{"process":"nemesis","type":"info","f":"cut","value":["n1","n2"]}
{"process":0,"type":"ok","f":"write","value":["x",null]}
`
	h, err := history.Options{Tuples: true}.Read(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if h[0].Key != "17" || cmp.Diff(h[0].Value, []any{int64(1), int64(2)}) != "" || h[1].Key != "" || h[2].Key != "x" || h[2].Value != nil {
		t.Errorf("%+v", h)
	}
	for name, write := range map[string]func(history.Options, io.Writer, history.History) error{
		"JSON": history.Options.Write, "EDN": history.Options.WriteEDN,
	} {
		var b bytes.Buffer
		o := history.Options{Tuples: true}
		if err := write(o, &b, h); err != nil {
			t.Fatal(err)
		}
		again, err := o.ReadAny(&b)
		if err != nil || cmp.Diff(h, again) != "" {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(h, again))
		}
	}
}

func TestNormalize(t *testing.T) {
	type name string
	five := 5
	for _, tt := range []struct{ in, want any }{
		{nil, nil},
		{true, true},
		{int8(3), int64(3)},
		{uint64(7), int64(7)},
		{float32(2), int64(2)},
		{1e300, 1e300},
		{math.Copysign(0, -1), int64(0)},
		{name("x"), "x"},
		{[]byte("ab"), "ab"},
		{&five, int64(5)},
		{(*int)(nil), nil},
		{[]int(nil), []any{}},
		{[2]string{"a", "b"}, []any{"a", "b"}},
		{map[int][]uint8{3: {1}}, map[string]any{"3": "\x01"}},
	} {
		got, err := history.Normalize(tt.in)
		if err != nil || cmp.Diff(tt.want, got) != "" {
			t.Errorf("%#v: %#v, %v, want %#v", tt.in, got, err, tt.want)
		}
	}
	loop := []any{nil}
	loop[0] = loop
	for _, v := range []any{math.NaN(), math.Inf(1), uint64(math.MaxUint64), struct{}{}, func() {}, map[float64]int{1.5: 1}, loop} {
		if got, err := history.Normalize(v); err == nil {
			t.Errorf("%T: %#v", v, got)
		}
	}
}

// someValue draws values in normal form.
func someValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 6
		if depth == 0 {
			kinds = 5
		}
		switch rapid.IntRange(0, kinds).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.Int64().Draw(t, "int")
		case 3, 4:
			return rapid.String().Draw(t, "string")
		case 5:
			v, err := history.Normalize(rapid.Float64().Draw(t, "float"))
			if err != nil {
				return nil
			}
			return v
		default:
			if rapid.Bool().Draw(t, "list") {
				list := rapid.SliceOfN(someValue(depth-1), 0, 4).Draw(t, "list")
				return append([]any{}, list...)
			}
			return rapid.MapOfN(rapid.String(), someValue(depth-1), 0, 4).Draw(t, "map")
		}
	})
}

func someHistory(t *rapid.T) history.History {
	var h history.History
	index := -1
	for range rapid.IntRange(0, 8).Draw(t, "n") {
		index += rapid.IntRange(1, 3).Draw(t, "step")
		h = append(h, history.Op{
			Index:   index,
			Time:    time.Duration(rapid.Int64().Draw(t, "time")),
			Process: rapid.IntRange(-1, 9).Draw(t, "process"),
			Type:    rapid.SampledFrom([]history.Type{history.Invoke, history.OK, history.Fail, history.Info}).Draw(t, "type"),
			F:       rapid.SampledFrom([]string{"read", "compare-and-set", "a b", "7", "ünï", ":x", "true"}).Draw(t, "f"),
			Key:     rapid.String().Draw(t, "key"),
			Value:   someValue(3).Draw(t, "value"),
			Error:   rapid.String().Draw(t, "error"),
			Node:    rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node"),
		})
	}
	return h
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := someHistory(t)
		for name, write := range map[string]func(io.Writer, history.History) error{"JSON": history.Write, "EDN": history.WriteEDN} {
			var b bytes.Buffer
			if err := write(&b, h); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			got, err := history.ReadAny(&b)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			if len(h) == 0 && len(got) == 0 {
				continue
			}
			if d := cmp.Diff(h, got); d != "" {
				t.Fatalf("%s\n%s\n%s", name, text, d)
			}
		}
	})
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := history.NewWriter(&b)
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := range 500 {
				at := time.Duration(i) * time.Millisecond
				w.Append(history.Op{Time: at, Process: p, Type: history.Invoke, F: "write", Value: i})
				w.Append(history.Op{Time: at, Process: p, Type: history.OK, F: "write", Value: i})
			}
		})
	}
	wg.Wait()
	last := w.Append(history.Op{Process: history.Nemesis, Type: history.Info, F: "cut", Value: struct{ A int }{4}})
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	h, err := history.Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if len(h) != 8001 || w.Len() != len(h) || last.Index != 8000 || h[8000].Value != "{4}" {
		t.Errorf("%d operations of %d; the last %+v", len(h), w.Len(), h[len(h)-1])
	}
	calls, err := h.Calls()
	if err != nil || len(calls) != 4000 {
		t.Errorf("%d calls, %v", len(calls), err)
	}
}

// A run that is killed loses what was appended within 100 ms of its end.
func TestWriterLosesLittle(t *testing.T) {
	var b bytes.Buffer
	w := history.NewWriter(&b)
	for i := range 1000 {
		w.Append(history.Op{Time: time.Duration(i) * time.Millisecond, Type: history.Invoke, F: "f"})
	}
	h, err := history.Read(&b) // no Flush
	if err != nil || len(h) < 900 {
		t.Errorf("%d operations of 1000, %v", len(h), err)
	}
}

type fullDisk struct{ room int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.room -= len(b); d.room < 0 {
		return 0, errors.New("no space left")
	}
	return len(b), nil
}

func TestWriterFails(t *testing.T) {
	w := history.NewWriter(&fullDisk{room: 1000})
	for i := range 100_000 {
		if op := w.Append(history.Op{Type: history.Invoke, F: "f"}); op.Index != i {
			t.Fatalf("index %d, want %d", op.Index, i)
		}
	}
	if err := w.Flush(); err == nil || err.Error() != "history: no space left" {
		t.Error(err)
	}
	if w.Err() == nil {
		t.Error("the error is forgotten")
	}
}

// A disk that does not answer stops the recording before it eats the memory.
func TestWriterWaits(t *testing.T) {
	stuck := make(chan struct{})
	w := history.NewWriter(writerFunc(func(b []byte) (int, error) {
		<-stuck
		return len(b), nil
	}))
	value := strings.Repeat("x", 1<<20)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 40 {
				w.Append(history.Op{Type: history.Invoke, F: "f", Value: value})
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	for w.Len() < 16 {
		select {
		case <-done:
			t.Fatal("nobody waited")
		default:
		}
	}
	close(stuck)
	<-done
	if err := w.Flush(); err != nil || w.Len() != 80 {
		t.Errorf("%d appended, %v", w.Len(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestCalls(t *testing.T) {
	op := func(process int, typ history.Type, at int) history.Op {
		return history.Op{Index: at, Time: time.Duration(at), Process: process, Type: typ, F: "read"}
	}
	h := history.History{
		op(0, history.Invoke, 1), op(1, history.Invoke, 2), op(history.Nemesis, history.Info, 3), op(1, history.Info, 4),
		op(0, history.OK, 5), op(1, history.Invoke, 6), op(1, history.Fail, 7), op(0, history.Invoke, 8),
	}
	calls, err := h.Calls()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range calls {
		got = append(got, fmt.Sprintf("%d %d %d-%d %s", c.Invoke.Process, c.Invoke.Index, c.Invoke.Time, c.End(), c.Complete.Type))
	}
	want := []string{"0 1 1-5 ok", "1 2 2-9223372036854775807 info", "1 6 6-7 fail", "0 8 8-9223372036854775807 info"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if calls[3].Complete.Index != -1 || calls[1].Complete.Index != 4 {
		t.Errorf("%+v", calls)
	}
}

func TestCallsWithoutTimes(t *testing.T) {
	h := history.History{
		{Index: 0, Process: 0, Type: history.Invoke, F: "f"},
		{Index: 1, Process: 0, Type: history.OK, F: "f"},
		{Index: 2, Process: 0, Type: history.Invoke, F: "f"},
		{Index: 3, Process: 0, Type: history.OK, F: "f"},
	}
	calls, err := h.Calls()
	if err != nil || calls[0].End() >= calls[1].Invoke.Time {
		t.Errorf("%+v, %v: their order is lost", calls, err)
	}
	if h[3].Time != 0 {
		t.Error("the history was changed")
	}
}

func TestCallsMalformed(t *testing.T) {
	for _, tt := range []struct {
		types []history.Type
		want  string
	}{
		{[]history.Type{history.Invoke, history.Invoke}, "index 1: process 4 begins read while its call at index 0 is open"},
		{[]history.Type{history.OK}, "index 0: process 4 ends read (ok) without having begun it"},
		{[]history.Type{history.Invoke, history.Info, history.OK}, "index 2: process 4 ends read (ok) without having begun it"},
		{[]history.Type{"done"}, `index 0: process 4 has type "done", want invoke, ok, fail or info`},
	} {
		var h history.History
		for i, typ := range tt.types {
			h = append(h, history.Op{Index: i, Time: time.Duration(i + 1), Process: 4, Type: typ, F: "read"})
		}
		if _, err := h.Calls(); err == nil || err.Error() != tt.want {
			t.Errorf("%v: %v", tt.types, err)
		}
	}
	h := history.History{{Type: history.Invoke, F: "read", Time: 9}, {Type: history.OK, F: "read", Time: 8, Index: 1}}
	if _, err := h.Calls(); err == nil || !strings.Contains(err.Error(), "before it began at 9ns") {
		t.Error(err)
	}
	h[1].F, h[1].Time = "write", 10
	if _, err := h.Calls(); err == nil || !strings.Contains(err.Error(), "its open call, at index 0, is read") {
		t.Error(err)
	}
}
