package history_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/lab/history"
)

// Histories in testdata are written down twice: as Jepsen prints them, and as
// the lines that they must become.
func TestReadEDN(t *testing.T) {
	files, err := filepath.Glob("testdata/*.edn")
	if err != nil || len(files) < 2 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.TrimSuffix(file, "edn") + "jsonl")
		if err != nil {
			t.Fatal(err)
		}
		o := history.Options{Tuples: strings.Contains(file, "register"), Note: func(s string) { t.Errorf("%s: %s", file, s) }}
		h, err := o.ReadAny(bytes.NewReader(src))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var got bytes.Buffer
		if err := history.Write(&got, h); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got.String()); d != "" {
			t.Errorf("%s: -want +got:\n%s", file, d)
		}
		again, err := history.ReadAny(&got)
		if err != nil || cmp.Diff(h, again) != "" {
			t.Errorf("%s: %v\n%s", file, err, cmp.Diff(h, again))
		}
	}
}

func TestWriteEDN(t *testing.T) {
	h := history.History{
		{Index: 3, Time: 9, Process: 2, Type: history.OK, F: "txn", Key: "7", Value: []any{[]string{"append", "x"}, []any{"r", 1, []int{2}}}, Node: "n1"},
		{Index: 4, Process: history.Nemesis, Type: history.Info, F: "a b", Value: map[string]any{"7": 1.5, "x": "y", "": nil, "07": true}, Error: "\x01\n"},
	}
	for _, tt := range []struct {
		o    history.Options
		want string
	}{
		{history.Options{}, `{:index 3, :time 9, :process 2, :type :ok, :f :txn, :key "7", :value [[:append "x"] [:r 1 [2]]], :node "n1"}
{:index 4, :time 0, :process :nemesis, :type :info, :f "a b", :value {"" nil, "07" true, 7 1.5, :x "y"}, :error "\u0001\n"}
`},
		{history.Options{Tuples: true}, `{:index 3, :time 9, :process 2, :type :ok, :f :txn, :value [7 [[:append "x"] [:r 1 [2]]]], :node "n1"}
{:index 4, :time 0, :process :nemesis, :type :info, :f "a b", :value {"" nil, "07" true, 7 1.5, :x "y"}, :error "\u0001\n"}
`},
	} {
		var b bytes.Buffer
		if err := tt.o.WriteEDN(&b, h); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, b.String()); d != "" {
			t.Error(d)
		}
	}
}

