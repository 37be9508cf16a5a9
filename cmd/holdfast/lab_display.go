//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"holdfast.dev/internal/cli"
	"holdfast.dev/lab"
)

// labDisplay shows a run while it goes on: on a terminal a block that stays at
// the bottom, elsewhere plain lines.
type labDisplay struct {
	out    *cli.Text
	pinned bool
	quiet  bool

	mu    sync.Mutex
	lines int // of the block on the screen
	last  time.Duration
	begun time.Time
}

func newLabDisplay(w io.Writer, pinned, quiet bool) *labDisplay {
	return &labDisplay{out: cli.NewText(w), pinned: pinned && !quiet, quiet: quiet, begun: time.Now()}
}

// every is how often plain output tells how the run is.
const labEvery = 5 * time.Second

func (d *labDisplay) update(p lab.Progress) {
	if d.quiet {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at := time.Since(d.begun)
	if p.Line != "" {
		d.clear()
		d.out.Printf("%7.1fs  %s\n", at.Seconds(), p.Line)
	}
	switch {
	case d.pinned:
		d.clear()
		block := d.block(p)
		d.out.Printf("%s", block)
		d.lines = strings.Count(block, "\n")
	case p.Line == "" && at-d.last >= labEvery:
		d.last = at
		d.out.Printf("%7.1fs  %s: %s%s\n", at.Seconds(), phaseOf(p), ratesOf(p), faultsOf(p))
	}
}

// clear removes the block from the screen.
func (d *labDisplay) clear() {
	if d.lines > 0 {
		d.out.Printf("\x1b[%dA\x1b[J", d.lines)
		d.lines = 0
	}
}

func (d *labDisplay) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
}

// block is what stays at the bottom.
func (d *labDisplay) block(p lab.Progress) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  \x1b[1m%s\x1b[0m   %s\n", phaseOf(p), ratesOf(p))
	b.WriteString("  ")
	for _, h := range p.Hosts {
		mark, colour := "●", "32"
		switch h.State {
		case "down", "off":
			mark, colour = "✕", "31"
		case "paused":
			mark, colour = "‖", "33"
		}
		name := h.Name
		if h.Primary {
			name += "*"
		}
		fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m %s  ", colour, mark, name)
	}
	b.WriteString("\n")
	for i, f := range p.Faults {
		if i == 4 {
			fmt.Fprintf(&b, "  … and %d more\n", len(p.Faults)-i)
			break
		}
		fmt.Fprintf(&b, "  \x1b[31m⚡\x1b[0m %s\n", short(f, 74)) // a line that wraps would count as one
	}
	return b.String()
}

// short cuts a text to at most n characters.
func short(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

func phaseOf(p lab.Progress) string {
	if p.Length == 0 {
		return fmt.Sprintf("%s %.0fs", p.Phase, p.Elapsed.Seconds())
	}
	return fmt.Sprintf("%s %.0f of %.0fs", p.Phase, p.Elapsed.Seconds(), p.Length.Seconds())
}

func ratesOf(p lab.Progress) string {
	return fmt.Sprintf("%d ok/s  %d fail/s  %d unknown/s  (%d, %d, %d)", p.Rates.OK, p.Rates.Fail, p.Rates.Unknown, p.Ops.OK, p.Ops.Fail, p.Ops.Unknown)
}

func faultsOf(p lab.Progress) string {
	if len(p.Faults) == 0 {
		return ""
	}
	return "; broken: " + strings.Join(p.Faults, "; ")
}
