// Package cli is what every command of the holdfast binary shares: the door to
// the process, exit codes, errors with hints, output formats and completion.
//
// # Use
//
//	env := cli.Env{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, …}
//	p := cli.NewPrinter(env, cli.FormatJSON)
//	err := p.Object(lock, func(w io.Writer) { … })
//
// # Promises
//
//   - Only package main touches the process; a command that is given an [Env]
//     runs inside a test as it runs in a shell.
//   - Data goes to Stdout, everything else to Stderr.
//   - [CodeOf] maps every error to one of the documented exit codes.
//
// # What you must do
//
// Ask Env for paths, variables and signals instead of the process.
//
// # When it goes wrong
//
// [Report] writes the error, then one "hint:" line when there is something to
// try.
//
// # Testing
//
// Build an Env from buffers and a list of variables.
package cli

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Env is a command's only door to the process.
type Env struct {
	Program string   // the binary as it was called, so that printed commands work when pasted
	Args    []string // without the program's name
	Environ []string // KEY=value
	Dir     string   // relative paths start here; empty: the process's directory

	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Notify delivers signals to c until stop is called; nil delivers none.
	Notify func(c chan<- os.Signal, signals ...os.Signal) (stop func())
	// Exit ends the process.
	Exit func(code int)
}

// Lookup is the value of an environment variable and whether it is set. The
// last setting counts, as for a child process.
func (e Env) Lookup(key string) (string, bool) {
	for _, kv := range slices.Backward(e.Environ) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			return v, true
		}
	}
	return "", false
}

// Getenv is the value of an environment variable, empty when it is not set.
func (e Env) Getenv(key string) string {
	v, _ := e.Lookup(key)
	return v
}

// Path is p as the process can open it.
func (e Env) Path(p string) string {
	if p == "" || filepath.IsAbs(p) || e.Dir == "" {
		return p
	}
	return filepath.Join(e.Dir, p)
}

// Signals is a channel on which the given signals arrive until stop is called.
func (e Env) Signals(signals ...os.Signal) (c <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 8)
	if e.Notify == nil {
		return ch, func() {}
	}
	return ch, e.Notify(ch, signals...)
}

// Terminal says whether w is a terminal that may be redrawn and coloured:
// a character device, TERM other than "dumb", NO_COLOR not set.
func (e Env) Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || e.Getenv("TERM") == "dumb" || e.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
