package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// cut is a fault that parted hosts, as the page shows it.
type cut struct {
	*Fault
	Groups [][]string
	Rest   string // direction, manner, links: what is not a group
}

// cuts are the partitions among the faults.
func cuts(d *Data) []cut {
	hosts := map[string]bool{}
	for _, h := range d.Hosts {
		hosts[h.Name] = true
	}
	var out []cut
	for i := range d.Faults {
		f := &d.Faults[i]
		words := strings.Fields(f.Resolved)
		if len(words) < 3 || words[0] != "net" || words[1] != "cut" {
			continue
		}
		c := cut{Fault: f}
		rest := words[2:]
		if strings.Contains(words[2], "|") {
			for g := range strings.SplitSeq(words[2], "|") {
				c.Groups = append(c.Groups, strings.Split(g, ","))
			}
			rest = words[3:]
		}
		if i := slices.Index(rest, "for"); i >= 0 {
			rest = rest[:i]
		}
		c.Rest = strings.Join(rest, " ")
		out = append(out, c)
	}
	return out
}

const (
	boxWidth  = 148.0
	boxHeight = 58.0
)

type spot struct {
	x, y float64
	Host
}

// topology draws hosts and the links between them that lost frames.
func topology(d *Data) template.HTML {
	var nodes, others []Host
	named := map[string]bool{}
	for _, h := range d.Hosts {
		named[h.Name] = true
		if h.Role == "node" || h.Role == "" {
			nodes = append(nodes, h)
		} else {
			others = append(others, h)
		}
	}
	for _, l := range d.Links { // the lab has no namespace of its own
		for _, name := range []string{l.From, l.To} {
			if !named[name] {
				named[name] = true
				others = append(others, Host{Name: name, Role: "lab"})
			}
		}
	}
	if len(nodes)+len(others) == 0 {
		return ""
	}
	slices.SortStableFunc(nodes, func(a, b Host) int { return byName(a.Name, b.Name) })
	const width = 640.0
	at := map[string]spot{}
	rx, ry := 225.0, 40.0+26*float64(min(len(nodes), 9))
	if len(nodes) <= 2 {
		ry = 0
	}
	middle := ry + boxHeight/2 + 14
	low := middle
	for i, h := range nodes {
		a := 2*math.Pi*float64(i)/float64(len(nodes)) - math.Pi/2
		if len(nodes) == 2 {
			a += math.Pi / 2 * 3
		}
		x, y := width/2+rx*math.Cos(a), middle+ry*math.Sin(a)
		if len(nodes) == 1 {
			x = width / 2
		}
		at[h.Name] = spot{x, y, h}
		low = max(low, y)
	}
	perRow := 4
	y := low + boxHeight + 62
	for i, h := range others {
		inRow := min(perRow, len(others)-i/perRow*perRow)
		x := width * (float64(i%perRow) + 0.5) / float64(inRow)
		at[h.Name] = spot{x, y + float64(i/perRow)*(boxHeight+18), h}
	}
	total := low + boxHeight/2 + 14
	if n := len(others); n > 0 {
		total = y + float64((n-1)/perRow)*(boxHeight+18) + boxHeight/2 + 10
	}
	var s svg
	s.f(`<svg class="topology" viewBox="0 0 %s %s" role="img" aria-label="Hosts, and links that lost frames">`, num(width), num(total))
	drawLinks(&s, d, at)
	for _, h := range slices.Concat(nodes, others) {
		drawHost(&s, at[h.Name])
	}
	s.WriteString("</svg>")
	return s.html()
}

