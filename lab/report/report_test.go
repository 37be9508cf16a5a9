package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

var update = flag.Bool("update", false, "write the golden files anew")

// makeRun makes the directory of a run and its report.
func makeRun(tb testing.TB, d *Data, lines string) (page string) {
	tb.Helper()
	dir := tb.TempDir()
	writeRun(tb, dir, d, lines)
	if err := WriteFile(dir); err != nil {
		tb.Fatal(err)
	}
	return read(tb, filepath.Join(dir, "report.html"))
}

func writeRun(tb testing.TB, dir string, d *Data, lines string) {
	tb.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		tb.Fatal(err)
	}
	write(tb, filepath.Join(dir, "run.json"), string(b))
	if lines != "" {
		write(tb, filepath.Join(dir, "history.jsonl"), lines)
	}
}

func write(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func fixture(t *testing.T) (d *Data, lines string) {
	t.Helper()
	d, err := decode([]byte(read(t, "testdata/run/run.json")))
	if err != nil {
		t.Fatal(err)
	}
	return d, read(t, "testdata/run/history.jsonl")
}

// TestGolden compares what a page is made of but its styles and scripts, so
// that a change of either is no change of all.
func TestGolden(t *testing.T) {
	d, lines := fixture(t)
	page := makeRun(t, d, lines)
	again := makeRun(t, d, lines)
	if page != again {
		t.Error("the same run made two different pages")
	}
	page = strings.Replace(page, "<style>"+styles+"</style>", "<style></style>", 1)
	page = strings.Replace(page, "<script>"+script+"</script>", "<script></script>", 1)
	page = strings.Replace(page, generation, "GENERATION", 1)
	page = regexp.MustCompile(`sha256-[^&]+&#39;`).ReplaceAllString(page, "DIGEST")
	page = regexp.MustCompile(`\n\s*\n+`).ReplaceAllString(page, "\n")
	const golden = "testdata/run/report.golden"
	if *update {
		write(t, golden, page)
	}
	if want := read(t, golden); page != want {
		at := 0
		for at < min(len(page), len(want)) && page[at] == want[at] {
			at++
		}
		t.Errorf("the page differs from %s at %d (run with -update if that is wanted):\n got …%s\nwant …%s", golden, at, around(page, at), around(want, at))
	}
}

func around(s string, at int) string { return s[max(at-80, 0):min(at+120, len(s))] }

// TestSays looks for what every reader wants to know.
func TestSays(t *testing.T) {
	d, lines := fixture(t)
	page := makeRun(t, d, lines)
	text := textOf(t, page)
	for _, want := range []string{
		"invalid", "register: key r0: an acknowledged write was lost", "As expected: invalid", "holdfast lab run demo --seed 7",
		"process 1 at n2 read nil from 5s (index 14)", "clock jump n2 +1h for 500ms: it touched nothing", "regsrv ended: signal killed",
		"5 ok", "2 failed", "1 unknown", "1 touched nothing", "write r0 = 1", "read r0 = nil", "planned: net cut one for 1s", "net cut n1|n2 for 1s",
		"7 cut", "2 lost", "register/r0", "2 starts", "everything", "refused", "regsrv --id 1", "+1 h", "±20 µs / 400 µs",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if n := strings.Count(page, `class="witness"`); n != 2 {
		t.Errorf("%d calls of the witness are marked among the clients, want 2", n)
	}
	for _, must := range []string{`href="http`, `src="http`, "@import", "url(http"} {
		if strings.Contains(page, must) {
			t.Errorf("the page needs something from elsewhere: %s", must)
		}
	}
}

func textOf(tb testing.TB, page string) string {
	tb.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		tb.Fatal(err)
	}
	var s strings.Builder
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "script" && n.Parent.Data != "style" {
			s.WriteString(n.Data + "\n")
		}
	}
	return s.String()
}

// hostile is what a log, a value or an error may hold.
var hostile = []string{
	`<script>alert(1)</script>`, `</script><script>alert(2)</script>`, `"><img src=x onerror=alert(3)>`, `' onmouseover='alert(4)`,
	`</title></svg><svg onload=alert(5)>`, `javascript:alert(6)`, `<!--`, `]]>`, "\u202eevil\u2066", "\x1b[31mred\x00", "\u2028\u2029", `{{.Seed}}`, `</style><style>*{display:none}`,
	`</text><a href="javascript:alert(7)">`, `</pre><iframe src=//evil>`,
}

