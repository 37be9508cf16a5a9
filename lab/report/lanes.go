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

// lane is a client over time: a process, and those that went on for it after a
// call of unknown outcome.
type lane struct {
	node      string
	processes []int32
	until     time.Duration
}

func (l *lane) label() string {
	s := strconv.Itoa(int(l.processes[0]))
	if n := len(l.processes); n > 1 {
		s += fmt.Sprintf("+%d", n-1)
	}
	if l.node != "" {
		return shorten(l.node, 8) + " · " + s
	}
	return "client " + s
}

func (l *lane) tip() string {
	var s strings.Builder
	for i, p := range l.processes {
		if i == 20 {
			fmt.Fprintf(&s, " and %d more", len(l.processes)-i)
			break
		}
		if i > 0 {
			s.WriteString(", ")
		}
		s.WriteString(strconv.Itoa(int(p)))
	}
	if len(l.processes) == 1 {
		return "process " + s.String() + " at " + l.node
	}
	return "processes " + s.String() + " at " + l.node
}

// lanes gives each process a lane; a lane is free again when its process has
// ended. By host, then by number.
func lanes(h *calls) (all []*lane, of map[int32]int) {
	type life struct {
		process  int32
		from, to time.Duration
		node     int32
	}
	lives, at := []life{}, map[int32]int{}
	for i := range h.all {
		c := &h.all[i]
		n, known := at[c.process]
		if !known {
			n = len(lives)
			at[c.process] = n
			lives = append(lives, life{process: c.process, from: c.from, node: c.node})
		}
		lives[n].to = max(lives[n].to, c.to)
		if lives[n].node != c.node {
			lives[n].node = 0 // a client of the whole cluster
		}
	}
	byLane := map[int32]*lane{}
	for _, l := range lives { // by their first call
		node := h.name(l.node)
		var in *lane
		for _, candidate := range all {
			if candidate.node == node && candidate.until <= l.from {
				in = candidate
				break
			}
		}
		switch {
		case in != nil:
		case len(all) >= crowd: // nothing that can be told apart
			in = all[int(l.process)%crowd]
		default:
			in = &lane{node: node}
			all = append(all, in)
		}
		in.processes = append(in.processes, l.process)
		in.until = max(in.until, l.to)
		byLane[l.process] = in
	}
	slices.SortStableFunc(all, func(a, b *lane) int {
		return cmp.Or(byName(a.node, b.node), cmp.Compare(a.processes[0], b.processes[0]))
	})
	place := map[*lane]int{}
	for i, l := range all {
		place[l] = i
	}
	of = map[int32]int{}
	for p, l := range byLane {
		of[p] = place[l]
	}
	return all, of
}

const (
	maxLanes = 48
	crowd    = 1000  // clients at a time, beyond which lanes are shared
	maxBars  = 6000  // beyond that calls are not drawn one by one
	maxCells = 24000 // of the density
)

// laneChart draws the calls of each client. mode says in words how.
func laneChart(t *timeline, h *calls, shown map[*call]int) (picture template.HTML, mode string, rowsOf map[int32]int) {
	all, of := lanes(h)
	rows := min(len(all), maxLanes)
	if rows == 0 {
		c := t.chart("lanes", "Calls of each client over time: there are none", 40)
		c.longLabels = true
		c.plain.text(gutter+plotWidth/2, c.top+24, `class="none" text-anchor="middle"`, "no calls were recorded")
		return c.html(), "", nil
	}
	high := min(max(math.Floor(320/float64(rows)), 11), 24)
	rowOf := func(p int32) int { return of[p] * rows / len(all) }
	c := t.chart("lanes", "Calls of each client over time, by outcome", high*float64(rows))
	c.longLabels = true
	t.laneNames(c, all, rows, high)
	if len(h.all) <= maxBars {
		mode = fmt.Sprintf("Each of the %s calls is a bar.", number(int64(len(h.all))))
		bars(c, h, rowOf, high)
	} else {
		mode = fmt.Sprintf("%s calls are too many to draw one by one: the height of a column says how many ended there, by outcome; calls that took long are lines.", number(int64(len(h.all))))
		density(c, h, rowOf, high, rows)
	}
	if len(all) > rows {
		mode += fmt.Sprintf(" %d clients share %d lanes.", len(all), rows)
	}
	marked(c, shown, rowOf, high)
	c.data = fmt.Sprintf(` data-row="%s"`, num(high))
	for p := range of {
		of[p] = of[p] * rows / len(all)
	}
	return c.html(), mode, of
}

