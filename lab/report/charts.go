package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Points of the chart of latencies where there are too many calls to draw all.
const (
	maxPoints   = 4000
	pointColumn = 400 // columns that are sampled each for itself
)

// sample picks the calls that are drawn one by one: all, or of each moment
// and outcome the fastest and the slowest and some others, evenly.
func sample(h *calls, end time.Duration) []*call {
	all := make([]*call, 0, min(len(h.all), maxBars))
	if len(h.all) <= maxBars {
		for i := range h.all {
			if h.all[i].ended() {
				all = append(all, &h.all[i])
			}
		}
		return all
	}
	var cells [pointColumn][outcomes][]int32
	for i := range h.all {
		c := &h.all[i]
		if !c.ended() {
			continue
		}
		x := min(int(float64(pointColumn)*float64(c.to)/float64(end)), pointColumn-1)
		cells[x][c.how] = append(cells[x][c.how], int32(i)) //nolint:gosec // as many as there are lines
	}
	most := maxPoints / pointColumn
	for x := range cells {
		used := 0
		for how := outcomes; how > 0; how-- { // what went wrong first
			cell := cells[x][how-1]
			room := max(most-used, 2)
			if how > 1 {
				room = max(most/3, 2)
			}
			if len(cell) > room {
				cell = thin(h, cell, room)
			}
			used += len(cell)
			for _, i := range cell {
				all = append(all, &h.all[i])
			}
		}
	}
	return all
}

