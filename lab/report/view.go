package report

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/check"
)

//go:embed assets
var assets embed.FS

func asset(name string) string {
	b, err := assets.ReadFile("assets/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// styles and scripts stand in the page as they are, and their digests in its
// policy: nothing else runs, wherever the page is opened.
var (
	styles     = asset("report.css")
	script     = asset("report.js")
	listScript = asset("list.js")
	policy     = fmt.Sprintf("default-src 'none'; base-uri 'none'; form-action 'self'; connect-src 'self'; img-src data:; style-src %s; script-src %s %s",
		digest(styles), digest(script), digest(listScript))
)

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// generation changes when anything that makes a page does.
var generation = func() string {
	sum := sha256.New()
	entries, err := assets.ReadDir("assets")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, e := range entries {
		sum.Write([]byte(asset(e.Name())))
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:6])
}()

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"number": number, "instant": instant, "span": span, "size": size, "took": took, "percent": percent,
	"kind": kindOf, "stats": newStats, "join": strings.Join, "signed": signed,
	"style":    func() template.CSS { return template.CSS(styles) },   //nolint:gosec // ours
	"js":       func() template.JS { return template.JS(script) },     //nolint:gosec // ours
	"listjs":   func() template.JS { return template.JS(listScript) }, //nolint:gosec // ours
	"policy":   func() string { return policy },
	"when":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"add":      func(a, b int) int { return a + b },
	"glyph":    glyph,
	"number64": func(n int) string { return number(int64(n)) },
}).ParseFS(assets, "assets/*.tmpl"))

// glyph is the mark that says a verdict without colour.
func glyph(v check.Verdict) string {
	switch v {
	case check.Valid:
		return "✓"
	case check.Invalid:
		return "✗"
	case check.Unknown:
		return "?"
	}
	return "?"
}

// view is what the page shows.
type view struct {
	*Data
	Live      bool // it goes on
	Surprise  bool // not the verdict that the scenario expects
	Total     int64
	Untouched int
	Nodes     int
	Notes     []string

	Witnesses []witness
	Topology  template.HTML
	Cuts      []cut

	Lanes, Latency, Quantiles, Throughput, Clocked template.HTML
	LaneMode                                       string
	Drawn, Of                                      int
	QuantileWindow, ThroughputWindow               time.Duration

	Matrix   *matrix
	DiskRows []diskRow
	Crashes  int
	Coverage *coverage
	Charts   chartData
	Kinds    []string
	LogHosts []logHost
	Files    []string // beside the report, to be downloaded
}

type witness struct {
	check.Result
	Picture template.HTML
	ToScale bool
	Shown   int
	Calls   int
	First   []string // of the facts
	Rest    []string
}

// maxListed is how many findings the page lists.
const maxListed = 200

// firstFacts are shown at once: they say what is wrong, the others that it is
// so elsewhere too.
const firstFacts = 4

type logHost struct {
	Host string
	Logs []Log
}

// chartData is what the script needs: the points that are drawn, as columns.
type chartData struct {
	End    float64     `json:"end"`
	Phases []chartSpan `json:"phases"`
	Faults []chartSpan `json:"faults"`
	Names  []string    `json:"names"`
	Rows   [][2]int    `json:"rows"`   // process, row in the chart of clients
	Focus  []float64   `json:"focus"`  // from when to when the witness is
	Points [][]any     `json:"points"` // from, to in µs; outcome; process; function, key, node by number; value; error
}

type chartSpan struct {
	From float64 `json:"from"`
	To   float64 `json:"to"`
	Text string  `json:"text"`
}

// newView computes everything that the page shows.
func newView(d *Data, h *calls) *view {
	cleanAll(reflect.ValueOf(d))
	notes := h.notes
	if n := len(d.Findings); n > maxListed {
		notes = append(notes, fmt.Sprintf("%d findings more are in run.json.", n-maxListed))
		d.Findings = d.Findings[:maxListed]
	}
	v := &view{
		Data: d, Live: d.State == "running", Total: d.Ops.OK + d.Ops.Fail + d.Ops.Unknown, Notes: notes,
		Surprise: d.State == "done" && d.Expect != "" && d.Expect != d.Verdict,
	}
	for i := range d.Faults {
		if d.Faults[i].Touched == 0 {
			v.Untouched++
		}
		if k := kindOf(d.Faults[i].Kind); !slices.Contains(v.Kinds, k) {
			v.Kinds = append(v.Kinds, k)
		}
	}
	for _, host := range d.Hosts {
		if host.Role == "node" || host.Role == "" {
			v.Nodes++
		}
	}
	t := newTimeline(d, h)
	shown := v.findWitnesses(h)
	var rows map[int32]int
	v.Topology, v.Cuts = topology(d), cuts(d)
	v.Lanes, v.LaneMode, rows = laneChart(t, h, shown)
	drawn := sample(h, t.end)
	v.Drawn = len(drawn)
	for i := range h.all {
		if h.all[i].ended() {
			v.Of++
		}
	}
	if len(h.all) > 0 {
		scale := latencyScale(h, 230)
		v.Latency = latencyChart(t, drawn, scale)
		scale.height = 200
		v.Quantiles, v.QuantileWindow = quantileChart(t, h, scale)
		v.Throughput, v.ThroughputWindow = throughputChart(t, h)
	}
	if len(d.Clocks) > 0 {
		v.Clocked = clockChart(t, d.Clocks)
	}
	v.Matrix, v.Coverage = newMatrix(d.Links, d.Hosts), newCoverage(d)
	v.DiskRows, v.Crashes = diskRows(d.Disks)
	for _, l := range d.Logs {
		if n := len(v.LogHosts); n == 0 || v.LogHosts[n-1].Host != l.Host {
			v.LogHosts = append(v.LogHosts, logHost{Host: l.Host})
		}
		last := &v.LogHosts[len(v.LogHosts)-1]
		last.Logs = append(last.Logs, l)
	}
	v.chartData(t, h, drawn, rows, shown)
	return v
}

