package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// matrix is the link counters, from each to each.
type matrix struct {
	Names []string
	Rows  []matrixRow
	Sums  []matrixCell // of the columns
	All   matrixCell
}

type matrixRow struct {
	Name  string
	Cells []matrixCell
	Sum   matrixCell
}

type matrixCell struct {
	None   bool
	Level  int // 0 to 4: the share of frames that did not arrive
	Tip    string
	Frames string
	Bytes  string
	Causes []string
	Late   string
}

func newMatrix(links []Link, hosts []Host) *matrix {
	if len(links) == 0 {
		return nil
	}
	by := map[[2]string]*Link{}
	names := map[string]bool{}
	for i := range links {
		l := &links[i]
		by[[2]string{l.From, l.To}] = l
		names[l.From], names[l.To] = true, true
	}
	rank := func(name string) int { // nodes, clients, the lab
		i := slices.IndexFunc(hosts, func(h Host) bool { return h.Name == name })
		switch {
		case i < 0:
			return 2
		case hosts[i].Role == "client":
			return 1
		}
		return 0
	}
	m := &matrix{Names: slices.SortedFunc(maps.Keys(names), func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), byName(a, b)) })}
	var all Link
	sums := make([]Link, len(m.Names))
	for _, from := range m.Names {
		row := matrixRow{Name: from}
		sum := Link{From: from, To: "all"}
		for i, to := range m.Names {
			l := by[[2]string{from, to}]
			row.Cells = append(row.Cells, newCell(l))
			if l != nil {
				sum.add(l)
				sums[i].add(l)
				all.add(l)
			}
		}
		row.Sum = newCell(&sum)
		m.Rows = append(m.Rows, row)
	}
	for i := range sums {
		sums[i].From, sums[i].To = "all", m.Names[i]
		m.Sums = append(m.Sums, newCell(&sums[i]))
	}
	all.From, all.To = "all", "all"
	m.All = newCell(&all)
	return m
}

func (l *Link) add(o *Link) {
	l.Rx += o.Rx
	l.Tx += o.Tx
	l.TxBytes += o.TxBytes
	l.Cut += o.Cut
	l.Lost += o.Lost
	l.Queue += o.Queue
	l.TooLong += o.TooLong
	l.Duplicated += o.Duplicated
	l.Corrupted += o.Corrupted
	l.Reordered += o.Reordered
	l.Delayed += o.Delayed
	l.Overrun += o.Overrun
	l.LateP50, l.LateP99 = max(l.LateP50, o.LateP50), max(l.LateP99, o.LateP99)
}

func newCell(l *Link) matrixCell {
	if l == nil {
		return matrixCell{None: true}
	}
	c := matrixCell{Tip: l.words(), Frames: number(l.Tx), Bytes: size(l.TxBytes)}
	for _, cause := range []struct {
		n    int64
		name string
	}{
		{l.Cut, "cut"},
		{l.Lost, "lost"},
		{l.Queue, "queue"},
		{l.TooLong, "too long"},
		{l.Duplicated, "twice"},
		{l.Corrupted, "corrupt"},
		{l.Reordered, "reordered"},
		{l.Delayed, "delayed"},
		{l.Overrun, "lab late"},
	} {
		if cause.n > 0 {
			c.Causes = append(c.Causes, number(cause.n)+" "+cause.name)
		}
	}
	if dropped := l.Cut + l.Lost + l.Queue + l.TooLong; dropped > 0 {
		share := float64(dropped) / float64(max(l.Rx, dropped, 1))
		c.Level = 1 + min(int(share*6), 3)
	}
	if l.Delayed > 0 || l.LateP99 > 0 {
		c.Late = "±" + span(l.LateP50) + " / " + span(l.LateP99)
	}
	return c
}

// coverage is which faults met which hosts in which phase.
type coverage struct {
	Hosts []string
	Rows  []coverageRow
}

type coverageRow struct {
	Kind, What, Phase string
	First             bool // of its kind
	Cells             []coverageCell
	Count, Nothing    int
}

type coverageCell struct {
	Worked, Nothing int
	IDs             string
}

func newCoverage(d *Data) *coverage {
	if len(d.Faults) == 0 {
		return nil
	}
	c := &coverage{}
	place := map[string]int{}
	for _, h := range d.Hosts {
		if h.Role == "node" || h.Role == "" {
			c.Hosts = append(c.Hosts, h.Name)
		}
	}
	for i := range d.Faults {
		for _, h := range d.Faults[i].Hosts {
			if !slices.Contains(c.Hosts, h) {
				c.Hosts = append(c.Hosts, h)
			}
		}
	}
	slices.SortStableFunc(c.Hosts, byName)
	for i, h := range c.Hosts {
		place[h] = i
	}
	order := map[string]int{}
	for i, p := range d.Phases {
		if _, known := order[p.Name]; !known {
			order[p.Name] = i
		}
	}
	rows := map[[3]string]*coverageRow{}
	for i := range d.Faults {
		f := &d.Faults[i]
		what := ""
		if words := strings.Fields(f.Resolved); len(words) > 1 {
			what = words[1]
		}
		key := [3]string{f.Kind, what, f.Phase}
		row := rows[key]
		if row == nil {
			row = &coverageRow{Kind: f.Kind, What: what, Phase: f.Phase, Cells: make([]coverageCell, len(c.Hosts))}
			rows[key] = row
		}
		row.Count++
		if f.Touched == 0 {
			row.Nothing++
		}
		for _, h := range f.Hosts {
			cell := &row.Cells[place[h]]
			if f.Touched == 0 {
				cell.Nothing++
			} else {
				cell.Worked++
			}
			cell.IDs = strings.TrimPrefix(fmt.Sprintf("%s, %d", cell.IDs, f.ID), ", ")
		}
	}
	for _, row := range rows {
		c.Rows = append(c.Rows, *row)
	}
	slices.SortFunc(c.Rows, func(a, b coverageRow) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What), cmp.Compare(order[a.Phase], order[b.Phase]), cmp.Compare(a.Phase, b.Phase))
	})
	for i := range c.Rows {
		c.Rows[i].First = i == 0 || c.Rows[i].Kind != c.Rows[i-1].Kind || c.Rows[i].What != c.Rows[i-1].What
	}
	return c
}