func drawLinks(s *svg, d *Data, at map[string]spot) {
	type pair struct{ a, b string }
	drawn := map[pair]bool{}
	var labels svg
	for _, l := range d.Links {
		from, to := at[l.From], at[l.To]
		if l.From == l.To {
			continue
		}
		if key := (pair{min(l.From, l.To), max(l.From, l.To)}); !drawn[key] {
			drawn[key] = true
			s.line(from.x, from.y, to.x, to.y, `class="wire"`)
		}
		lost := l.Cut + l.Lost + l.Queue + l.TooLong
		if lost == 0 {
			continue
		}
		// Each direction bends to its right, so that both are seen.
		dx, dy := to.x-from.x, to.y-from.y
		length := math.Hypot(dx, dy)
		if length == 0 {
			continue
		}
		cx, cy := (from.x+to.x)/2-dy/length*26, (from.y+to.y)/2+dx/length*26
		sx, sy := edge(from, cx, cy)
		ex, ey := edge(to, cx, cy)
		class := "lossy"
		if l.Cut > 0 {
			class = "severed"
		}
		// The figure stands near where the frames come from: arrows cross in the middle.
		s.f(`<path class="%s" marker-end="url(#arrow-%s)" d="M%s %sQ%s %s %s %s"><title>%s</title></path>`,
			class, class, num(sx), num(sy), num(cx), num(cy), num(ex), num(ey), esc(l.words()))
		labels.text(0.46*sx+0.44*cx+0.1*ex, 0.46*sy+0.44*cy+0.1*ey+4, `class="lostlabel" text-anchor="middle"`, number(lost))
	}
	s.WriteString(labels.String())
}

// edge is where the way from the middle of a box to a point leaves the box.
func edge(b spot, x, y float64) (ex, ey float64) {
	dx, dy := x-b.x, y-b.y
	k := math.Inf(1)
	if dx != 0 {
		k = min(k, (boxWidth/2+4)/math.Abs(dx))
	}
	if dy != 0 {
		k = min(k, (boxHeight/2+4)/math.Abs(dy))
	}
	k = min(k, 1)
	return b.x + dx*k, b.y + dy*k
}

func drawHost(s *svg, h spot) {
	x, y := h.x-boxWidth/2, h.y-boxHeight/2
	role := h.Role
	if role != "client" && role != "lab" {
		role = "node"
	}
	s.f(`<g class="host host-%s"><title>%s</title>`, role, esc(strings.Join(h.Processes, "\n")))
	s.rect(x, y, boxWidth, boxHeight, `rx="6"`, "")
	s.text(x+11, y+20, `class="hostname"`, shorten(h.Name, 12))
	s.text(x+boxWidth-11, y+20, `class="hostrole" text-anchor="end"`, role)
	second := h.Addr
	if second == "" && role == "lab" {
		second = "clients, DNS"
	}
	s.text(x+11, y+36, `class="hostaddr"`, shorten(second, 22))
	var programs []string
	for _, p := range h.Processes {
		words := strings.Fields(p)
		if len(words) == 0 {
			continue
		}
		programs = append(programs, words[0][strings.LastIndexByte(words[0], '/')+1:])
	}
	third := strings.Join(slices.Compact(programs), ", ")
	if h.Starts > 1 {
		third = strings.TrimPrefix(third+fmt.Sprintf(" · %d starts", h.Starts), " · ")
	}
	s.text(x+11, y+50, `class="hostaddr"`, shorten(third, 25))
	s.WriteString("</g>")
}

func (l *Link) words() string {
	var parts []string
	add := func(n int64, what string) {
		if n > 0 {
			parts = append(parts, number(n)+" "+what)
		}
	}
	add(l.Cut, "cut off")
	add(l.Lost, "lost")
	add(l.Queue, "dropped by a full queue")
	add(l.TooLong, "too long")
	add(l.Duplicated, "duplicated")
	add(l.Corrupted, "corrupted")
	add(l.Reordered, "reordered")
	add(l.Delayed, "delayed")
	add(l.Overrun, "late by the lab itself")
	s := fmt.Sprintf("%s to %s: %s frames in, %s out", l.From, l.To, number(l.Rx), number(l.Tx))
	if len(parts) > 0 {
		s += "; " + strings.Join(parts, ", ")
	}
	return s
}