// findWitnesses finds the calls that checkers point at, and numbers them.
func (v *view) findWitnesses(h *calls) map[*call]int {
	wanted := map[int]bool{}
	for _, r := range v.Results {
		for _, i := range r.Ops {
			wanted[i] = true
		}
	}
	byIndex := map[int]*call{}
	if len(wanted) > 0 {
		for i := range h.all {
			c := &h.all[i]
			if wanted[c.invoke] {
				byIndex[c.invoke] = c
			}
			if c.complete >= 0 && wanted[c.complete] {
				byIndex[c.complete] = c
			}
		}
	}
	shown := map[*call]int{}
	for n, r := range v.Results {
		if len(r.Witness) == 0 && len(r.Ops) == 0 {
			continue
		}
		w := witness{Result: r, First: r.Witness}
		if len(r.Witness) > firstFacts+1 {
			w.First, w.Rest = r.Witness[:firstFacts], r.Witness[firstFacts:]
		}
		var picked []*call
		for _, i := range r.Ops {
			if c := byIndex[i]; c != nil && !slices.Contains(picked, c) {
				picked = append(picked, c)
			}
		}
		slices.SortStableFunc(picked, func(a, b *call) int { return byTime(*a, *b) })
		w.Calls = len(picked)
		picked = picked[:min(len(picked), maxWitness)]
		w.Shown = len(picked)
		for _, c := range picked {
			if shown[c] == 0 {
				shown[c] = len(shown) + 1
			}
		}
		if len(picked) > 0 {
			w.Picture, w.ToScale = witnessChart(h, fmt.Sprintf("witness%d", n), picked, shown)
		}
		v.Witnesses = append(v.Witnesses, w)
	}
	return shown
}

func (v *view) chartData(t *timeline, h *calls, drawn []*call, rows map[int32]int, shown map[*call]int) {
	v.Charts = chartData{End: t.end.Seconds(), Names: []string{}, Points: [][]any{}}
	for _, p := range t.phases {
		v.Charts.Phases = append(v.Charts.Phases, chartSpan{p.From.Seconds(), p.To.Seconds(), p.Name})
	}
	for i := range t.bands {
		b := &t.bands[i]
		v.Charts.Faults = append(v.Charts.Faults, chartSpan{b.from.Seconds(), b.to.Seconds(), fmt.Sprintf("%d %s", b.ID, b.Resolved)})
	}
	v.Charts.Rows = [][2]int{}
	seen := map[int32]bool{}
	for _, c := range drawn {
		if !seen[c.process] {
			seen[c.process] = true
			v.Charts.Rows = append(v.Charts.Rows, [2]int{int(c.process), rows[c.process]})
		}
	}
	if len(shown) > 0 {
		from, to := t.end, time.Duration(0)
		for c := range shown {
			from, to = min(from, c.from), max(to, c.to)
		}
		room := max((to-from)/10, time.Millisecond)
		v.Charts.Focus = []float64{max(from-room, 0).Seconds(), min(to+room, t.end).Seconds()}
	}
	numbers := map[int32]int{} // of names that are used: keys may be as many as calls
	name := func(n int32) int {
		i, known := numbers[n]
		if !known {
			i = len(v.Charts.Names)
			numbers[n] = i
			v.Charts.Names = append(v.Charts.Names, shorten(h.name(n), 60))
		}
		return i
	}
	for _, c := range drawn {
		f := h.look(c, 24)
		p := []any{c.from.Microseconds(), c.to.Microseconds(), c.how, c.process, name(c.f), name(c.key), name(c.node)}
		if f.Value != "" || f.Error != "" {
			p = append(p, f.Value)
		}
		if f.Error != "" {
			p = append(p, f.Error)
		}
		v.Charts.Points = append(v.Charts.Points, p)
	}
}

// ChartJSON is for a script element of the type application/json.
func (v *view) ChartJSON() (template.JS, error) {
	b, err := json.Marshal(&v.Charts) // escapes <, > and &
	if err != nil {
		return "", err
	}
	b = bytes.ReplaceAll(b, []byte("\u2028"), []byte(`\u2028`))
	return template.JS(b), nil //nolint:gosec // nothing in it ends the element
}

// render writes the page.
func (v *view) render(w io.Writer) error {
	if _, err := io.WriteString(w, marker()); err != nil {
		return err
	}
	return pages.ExecuteTemplate(w, "report.tmpl", v)
}

// marker is how a report of this generation begins.
func marker() string { return "<!doctype html><!-- holdfast lab report " + generation + " -->\n" }

// OKShare and FailShare are where pieces of a bar of 1000 end.
func (v *view) OKShare() int64 { return 1000 * v.Ops.OK / max(v.Total, 1) }

// FailShare is where those that failed end.
func (v *view) FailShare() int64 { return 1000 * (v.Ops.OK + v.Ops.Fail) / max(v.Total, 1) }