// stats is a checker's figures as the page shows them: plain ones, and tables of
// maps whose values are alike.
type stats struct {
	Plain  []pair
	Tables []statsTable
}

type pair struct{ Name, Value string }

type statsTable struct {
	Name    string
	Columns []string
	Rows    []statsRow
}

type statsRow struct {
	Name  string
	Cells []string
}

func newStats(m map[string]any) *stats {
	s := &stats{}
	s.add("", m, 0)
	return s
}

func words(name string) string { return strings.ReplaceAll(name, "_", " ") }

func (s *stats) add(prefix string, m map[string]any, depth int) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		label := strings.TrimSpace(prefix + " " + words(name))
		inner, isMap := m[name].(map[string]any)
		switch {
		case !isMap:
			s.Plain = append(s.Plain, pair{label, figure(name, m[name])})
		case len(inner) == 0:
		case allMaps(inner):
			s.table(label, inner, depth)
		case len(inner) <= 6 && allPlain(inner) && depth == 0 && shortNames(inner):
			s.table("", map[string]any{label: inner}, depth)
		default:
			t := statsTable{Name: label, Columns: []string{""}}
			for _, k := range byCount(inner) {
				t.Rows = append(t.Rows, statsRow{words(k), []string{figure(k, inner[k])}})
			}
			s.Tables = append(s.Tables, t)
		}
	}
}

// table has a row for each map; what is a map in it becomes a table of its own.
func (s *stats) table(name string, m map[string]any, depth int) {
	t := statsTable{Name: name}
	columns := map[string]bool{}
	for _, v := range m {
		inner, _ := v.(map[string]any)
		for k, cell := range inner {
			if _, isMap := cell.(map[string]any); !isMap {
				columns[k] = true
			}
		}
	}
	keys := slices.Sorted(maps.Keys(columns))
	for _, k := range keys {
		t.Columns = append(t.Columns, words(k))
	}
	names := slices.SortedFunc(maps.Keys(m), byName)
	for _, r := range names {
		inner, _ := m[r].(map[string]any)
		row := statsRow{Name: words(r)}
		for _, k := range keys {
			row.Cells = append(row.Cells, figure(k, inner[k]))
		}
		t.Rows = append(t.Rows, row)
	}
	if len(keys) > 0 {
		s.Tables = append(s.Tables, t)
	}
	if depth > 3 {
		return
	}
	for _, r := range names {
		inner, _ := m[r].(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(inner)) {
			if deeper, isMap := inner[k].(map[string]any); isMap {
				s.add(words(r), map[string]any{k: deeper}, depth+1)
			}
		}
	}
}

func allMaps(m map[string]any) bool {
	for _, v := range m {
		if _, ok := v.(map[string]any); !ok {
			return false
		}
	}
	return true
}

func allPlain(m map[string]any) bool {
	for _, v := range m {
		if _, ok := v.(map[string]any); ok {
			return false
		}
	}
	return true
}

func shortNames(m map[string]any) bool {
	for k := range m {
		if len(k) > 14 {
			return false
		}
	}
	return true
}

// byCount is the names in a map, those of the greatest figures first.
func byCount(m map[string]any) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		fa, _ := m[a].(float64)
		fb, _ := m[b].(float64)
		return cmp.Or(cmp.Compare(fb, fa), cmp.Compare(a, b))
	})
}

// figure writes a value of a checker's figures.
func figure(name string, v any) string {
	switch v := v.(type) {
	case nil:
		return "–"
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		if strings.HasSuffix(name, "_rate") && v >= 0 && v <= 1 {
			return digits(100*v) + " %"
		}
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return number(int64(v))
		}
		return digits(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return shorten(string(b), 200)
}

// crash is a power failure in the table of disks.
type diskRow struct {
	Disk
	Lost  int64
	Files int
}

func diskRows(disks []Disk) (rows []diskRow, crashes int) {
	for _, d := range disks {
		r := diskRow{Disk: d}
		for _, c := range d.Crashes {
			r.Lost += c.Bytes
			r.Files += c.Files
		}
		crashes += len(d.Crashes)
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b diskRow) int { return byName(a.Host, b.Host) })
	return rows, crashes
}

// took is how long something was.
func took(from, to time.Duration) string { return span(max(to-from, 0)) }
