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

// svg writes a picture. Strings of a run come in through its methods only, which
// escape them; everything else is ours.
type svg struct{ strings.Builder }

func (s *svg) f(format string, args ...any) { fmt.Fprintf(&s.Builder, format, args...) }

func esc(s string) string { return template.HTMLEscapeString(s) }

// num writes a coordinate.
func num(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "0"
	}
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
}

func (s *svg) rect(x, y, w, h float64, attrs, tip string) {
	s.f(`<rect x="%s" y="%s" width="%s" height="%s" %s`, num(x), num(y), num(max(w, 0)), num(max(h, 0)), attrs)
	s.tip("rect", tip)
}

func (s *svg) tip(element, tip string) {
	if tip == "" {
		s.WriteString("/>")
		return
	}
	s.f("><title>%s</title></%s>", esc(tip), element)
}

func (s *svg) line(x1, y1, x2, y2 float64, attrs string) {
	s.f(`<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`, num(x1), num(y1), num(x2), num(y2), attrs)
}

func (s *svg) text(x, y float64, attrs, text string) {
	s.f(`<text x="%s" y="%s" %s>%s</text>`, num(x), num(y), attrs, esc(text))
}

func (s *svg) html() template.HTML { return template.HTML(s.String()) } //nolint:gosec // text and tip escape what comes from outside

// The measures of all charts over time, in units of the picture: one is a
// pixel where the window is wide.
const (
	chartWidth  = 1160.0
	gutter      = 84.0
	margin      = 14.0
	plotWidth   = chartWidth - gutter - margin
	bandHeight  = 16.0
	ribbon      = 15.0
	axisHeight  = 20.0
	letterWidth = 5.7 // of the small letters, on average
)

// timeline is the axis that all charts share, with what was broken when.
type timeline struct {
	end    time.Duration
	phases []Phase
	found  []Finding
	bands  []band
	rows   int
}

// band is a fault as charts show it: a bar in one of the rows above the plot.
type band struct {
	*Fault
	row      int
	from, to time.Duration
	x, width float64
	room     float64 // until the next bar of the row
}

const (
	maxRows     = 8
	maxFindings = 50  // that charts show; the list has more
	maxBands    = 200 // that are drawn one by one
)

func newTimeline(d *Data, h *calls) *timeline {
	t := &timeline{end: max(d.Duration, h.end, time.Millisecond), phases: d.Phases, found: d.Findings}
	for i := range d.Phases {
		t.end = max(t.end, d.Phases[i].To)
	}
	for i := range d.Faults {
		f := &d.Faults[i]
		b := band{Fault: f, from: max(f.From, 0), to: f.To}
		if b.to < b.from || b.to == 0 {
			b.to = b.from
			if !f.Recovered && f.Error == "" {
				b.to = t.end
			}
		}
		t.end = max(t.end, b.to)
		t.bands = append(t.bands, b)
	}
	slices.SortStableFunc(t.bands, func(a, b band) int { return cmp.Compare(a.from, b.from) })
	var free [maxRows]float64
	last := [maxRows]int{}
	for i := range t.bands {
		b := &t.bands[i]
		b.x = t.x(b.from)
		b.width = max(t.x(b.to)-b.x, 3)
		label := 12 + letterWidth*float64(len(short(b.Fault)))
		if b.x+label > plotWidth { // the label does not fit behind it
			label = b.width
		}
		for b.row = 0; b.row < maxRows-1 && free[b.row] > b.x; b.row++ {
		}
		if n := last[b.row]; n > 0 {
			t.bands[n-1].room = b.x - t.bands[n-1].x
		}
		last[b.row] = i + 1
		b.room = plotWidth - b.x
		free[b.row] = max(free[b.row], b.x+max(b.width, label)+2)
		t.rows = max(t.rows, b.row+1)
	}
	return t
}

func short(f *Fault) string { return strconv.Itoa(f.ID) + " " + f.Kind }

// x is where on the plot a moment is.
func (t *timeline) x(at time.Duration) float64 {
	return plotWidth * float64(min(max(at, 0), t.end)) / float64(t.end)
}

// kinds of faults that have a colour and a pattern.
var kinds = []string{"net", "proc", "host", "clock", "disk", "dns", "act"}

func kindOf(kind string) string {
	if slices.Contains(kinds, kind) {
		return kind
	}
	return "act"
}

// chart is one plot over time while it is drawn: plain goes below and beside
// the plot, zoom is what moves when the reader zooms.
type chart struct {
	*timeline
	id, title  string
	height     float64 // of the plot
	top        float64
	plain      svg
	zoom       svg
	over       svg  // text over the plot: data-t moves it
	longLabels bool // the whole text of faults
	data       string
}