func thin(h *calls, cell []int32, room int) []int32 {
	slowest, fastest := cell[0], cell[0]
	for _, i := range cell {
		if h.all[i].latency() > h.all[slowest].latency() {
			slowest = i
		}
		if h.all[i].latency() < h.all[fastest].latency() {
			fastest = i
		}
	}
	out := []int32{fastest, slowest}
	for n := 2; n < room; n++ {
		out = append(out, cell[(n-2)*len(cell)/(room-2)])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func latencyScale(h *calls, height float64) logarithmic {
	low, high := time.Duration(math.MaxInt64), time.Duration(0)
	for i := range h.all {
		l := h.all[i].latency()
		if !h.all[i].ended() {
			continue
		}
		low, high = min(low, max(l, 1)), max(high, l)
	}
	if low > high {
		low, high = time.Millisecond, time.Second
	}
	return newLogarithmic(low, high, height)
}

// marks are the shapes of outcomes: a dot, a cross, a diamond.
var marks = [outcomes]string{"h0", "m-2.5-2.5l5 5m0-5l-5 5", "m-3.4 0l3.4-3.4 3.4 3.4-3.4 3.4z"}

func latencyChart(t *timeline, drawn []*call, scale logarithmic) template.HTML {
	c := t.chart("latency", "Latency of each call over time, by outcome, on a logarithmic scale", scale.height)
	c.logGrid(scale)
	var paths [outcomes]strings.Builder
	for _, call := range drawn {
		p := &paths[call.how]
		p.WriteByte('M')
		p.WriteString(num(c.x(call.to)))
		p.WriteByte(' ')
		p.WriteString(num(scale.y(call.latency())))
		p.WriteString(marks[call.how])
	}
	for how := range outcomes {
		c.zoom.f(`<path class="point o-%s" data-o="%d" d="%s"/>`, how, how, paths[how].String())
	}
	c.data = fmt.Sprintf(` data-low="%s" data-high="%s"`, num(scale.low), num(scale.high))
	return c.html()
}

// window is a piece of the run, counted.
type window struct {
	ended [outcomes]int64
	ok    []time.Duration // latencies
}

func windows(h *calls, end, width time.Duration) []window {
	n := int(end/width) + 1
	ws := make([]window, n)
	for i := range h.all {
		c := &h.all[i]
		if !c.ended() {
			continue
		}
		w := &ws[min(max(int(c.to/width), 0), n-1)]
		w.ended[c.how]++
		if c.how == isOK {
			w.ok = append(w.ok, c.latency())
		}
	}
	return ws
}

var quantiles = []struct {
	name, class string
	q           float64
}{{"p50", "q50", 0.5}, {"p95", "q95", 0.95}, {"p99", "q99", 0.99}, {"max", "qmax", 1}}

func quantileChart(t *timeline, h *calls, scale logarithmic) (template.HTML, time.Duration) {
	width := max(timeStep(t.end, 75), 10*time.Millisecond)
	ws := windows(h, t.end, width)
	c := t.chart("quantiles", "Quantiles of the latency of successful calls over time, on a logarithmic scale", scale.height)
	c.logGrid(scale)
	for _, q := range quantiles {
		var d strings.Builder
		gap := true
		var dots strings.Builder
		for i := range ws {
			w := &ws[i]
			if len(w.ok) == 0 {
				gap = true
				continue
			}
			if q.q == quantiles[0].q {
				slices.Sort(w.ok)
			}
			v := w.ok[max(int(math.Ceil(q.q*float64(len(w.ok))))-1, 0)]
			from, to := time.Duration(i)*width, min(time.Duration(i+1)*width, t.end)
			x, y := num(c.x(from+(to-from)/2)), num(scale.y(v))
			if gap {
				d.WriteString("M")
				fmt.Fprintf(&dots, "M%s %sh0", x, y)
			} else {
				d.WriteString("L")
			}
			fmt.Fprintf(&d, "%s %s", x, y)
			gap = false
		}
		c.zoom.f(`<path class="line %s" d="%s"/><path class="dot %s" d="%s"/>`, q.class, d.String(), q.class, dots.String())
	}
	return c.html(), width
}

func throughputChart(t *timeline, h *calls) (template.HTML, time.Duration) {
	const height = 150
	width := max(timeStep(t.end, 150), 10*time.Millisecond)
	ws := windows(h, t.end, width)
	most := 0.0
	rate := func(i int, n int64) float64 { // the last window may be shorter
		d := min(width, t.end-time.Duration(i)*width)
		return float64(n) / max(d, width/4).Seconds()
	}
	for i, w := range ws {
		most = max(most, rate(i, w.ended[isOK]+w.ended[isFail]+w.ended[isUnknown]))
	}
	scale := newLinear(most, height)
	c := t.chart("throughput", "Calls that ended per second over time, stacked by outcome", height)
	for v := 0.0; v <= scale.top*1.0001; v += scale.step {
		label := digits(v)
		if v >= 100 {
			label = number(int64(v))
		}
		if v+scale.step > scale.top*1.0001 {
			label += "/s"
		}
		c.grid(scale.y(v), label)
	}
	var paths [outcomes]strings.Builder
	for i, w := range ws {
		x := c.x(time.Duration(i) * width)
		wide := c.x(min(time.Duration(i+1)*width, t.end)) - x
		base := 0.0
		for how := range outcomes {
			r := rate(i, w.ended[how])
			if r == 0 || wide <= 0 {
				continue
			}
			y0, y1 := scale.y(base), scale.y(base+r)
			fmt.Fprintf(&paths[how], "M%s %sh%sv%sh-%sz", num(x), num(y0), num(max(wide-0.6, 0.6)), num(y1-y0), num(max(wide-0.6, 0.6)))
			base += r
		}
	}
	for how := range outcomes {
		c.zoom.f(`<path class="area o-%s" d="%s"/>`, how, paths[how].String())
	}
	return c.html(), width
}

// clockChart has a row for each host, all on one scale: linear around 0,
// logarithmic beyond a millisecond, so that a jump of an hour and a drift of
// milliseconds are both to be seen.
func clockChart(t *timeline, clocks []Clock) template.HTML {
	clocks = slices.SortedFunc(slices.Values(clocks), func(a, b Clock) int { return byName(a.Host, b.Host) })
	const row = 46.0
	var most time.Duration
	for _, k := range clocks {
		for _, o := range k.Offset {
			most = max(most, abs(o))
		}
	}
	c := t.chart("clocks", "How far each host's clock was off", row*float64(len(clocks)))
	bend := func(d time.Duration) float64 {
		v := math.Log10(1 + math.Abs(float64(d))/1e6)
		if d < 0 {
			return -v
		}
		return v
	}
	full := max(bend(max(most, 2*time.Millisecond)), 1e-9)
	for i, k := range clocks {
		mid := row*float64(i) + row/2
		y := func(d time.Duration) float64 { return mid - (row/2-9)*bend(d)/full }
		c.plain.line(gutter, c.top+mid, gutter+plotWidth, c.top+mid, `class="grid"`)
		if i > 0 {
			c.plain.line(8, c.top+row*float64(i), gutter+plotWidth, c.top+row*float64(i), `class="separator"`)
		}
		c.plain.text(8, c.top+mid+4, `class="name"`, shorten(k.Host, 8))
		n := min(len(k.At), len(k.Offset))
		if n == 0 {
			continue
		}
		var d strings.Builder
		every := n/max(6000/len(clocks), 200) + 1
		low, high := k.Offset[0], k.Offset[0]
		for j := range n {
			low, high = min(low, k.Offset[j]), max(high, k.Offset[j])
			if j%every != 0 && j != n-1 {
				continue
			}
			x := num(c.x(k.At[j]))
			if d.Len() == 0 {
				fmt.Fprintf(&d, "M%s %s", x, num(y(k.Offset[j])))
			} else {
				fmt.Fprintf(&d, "H%sV%s", x, num(y(k.Offset[j])))
			}
		}
		c.zoom.f(`<path class="line clock" d="%s"/>`, d.String())
		if ahead, behind := shortSigned(high), shortSigned(low); ahead == behind {
			c.plain.text(gutter-8, c.top+mid+4, `class="tick" text-anchor="end"`, ahead)
		} else {
			c.plain.text(gutter-8, c.top+mid-8, `class="tick" text-anchor="end"`, ahead)
			c.plain.text(gutter-8, c.top+mid+16, `class="tick" text-anchor="end"`, behind)
		}
	}
	return c.html()
}

// shortSigned leaves out what is a clock's noise.
func shortSigned(d time.Duration) string {
	if abs(d) < 100*time.Microsecond {
		return "±0"
	}
	return signed(d)
}

// byName orders n2 before n10.
func byName(a, b string) int {
	prefix := func(s string) (string, int) {
		head := strings.TrimRight(s, "0123456789")
		n, err := strconv.Atoi(s[len(head):])
		if err != nil {
			n = -1
		}
		return head, n
	}
	ha, na := prefix(a)
	hb, nb := prefix(b)
	return cmp.Or(cmp.Compare(ha, hb), cmp.Compare(na, nb), cmp.Compare(a, b))
}