// laneNames labels lanes, and shades those of hosts that a fault was about.
func (t *timeline) laneNames(c *chart, all []*lane, rows int, high float64) {
	perRow := make([][]*lane, rows)
	for i, l := range all {
		r := i * rows / len(all)
		perRow[r] = append(perRow[r], l)
	}
	nodeOf := make([]string, rows)
	for r, ls := range perRow {
		label, tips := ls[0].label(), ls[0].tip()
		nodeOf[r] = ls[0].node
		for _, l := range ls[1:] {
			tips += "; " + l.tip()
		}
		if len(ls) > 1 {
			label += " …"
		}
		y := c.top + high*float64(r)
		if r > 0 {
			class := "lane"
			if nodeOf[r] != nodeOf[r-1] {
				class = "separator"
			}
			c.plain.line(gutter-70, y, gutter+plotWidth, y, fmt.Sprintf(`class="%s"`, class))
		}
		class := "name"
		if high < 14 {
			class = "name small"
		}
		c.plain.f(`<text x="%s" y="%s" class="%s" text-anchor="end">%s<title>%s</title></text>`, num(gutter-8), num(y+high/2+3.5), class, esc(shorten(label, 13)), esc(tips))
	}
	for i := range t.bands {
		b := &t.bands[i]
		for r := range rows {
			if slices.Contains(b.Hosts, nodeOf[r]) {
				c.zoom.rect(b.x, high*float64(r), b.width, high, fmt.Sprintf(`class="shade k-%s"`, kindOf(b.Kind)), "")
			}
		}
	}
}

// bars draws each call. Outcomes differ by shape too: a whole bar, a low one, a
// hollow one.
func bars(c *chart, h *calls, rowOf func(int32) int, high float64) {
	var paths [outcomes]strings.Builder
	for i := range h.all {
		call := &h.all[i]
		x := c.x(call.from)
		w := max(c.x(call.to)-x, 0.8)
		top, tall := high*float64(rowOf(call.process))+high*0.2, high*0.6
		if call.how == isFail {
			top, tall = top+tall*0.55, tall*0.45
		}
		fmt.Fprintf(&paths[call.how], "M%s %sh%sv%sh-%sz", num(x), num(top), num(w), num(tall), num(w))
	}
	for how := range outcomes {
		c.zoom.f(`<path class="call o-%s" d="%s"/>`, how, paths[how].String())
	}
}

// density counts the calls that ended in each column of each lane.
func density(c *chart, h *calls, rowOf func(int32) int, high float64, rows int) {
	columns := min(int(plotWidth/2), maxCells/rows)
	wide := plotWidth / float64(columns)
	cells := make([][outcomes]int32, rows*columns)
	var most int32
	var long [outcomes]strings.Builder
	for i := range h.all {
		call := &h.all[i]
		x0, x1 := c.x(call.from), c.x(call.to)
		row := rowOf(call.process)
		if x1-x0 > 2*wide && long[call.how].Len() < 100_000 {
			fmt.Fprintf(&long[call.how], "M%s %sH%s", num(x0), num(high*float64(row)+high*0.5), num(x1))
		}
		cell := &cells[row*columns+min(int(x1/wide), columns-1)]
		cell[call.how]++
		most = max(most, cell[isOK]+cell[isFail]+cell[isUnknown])
	}
	const steps = 8
	unit := high * 0.84 / steps
	var paths [outcomes]strings.Builder
	for row := range rows {
		floor := high*float64(row) + high*0.92
		var level, base [outcomes]int
		var since [outcomes]int
		flush := func(how outcome, column int) {
			if level[how] > 0 {
				w, tall := wide*float64(column-since[how]), unit*float64(level[how])
				fmt.Fprintf(&paths[how], "M%s %sh%sv-%sh-%sz", num(wide*float64(since[how])), num(floor-unit*float64(base[how])), num(w), num(tall), num(w))
			}
		}
		for column := range columns {
			cell := cells[row*columns+column]
			under := 0
			for how := range outcomes {
				l := 0
				if cell[how] > 0 {
					l = max(int(math.Round(steps*math.Sqrt(float64(cell[how])/float64(most)))), 1)
				}
				l = min(l, steps-under)
				if l != level[how] || under != base[how] {
					flush(how, column)
					level[how], base[how], since[how] = l, under, column
				}
				under += l
			}
		}
		for how := range outcomes {
			flush(how, columns)
		}
	}
	for how := range outcomes {
		c.zoom.f(`<path class="call o-%s" d="%s"/><path class="long o-%s" d="%s"/>`, how, paths[how].String(), how, long[how].String())
	}
}