func TestReadEDNErrors(t *testing.T) {
	op := func(value string) string {
		return "{:process 0 :type :ok :f :read :value 1}\n{:process 0 :type :ok :f :read :value " + value + "}\n"
	}
	for _, tt := range []struct{ in, want string }{
		{op("1/2"), "line 2: ratio 1/2 has no form in a history"},
		{op("##Inf"), "line 2: ##Inf has no form in a history"},
		{op("9223372036854775808N"), "line 2: number 9223372036854775808 does not fit 64 bits with a sign"},
		{op("0x1F"), `line 2: number "0x1F" is malformed`},
		{op("1_000.0"), `line 2: number "1_000.0" is malformed`},
		{op("1.5N"), `line 2: number "1.5N" is malformed`},
		{op(`"\q"`), `line 2: unknown escape \q`},
		{op(`\bogus`), `line 2: \bogus is no character`},
		{op("{:a}"), "line 2: map with the key a and no value to it"},
		{op("'x"), `line 2: '\'' where a value belongs`},
		{op("@x"), `line 2: '@' where a value belongs`},
		{op(`#"re"`), `line 2: #" where a value belongs`},
		{op("[1)"), `line 2: ')' where a value belongs`},
		{op(":"), "line 2: a keyword without a name"},
		{op("\x00"), "line 2: a zero byte"},
		{op("[\x00"), "line 2: a zero byte"},
		{op(strings.Repeat("[", 400)), "line 2: value nests deeper than 200"},
		{op(strings.Repeat("#_", 400)), "line 2: value nests deeper than 200"},
		{"[" + op("1") + "] 3", `line 3: '3' after the end of the history`},
		{"{:type :ok :f :read}", "line 1: the operation has no process"},
		{"\n{:type :okay}", "line 2: type is okay, want :invoke, :ok, :fail or :info"},
		{"{:process :bob}", "line 1: process is bob, want a number or :nemesis"},
		{"{:index -1}", "line 1: index is -1, want a number"},
		{"{:time 1.5}", "line 1: time is 1.5, want nanoseconds"},
		{"{:f 7}", "line 1: f is 7, want a keyword"},
		{"3", `line 1: '3' where an operation, a map, belongs`},
		{"{:index 5 :process 0 :type :ok :f :read} {:index 5 :process 0 :type :ok :f :read}", "line 1: index 5 follows index 5: the operations are not in order"},
		{"{:process 0", "line 1: ends in the middle"},
	} {
		_, err := history.ReadEDN(strings.NewReader(tt.in))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

func TestReadEDNKilledRun(t *testing.T) {
	first := `{:index 0 :process 0 :type :invoke :f :read :value nil}`
	second := `#jepsen.history.Op{:index 1 :process 0 :type :ok :f :read :value [1 {"x" \newline} #{3} "a\u0041"] #_ no :error "\101"}`
	for _, open := range []string{"", "["} {
		for n := range len(second) {
			in := open + first + "\n" + second[:n]
			var notes []string
			h, err := history.Options{Note: func(s string) { notes = append(notes, s) }}.ReadEDN(strings.NewReader(in))
			whole := n == 0 && open == ""
			if err != nil || len(h) != 1 || whole != (len(notes) == 0) {
				t.Fatalf("%s\n%v, %d operations, notes %q", in, err, len(h), notes)
			}
		}
	}
}

func TestReadAny(t *testing.T) {
	json := `{"process":0,"type":"ok","f":"read"}`
	for _, in := range []string{
		json, " \n" + json, `{ "process":0,"type":"ok","f":"read"}`,
		`{:process 0 :type :ok :f :read}`, `[{:process 0 :type :ok :f :read}]`, `({:process 0 :type :ok :f :read})`,
		`[ #x.Op{:process 0 :type :ok :f :read}]`, "; hello\n{:process 0 :type :ok :f :read}", "[; hello\n{:process 0 :type :ok :f :read}]",
	} {
		h, err := history.ReadAny(strings.NewReader(in))
		if err != nil || len(h) != 1 || h[0].Type != history.OK {
			t.Errorf("%s: %+v, %v", in, h, err)
		}
	}
	for in, want := range map[string]string{
		"\x1f\x8b\x08":     "the history is compressed: give it through gunzip",
		"[" + json + "]\n": "line 1: column 1: an array where an operation belongs: write one operation per line, as jq -c '.[]' does",
	} {
		if _, err := history.ReadAny(strings.NewReader(in)); err == nil || err.Error() != want {
			t.Errorf("%s: %v", in, err)
		}
	}
	for _, in := range []string{"", "\n", "[]", "[", " "} {
		if h, err := history.ReadAny(strings.NewReader(in)); (err != nil) != (in == "[") || len(h) != 0 {
			t.Errorf("%q: %v, %v", in, h, err)
		}
	}
}

// What can be read can be written, and is then read the same.
func fuzzRead(f *testing.F, pattern string) {
	f.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, tuples bool) {
		o := history.Options{Tuples: tuples}
		h, err := o.ReadAny(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i, write := range []func(*bytes.Buffer) error{
			func(w *bytes.Buffer) error { return history.Write(w, h) },
			func(w *bytes.Buffer) error { return history.WriteEDN(w, h) },
		} {
			var w bytes.Buffer
			if err := write(&w); err != nil {
				t.Fatal(err)
			}
			text := w.String()
			again, err := history.ReadAny(&w)
			if err != nil {
				t.Fatalf("way %d: %v\n%s", i, err, text)
			}
			if fmt.Sprint(again) != valid(h) {
				t.Fatalf("way %d\n%s\n%s", i, valid(h), fmt.Sprint(again))
			}
		}
		_, _ = h.Calls() // may refuse, must not panic
	})
}

// valid is the history as text, with what is no UTF-8 as it must be written.
func valid(h history.History) string {
	var b strings.Builder
	for _, r := range fmt.Sprint(h) {
		b.WriteRune(r)
	}
	return b.String()
}

func FuzzJSON(f *testing.F) { fuzzRead(f, "testdata/*.jsonl") }

func FuzzEDN(f *testing.F) { fuzzRead(f, "testdata/*.edn") }