func TestHostile(t *testing.T) {
	for _, evil := range hostile {
		d := &Data{
			Version: 1, ID: evil, Scenario: evil, About: evil, Command: evil, State: evil, Verdict: check.Verdict(evil), Reason: evil, Expect: check.Verdict(evil), System: evil, Workload: evil,
			Duration: 3 * time.Second, Doubts: []string{evil}, Findings: []Finding{{0, evil, evil}}, Phases: []Phase{{evil, 0, time.Second, evil}},
			Results: []check.Result{{Checker: evil, Verdict: check.Verdict(evil), Summary: evil, Witness: []string{evil}, Ops: []int{0, 2}, Stats: map[string]any{evil: evil, "a": map[string]any{evil: map[string]any{evil: 1, "x": evil, "m": map[string]any{evil: evil}}}}}},
			Hosts:   []Host{{evil, evil, evil, []string{evil}, 3}, {Name: "n2", Role: "node"}},
			Faults: []Fault{
				{ID: 1, Kind: evil, Text: evil, Resolved: evil + " " + evil, Hosts: []string{evil}, Phase: evil, To: time.Second, Effect: evil, Error: evil},
				{ID: 2, Kind: "net", Text: evil, Resolved: "net cut " + evil + "|n2 for 2s", Hosts: []string{evil}, To: time.Second},
			},
			Links: []Link{{From: evil, To: "n2", Rx: 3, Cut: 2}}, Clocks: []Clock{{evil, []time.Duration{0, 1}, []time.Duration{0, 1e9}}},
			Disks:       []Disk{{Host: evil, Crashes: []Crash{{Paths: []string{evil}}}}},
			Environment: map[string]string{evil: evil}, Logs: []Log{{evil, evil, evil, evil}},
		}
		var lines bytes.Buffer
		if err := history.Write(&lines, history.History{
			{Index: 0, Time: 1, Process: 0, Type: history.Invoke, F: evil, Key: evil, Value: evil, Node: evil},
			{Index: 1, Time: 2, Process: 0, Type: history.Fail, F: evil, Key: evil, Value: evil, Node: evil, Error: evil},
			{Index: 2, Time: 3, Process: 1, Type: history.Invoke, F: "f", Value: map[string]any{evil: evil}},
		}); err != nil {
			t.Fatal(err)
		}
		page := makeRun(t, d, lines.String())
		harmless(t, page, evil)
	}
}

// harmless fails if a page has an element or attribute that none of ours have.
func harmless(t *testing.T, page, evil string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	scripts, stylesheets := 0, 0
	for n := range doc.Descendants() {
		if n.Type == html.CommentNode && !strings.Contains(n.Data, "holdfast lab report") {
			t.Errorf("%q: a comment: %s", evil, n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			scripts++
		case "style":
			stylesheets++
		case "img", "iframe", "object", "embed", "base", "foreignobject":
			t.Errorf("%q: an element %s", evil, n.Data)
		}
		for _, a := range n.Attr {
			value := strings.TrimSpace(strings.ToLower(a.Val))
			if strings.HasPrefix(strings.ToLower(a.Key), "on") || a.Key == "style" || (a.Key == "href" || a.Key == "src" || a.Key == "action") && strings.HasPrefix(value, "javascript:") {
				t.Errorf("%q: <%s %s=%q>", evil, n.Data, a.Key, a.Val)
			}
		}
	}
	if scripts != 2 || stylesheets != 1 {
		t.Errorf("%q: %d scripts and %d style sheets, want 2 and 1", evil, scripts, stylesheets)
	}
	for _, r := range []rune{0, 0x1b, 0x202e, 0x2066, 0x2028} {
		if strings.ContainsRune(page, r) && r != 0x2028 {
			t.Errorf("%q: the page has the character %U", evil, r)
		}
	}
	_, data, _ := strings.Cut(page, `id="data">`)
	data, _, _ = strings.Cut(data, "</script>")
	if !json.Valid([]byte(data)) {
		t.Errorf("%q: the data of the script cannot be read: %.200s", evil, data)
	}
}

// TestOdd makes pages of what no run should leave, and of too little.
func TestOdd(t *testing.T) {
	far := time.Duration(math.MaxInt64)
	full, lines := fixture(t)
	with := func(change func(*Data)) *Data {
		d := *full
		change(&d)
		return &d
	}
	for name, c := range map[string]struct {
		d     *Data
		lines string
	}{
		"nothing":       {&Data{}, ""},
		"no operations": {with(func(d *Data) { d.Ops = Ops{} }), "\n"},
		"no faults":     {with(func(d *Data) { d.Faults = nil }), lines},
		"running":       {with(func(d *Data) { d.State, d.Results = "running", nil }), lines},
		"endless":       {with(func(d *Data) { d.Duration = far; d.Phases[3].To = far; d.Faults[0].To = far }), lines},
		"backwards": {with(func(d *Data) {
			d.Duration = -far
			d.Faults[1].From, d.Faults[1].To = far, -far
			d.Clocks[0].Offset[0] = math.MinInt64
		}), lines},
		"huge numbers":    {with(func(d *Data) { d.Ops.OK = math.MaxInt64 / 2000; d.Links[0].Tx = math.MaxInt64; d.Seed = math.MaxUint64 }), lines},
		"a history's end": {full, lines[strings.Index(lines, "\n")+1:]},
		"cut off":         {full, lines[:len(lines)-30]},
		"no history":      {full, `{"a":1}` + "\nnot json\n[]\nnull\n" + lines},
		"far operations":  {full, lines + `{"index":99,"time":9223372036854775807,"process":77,"type":"invoke","f":"x","value":null}` + "\n" + `{"index":100,"time":-5,"process":-9,"type":"what","f":"","value":1e400}` + "\n"},
		"unicode":         {with(func(d *Data) { d.Scenario, d.Reason = "Überläufe 試験", "значение 🙂 ﷽" }), strings.ReplaceAll(lines, `"r0"`, `"ключ🙂"`)},
		"short lists": {with(func(d *Data) {
			d.Clocks = []Clock{{"n1", []time.Duration{1, 2, 3}, nil}}
			d.Results[1].Ops = []int{-1, 5000}
		}), lines},
		"one long line": {full, lines + `{"index":30,"time":5200000000,"process":4,"type":"invoke","f":"read","value":"` + strings.Repeat("x", 3<<20) + "\"}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			page := makeRun(t, c.d, c.lines)
			harmless(t, page, name)
			for _, bad := range []string{"NaN", "+Inf", "%!", "ZgotmplZ", "<no value>"} {
				if strings.Contains(strings.Replace(page, script, "", 1), bad) {
					t.Errorf("the page has %s: %s", bad, around(page, strings.Index(page, bad)))
				}
			}
		})
	}
}