func (t *timeline) chart(id, title string, height float64) *chart {
	return &chart{timeline: t, id: id, title: title, height: height, top: float64(t.rows)*bandHeight + 4}
}

// y0 is the top of the plot in the picture; inside the plot 0 is at the top.
func (c *chart) bottom() float64 { return c.top + c.height }

// grid draws a line across the plot with a label on the left.
func (c *chart) grid(y float64, label string) {
	c.plain.line(gutter, c.top+y, gutter+plotWidth, c.top+y, `class="grid"`)
	if label != "" {
		c.plain.text(gutter-8, c.top+y+3.5, `class="tick" text-anchor="end"`, label)
	}
}

// label is text at a moment; it stays readable when the plot is zoomed.
func (c *chart) label(at time.Duration, y float64, class, anchor string, dx float64, text string) {
	c.over.f(`<text x="%s" y="%s" class="%s" text-anchor="%s" data-t="%s" data-dx="%s">%s</text>`,
		num(gutter+c.x(at)+dx), num(y), class, anchor, seconds(at), num(dx), esc(text))
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// html puts the chart together.
func (c *chart) html() template.HTML {
	bottom := c.bottom()
	total := bottom + ribbon + axisHeight
	var s svg
	s.f(`<svg class="chart" id="%s" viewBox="0 0 %s %s" role="img" aria-label="%s" data-end="%s" data-top="%s" data-bottom="%s"%s>`,
		c.id, num(chartWidth), num(total), esc(c.title), seconds(c.end), num(c.top), num(bottom), c.data)
	s.rect(gutter, c.top, plotWidth, c.height, `class="plot"`, "")
	s.WriteString(c.plain.String())
	s.f(`<svg class="zoom" x="%s" y="0" width="%s" height="%s" viewBox="0 0 %s %s" preserveAspectRatio="none">`,
		num(gutter), num(plotWidth), num(bottom+ribbon), num(plotWidth), num(bottom+ribbon))
	c.faults(&s)
	s.f(`<g transform="translate(0 %s)">`, num(c.top))
	s.WriteString(c.zoom.String())
	s.WriteString("</g>")
	for i := range c.found {
		if f := &c.found[i]; i < maxFindings {
			x := c.x(f.At)
			s.f(`<line x1="%s" x2="%s" y1="%s" y2="%s" class="finding"><title>%s</title></line>`, num(x), num(x), num(c.top), num(bottom), esc(strings.TrimSpace(instant(f.At)+" "+f.Host+" "+f.Text)))
		}
	}
	for i, p := range c.phases {
		x, w := c.x(p.From), c.x(p.To)-c.x(p.From)
		s.rect(x, bottom+2, max(w, 0.8), ribbon-3, fmt.Sprintf(`class="phase phase%d"`, i%2), p.Name+": "+instant(p.From)+" to "+instant(p.To))
		if i > 0 {
			s.line(x, c.top, x, bottom+ribbon-1, `class="phaseline"`)
		}
	}
	s.WriteString("</svg>")
	for i := range c.bands {
		b := &c.bands[i]
		y := float64(b.row)*bandHeight + 9
		text := short(b.Fault)
		if whole := fmt.Sprintf("%d %s", b.ID, b.Resolved); c.longLabels && letterWidth*float64(len(whole))+8 < min(b.room, max(b.width, 400)) {
			text = whole
		}
		if letterWidth*float64(len(text))+4 <= max(b.room, b.width) {
			s.f(`<text x="%s" y="%s" class="bandtext" data-t="%s" data-dx="0" data-to="%s">%s</text>`,
				num(gutter+b.x), num(y), seconds(b.from), seconds(b.to), esc(text))
		}
	}
	for _, p := range c.phases {
		if w := c.x(p.To) - c.x(p.From); w > letterWidth*float64(len(p.Name))+8 {
			s.f(`<text x="%s" y="%s" class="phasename" data-t="%s" data-dx="4" data-to="%s">%s</text>`,
				num(gutter+c.x(p.From)+4), num(bottom+ribbon-4), seconds(p.From), seconds(p.To), esc(p.Name))
		}
	}
	if c.longLabels {
		for i, f := range c.found[:min(len(c.found), maxFindings)] {
			if i == 0 || c.x(f.At)-c.x(c.found[i-1].At) > letterWidth*6 {
				c.label(f.At, bottom-3, "findinglabel", "start", 3, strings.TrimSpace("! "+shorten(f.Host, 8)))
			}
		}
	}
	s.WriteString(c.over.String())
	s.WriteString(`<g class="ticks">`)
	step := timeStep(c.end, 12)
	for at, n := time.Duration(0), 0; at <= c.end && n < 40; at, n = at+step, n+1 {
		s.text(gutter+c.x(at), total-5, `class="tick" text-anchor="middle"`, tickTime(at, step))
	}
	s.WriteString(`</g></svg>`)
	return s.html()
}

// faults draws the bands: one by one, with what they were, or all of a kind
// as one where there are very many.
func (c *chart) faults(s *svg) {
	if len(c.bands) > maxBands {
		for _, kind := range kinds {
			var shades, bars strings.Builder
			for i := range c.bands {
				b := &c.bands[i]
				if kindOf(b.Kind) != kind {
					continue
				}
				fmt.Fprintf(&shades, "M%s %sh%sv%sh-%sz", num(b.x), num(c.top), num(b.width), num(c.height), num(b.width))
				fmt.Fprintf(&bars, "M%s %sh%sv5h-%sz", num(b.x), num(float64(b.row)*bandHeight+11), num(b.width), num(b.width))
			}
			s.f(`<g class="k-%s"><path class="shade" d="%s"/><path class="bar" fill="url(#p-%s)" d="%s"/></g>`, kind, shades.String(), kind, bars.String())
		}
		return
	}
	for i := range c.bands {
		b := &c.bands[i]
		kind := kindOf(b.Kind)
		nothing := ""
		if b.Touched == 0 {
			nothing = " nothing"
		}
		s.f(`<g class="fault k-%s%s" data-fault="%d"><title>%s</title>`, kind, nothing, b.ID, esc(b.words()))
		s.rect(b.x, c.top, b.width, c.height, `class="shade"`, "")
		s.rect(b.x, float64(b.row)*bandHeight+11, b.width, 5, fmt.Sprintf(`class="bar" fill="url(#p-%s)"`, kind), "")
		s.WriteString("</g>")
	}
}

func (f *Fault) words() string {
	text := fmt.Sprintf("%d %s, %s to %s", f.ID, f.Resolved, instant(f.From), instant(f.To))
	if f.Effect != "" {
		text += ": " + f.Effect
	}
	if f.Error != "" {
		text += "; " + f.Error
	}
	return text
}

// timeStep is the least round duration of which n or fewer make the whole.
func timeStep(end time.Duration, n int64) time.Duration {
	want := int64(end) / n
	for unit := int64(1); unit < int64(time.Second); unit *= 10 {
		for _, m := range []int64{1, 2, 5} {
			if m*unit >= want {
				return time.Duration(m * unit)
			}
		}
	}
	const day = int64(24 * time.Hour)
	for _, s := range []int64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400} {
		if d := s * int64(time.Second); d >= want {
			return time.Duration(d)
		}
	}
	return time.Duration((want/day + 1) * day)
}

