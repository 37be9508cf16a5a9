package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Format is how data is written.
type Format string

// The formats of -o.
const (
	FormatText  Format = "text"
	FormatJSON  Format = "json"
	FormatJSONL Format = "jsonl"
)

// Printer writes a command's data. JSON is a contract; see docs/cli-json.md.
// It is not safe for concurrent use.
type Printer struct {
	w      io.Writer
	format Format
}

// NewPrinter writes to env's Stdout.
func NewPrinter(env Env, format Format) *Printer { return &Printer{w: env.Stdout, format: format} }

// Text says whether people read the output.
func (p *Printer) Text() bool { return p.format == FormatText }

// Object writes one thing: as text by the function, as JSON indented, as JSONL
// on one line.
func (p *Printer) Object(v any, text func(w io.Writer)) error {
	switch p.format {
	case FormatJSON:
		enc := json.NewEncoder(p.w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case FormatJSONL:
		return p.line(v)
	case FormatText:
	}
	text(p.w)
	return nil
}

// Event writes one of a stream of things; in both JSON formats it is one line.
func (p *Printer) Event(v any, format string, args ...any) error {
	if p.format == FormatText {
		_, err := fmt.Fprintf(p.w, format+"\n", args...)
		return err
	}
	return p.line(v)
}

func (p *Printer) line(v any) error {
	enc := json.NewEncoder(p.w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// List writes several things: as a table, as one JSON object with the list
// under name, or as JSONL.
func List[T any](p *Printer, name string, items []T, header string, row func(T) []any) error {
	switch p.format {
	case FormatJSON:
		if items == nil {
			items = []T{}
		}
		return p.Object(map[string]any{name: items}, nil)
	case FormatJSONL:
		for _, it := range items {
			if err := p.line(it); err != nil {
				return err
			}
		}
		return nil
	case FormatText:
	}
	Table(p.w, header, items, row)
	return nil
}

// Table writes rows under a header whose columns are separated by spaces.
// Nothing is written for no rows.
func Table[T any](w io.Writer, header string, items []T, row func(T) []any) {
	if len(items) == 0 {
		return
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(strings.Fields(header), "\t"))
	for _, it := range items {
		for i, cell := range row(it) {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, cell)
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush() // to a terminal or pipe that is gone; the command ends anyway
}

// Seconds is a duration as the JSON contract has it: a number of seconds.
type Seconds time.Duration

// MarshalJSON writes seconds with millisecond precision.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Round(time.Millisecond).Seconds())
}

// String reads like a stopwatch: "1.5s", "2m0s".
func (s Seconds) String() string {
	d := time.Duration(s)
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}

// Dash is s, or "-" when it is empty: a table cell is never blank.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Age is how long ago t was, for people; "-" when t is not known.
func Age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return Seconds(max(0, now.Sub(t)).Round(time.Second)).String()
}