func TestWriteFileErrors(t *testing.T) {
	dir := t.TempDir()
	if err := WriteFile(dir); err == nil {
		t.Error("a report of nothing")
	}
	write(t, filepath.Join(dir, "run.json"), "{")
	if err := WriteFile(dir); err == nil || !strings.Contains(err.Error(), "run.json") {
		t.Errorf("a broken run.json: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".report*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestScan compares the quick reader of lines with the one of lab/history.
func TestScan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h history.History
	names := []string{"", "n1", `a"b`, `back\slash`, "ключ", "tab\t", `","node":"x`, "}"}
	values := []any{nil, int64(3), "text", []any{"r", int64(1)}, map[string]any{"node": "n9"}, map[string]any{"a": map[string]any{"node": `x"`}}, true, 1.5}
	busy := map[int]*history.Op{}
	for i := range 3000 {
		p := rnd.IntN(9) - 1
		op := history.Op{Index: 2 * i, Time: time.Duration(i) * time.Millisecond, Process: p, F: names[1+rnd.IntN(7)], Key: names[rnd.IntN(8)], Node: names[rnd.IntN(8)], Value: values[rnd.IntN(8)], Type: history.Invoke}
		if p == history.Nemesis {
			op.Type = history.Info
		} else if begun := busy[p]; begun != nil {
			op.Type = []history.Type{history.OK, history.Fail, history.Info}[rnd.IntN(3)]
			op.F, op.Key, op.Error = begun.F, begun.Key, names[rnd.IntN(8)]
			busy[p] = nil
		} else {
			busy[p] = &op
		}
		h = append(h, op)
	}
	want, err := h.Calls()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := history.Write(&b, h); err != nil {
		t.Fatal(err)
	}
	src := bytes.NewReader(b.Bytes())
	got, err := scan(src, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.notes) > 0 {
		t.Errorf("notes: %v", got.notes)
	}
	at := map[int]*call{}
	for i := range got.all {
		at[got.all[i].invoke] = &got.all[i]
	}
	seen := 0
	for i := range want {
		w := &want[i]
		if w.Invoke.Process == history.Nemesis {
			continue
		}
		seen++
		g := at[w.Invoke.Index]
		if g == nil {
			t.Fatalf("call %d is missing", w.Invoke.Index)
		}
		how := map[history.Type]outcome{history.OK: isOK, history.Fail: isFail, history.Info: isUnknown}[w.Complete.Type]
		if g.from != w.Invoke.Time || int(g.process) != w.Invoke.Process || g.how != how || g.complete != w.Complete.Index ||
			g.complete >= 0 && g.to != w.Complete.Time || got.name(g.f) != clean(w.Invoke.F) || got.name(g.key) != clean(w.Invoke.Key) ||
			w.Invoke.Node != "" && got.name(g.node) != clean(w.Invoke.Node) {
			t.Fatalf("call %d is %+v (%q %q %q), want %+v", w.Invoke.Index, g, got.name(g.f), got.name(g.key), got.name(g.node), w)
		}
		if f := got.look(g, 100); f.Error != clean(w.Complete.Error) {
			t.Fatalf("call %d: error %q, want %q", w.Invoke.Index, f.Error, w.Complete.Error)
		}
	}
	if len(got.all) != seen {
		t.Errorf("%d calls, want %d", len(got.all), seen)
	}
}

// many writes a history of n calls.
func many(w io.Writer, n int) {
	rnd := rand.New(rand.NewPCG(3, 4))
	type open struct {
		until time.Duration
		how   string
		text  string
	}
	var busy [32]open
	process := [32]int{}
	next := len(busy)
	for p := range process {
		process[p] = p
	}
	at, index := time.Second, 0
	line := func(at time.Duration, p int, kind, text string) {
		_, _ = fmt.Fprintf(w, `{"index":%d,"time":%d,"process":%d,"type":"%s",%s}`+"\n", index, at, p, kind, text)
		index++
	}
	for i := range n {
		p := i % len(busy)
		if b := &busy[p]; b.how != "" {
			at = max(at, b.until)
			line(at, process[p], b.how, b.text)
			if b.how == "info" && rnd.IntN(50) == 0 {
				process[p], next = next, next+1
			}
		}
		at += time.Duration(rnd.IntN(60_000))
		text := fmt.Sprintf(`"f":"%s","key":"r%d","value":%d,"node":"n%d"`, []string{"read", "write"}[i%2], i%5, i, p%3+1)
		line(at, process[p], "invoke", text)
		how := "ok"
		if k := rnd.IntN(100); k < 4 {
			how = "fail"
		} else if k == 4 {
			how = "info"
		}
		busy[p] = open{at + time.Duration(math.Exp(rnd.NormFloat64()+13)), how, text}
	}
	for p, b := range busy {
		if b.how != "" {
			at = max(at, b.until)
			line(at, process[p], b.how, b.text)
		}
	}
}

// TestLarge keeps a page of many calls small.
func TestLarge(t *testing.T) {
	var b bytes.Buffer
	many(&b, 60_000)
	d, _ := fixture(t)
	d.Duration, d.Phases = 0, nil
	begin := time.Now()
	page := makeRun(t, d, b.String())
	t.Logf("%d bytes in %s", len(page), time.Since(begin))
	if len(page) > 2_000_000 {
		t.Errorf("a page of %d bytes", len(page))
	}
	if !strings.Contains(page, "are too many to draw one by one") || !strings.Contains(textOf(t, page), "of 60\u202f000 calls are drawn") {
		t.Error("the page does not say what was sampled")
	}
}

// TestMany has very many of everything.
func TestMany(t *testing.T) {
	d, _ := fixture(t)
	d.Duration = time.Hour
	for i := range 3000 {
		f := d.Faults[i%3]
		f.ID, f.From, f.To = i+10, time.Duration(i)*time.Second, time.Duration(i+1)*time.Second
		d.Faults = append(d.Faults, f)
		d.Findings = append(d.Findings, Finding{f.From, "n1", "it ended"})
	}
	for i := range 12 {
		k := Clock{Host: fmt.Sprint("h", i)}
		for j := range 7200 {
			k.At, k.Offset = append(k.At, time.Duration(j)*time.Second/2), append(k.Offset, time.Duration(j%7)*time.Second)
		}
		d.Clocks = append(d.Clocks, k)
	}
	var lines strings.Builder
	for i := range 8000 { // each key once, and each process is open for ever
		fmt.Fprintf(&lines, `{"index":%d,"time":%d,"process":%d,"type":"invoke","f":"read","key":"a rather long name of key number %d","value":null}`+"\n", i, i*1000, i, i)
	}
	begin := time.Now()
	page := makeRun(t, d, lines.String())
	t.Logf("%d bytes in %s", len(page), time.Since(begin))
	if len(page) > 3_000_000 {
		t.Errorf("a page of %d bytes", len(page))
	}
}

func BenchmarkMillion(b *testing.B) {
	dir := b.TempDir()
	var lines bytes.Buffer
	many(&lines, 1_000_000)
	writeRun(b, dir, &Data{State: "done", Verdict: check.Valid}, lines.String())
	for b.Loop() {
		if err := WriteFile(dir); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "report.html"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size()), "bytes")
}