func tickTime(at, step time.Duration) string {
	if at == 0 {
		return "0 s"
	}
	if at >= 120*time.Second {
		return clockTime(at)
	}
	decimals := 0
	for u := time.Second; u > step && decimals < 9; u /= 10 {
		decimals++
	}
	return strconv.FormatFloat(at.Seconds(), 'f', decimals, 64) + " s"
}

// linear is a scale of figures from 0 up.
type linear struct{ top, step, height float64 }

func newLinear(most, height float64) linear {
	if most <= 0 || math.IsNaN(most) || math.IsInf(most, 0) {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if m*step*4.5 >= most {
			step *= m
			break
		}
	}
	return linear{top: math.Ceil(most/step) * step, step: step, height: height}
}

func (l linear) y(v float64) float64 { return l.height * (1 - v/l.top) }

// logarithmic is a scale of durations by decades.
type logarithmic struct{ low, high, height float64 }

func newLogarithmic(low, high time.Duration, height float64) logarithmic {
	l := math.Floor(math.Log10(math.Max(float64(low), 1e3)))
	h := math.Ceil(math.Log10(math.Max(float64(high), 1e3)))
	if h <= l {
		h = l + 1
	}
	return logarithmic{low: l, high: h, height: height}
}

func (l logarithmic) y(d time.Duration) float64 {
	v := (math.Log10(math.Max(float64(d), 1)) - l.low) / (l.high - l.low)
	return l.height * (1 - min(max(v, 0), 1))
}

func (c *chart) logGrid(l logarithmic) {
	for e := l.low; e <= l.high; e++ {
		c.grid(l.y(time.Duration(math.Min(math.Pow(10, e), math.MaxInt64/2))), span(time.Duration(math.Min(math.Pow(10, e), math.MaxInt64/2))))
		if e < l.high && l.high-l.low <= 5 {
			for m := 2.0; m < 10; m++ {
				y := l.y(time.Duration(m * math.Pow(10, e)))
				c.plain.line(gutter-3, c.top+y, gutter, c.top+y, `class="minor"`)
			}
		}
	}
}