// marked points at the calls of the witness.
func marked(c *chart, shown map[*call]int, rowOf func(int32) int, high float64) {
	order := make([]*call, 0, len(shown))
	for call := range shown {
		order = append(order, call)
	}
	slices.SortFunc(order, func(a, b *call) int { return shown[a] - shown[b] })
	taken := map[int]float64{}
	for _, call := range order {
		row := rowOf(call.process)
		x, y := c.x(call.from), high*float64(row)
		w := max(c.x(call.to)-x, 3)
		c.zoom.rect(x, y+1, w, high-2, `class="witness"`, fmt.Sprintf("%d of the witness", shown[call]))
		if last, ok := taken[row]; !ok || x-last > 15 {
			taken[row] = x
			c.label(call.from, c.top+y+high/2+3.5, "witnesslabel", "end", -4, strconv.Itoa(shown[call]))
		}
	}
}

// maxWitness is how many calls of a witness are drawn.
const maxWitness = 40

// witnessChart draws the calls of a witness, one a row, on an axis of their own.
// toScale says whether distances are times.
func witnessChart(h *calls, id string, picked []*call, numbers map[*call]int) (picture template.HTML, toScale bool) {
	const (
		rowHigh = 21.0
		left    = 356.0
		right   = 20.0
		wide    = chartWidth - left - right
	)
	var moments []time.Duration
	for _, c := range picked {
		moments = append(moments, c.from, c.to)
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	place := warp(picked, moments, wide-170) // room for the figures of the last
	toScale = place.linear
	var s svg
	total := rowHigh*float64(len(picked)) + 8
	s.f(`<svg class="chart witnesschart" id="%s" viewBox="0 0 %s %s" role="img" aria-label="The calls of the witness">`, id, num(chartWidth), num(total))
	for i, c := range picked {
		y := 4 + rowHigh*float64(i)
		if i%2 == 1 {
			s.rect(0, y, chartWidth, rowHigh, `class="stripe"`, "")
		}
		what := h.look(c, 40)
		s.text(24, y+14, `class="rownumber" text-anchor="end"`, strconv.Itoa(numbers[c]))
		s.text(34, y+14, `class="rowname"`, shorten(sentence(h, c, what), 29))
		s.text(left-14, y+14, `class="rowclient" text-anchor="end"`, shorten(fmt.Sprintf("process %d · %s", c.process, h.name(c.node)), 22))
		x0, x1 := left+place.x(c.from), left+place.x(c.to)
		for _, x := range []float64{x0, x1} {
			s.line(x, y+rowHigh-4, x, total-2, `class="drop"`)
		}
		s.f(`<g><title>%s</title>`, esc(fmt.Sprintf("%s, process %d at %s, from %s to %s: %s %s", sentence(h, c, what), c.process, h.name(c.node), exact(c.from), exact(c.to), c.how, what.Error)))
		s.rect(x0, y+4, max(x1-x0, 2), rowHigh-8, fmt.Sprintf(`rx="2" class="call o-%s"`, c.how), "")
		s.WriteString(`</g>`)
		s.f(`<text x="%s" y="%s" class="rowtime"><tspan class="how o-%s">%s</tspan> %s, at %s</text>`, num(x1+7), num(y+14), c.how, c.how, esc(span(c.latency())), esc(exact(c.from)))
	}
	s.WriteString(`</svg>`)
	return s.html(), toScale
}

func exact(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) + " s" }

func sentence(h *calls, c *call, what full) string {
	s := h.name(c.f)
	if k := h.name(c.key); k != "" {
		s += " " + k
	}
	if what.Value != "" {
		s += " = " + what.Value
	}
	return s
}

// warped is an axis on which moments have a place, not necessarily by distance.
type warped struct {
	moments []time.Duration
	at      []float64
	linear  bool
}

// warp finds an axis on which each call is wide enough to be seen: to scale if
// that does it, else with long gaps shortened.
func warp(picked []*call, moments []time.Duration, width float64) warped {
	w := warped{moments: moments, at: make([]float64, len(moments)), linear: true}
	if len(moments) < 2 {
		return w
	}
	all := float64(moments[len(moments)-1] - moments[0])
	for _, c := range picked {
		w.linear = w.linear && width*float64(c.latency())/all >= 5
	}
	for i := 1; i < len(moments) && w.linear; i++ {
		w.at[i] = width * float64(moments[i]-moments[0]) / all
	}
	if w.linear {
		return w
	}
	sum := 0.0
	for i := 1; i < len(moments); i++ {
		sum += math.Sqrt(float64(moments[i] - moments[i-1]))
	}
	base := min(16, 0.6*width/float64(len(moments)-1))
	rest := width - base*float64(len(moments)-1)
	for i := 1; i < len(moments); i++ {
		w.at[i] = w.at[i-1] + base + rest*math.Sqrt(float64(moments[i]-moments[i-1]))/sum
	}
	return w
}

func (w *warped) x(t time.Duration) float64 {
	i, _ := slices.BinarySearch(w.moments, t)
	return w.at[min(i, len(w.at)-1)]
}
