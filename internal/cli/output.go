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

// Text is for people to read. It keeps the first error of writing and writes
// nothing after it.
type Text struct {
	w   io.Writer
	err error
}

// NewText writes to w.
func NewText(w io.Writer) *Text { return &Text{w: w} }

// Printf writes as fmt.Printf does.
func (t *Text) Printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

// Write writes bytes as they are.
func (t *Text) Write(b []byte) (n int, err error) {
	if t.err == nil {
		n, t.err = t.w.Write(b)
	}
	return n, t.err
}

// Err is the first error of writing.
func (t *Text) Err() error { return t.err }

// Object writes one thing: as text by the function, as JSON indented, as JSONL
// on one line.
func (p *Printer) Object(v any, text func(t *Text)) error {
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
	t := NewText(p.w)
	text(t)
	return t.err
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
	t := NewText(p.w)
	Table(t, header, items, row)
	return t.err
}

// Table writes rows under a header whose columns are separated by spaces.
// Nothing is written for no rows.
func Table[T any](t *Text, header string, items []T, row func(T) []any) {
	if len(items) == 0 {
		return
	}
	tw := tabwriter.NewWriter(t, 0, 8, 2, ' ', 0)
	out := NewText(tw)
	out.Printf("%s\n", strings.Join(strings.Fields(header), "\t"))
	for _, it := range items {
		cells := row(it)
		for i, cell := range cells {
			end := "\t"
			if i == len(cells)-1 {
				end = "\n"
			}
			out.Printf("%v%s", cell, end)
		}
	}
	_ = tw.Flush() // t keeps the error
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
