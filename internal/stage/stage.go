// Package stage lets one binary be several programs: a process of the lab that
// has to begin in namespaces of its own, or to be apart from the process that
// started it, is this same executable under another name.
package stage

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// self is what is started; it stays right when the file was replaced.
const self = "/proc/self/exe"

// prefix of the argument zero that chooses a stage.
const prefix = "holdfast-lab:"

var (
	mu     sync.Mutex
	stages = map[string]func(args []string) int{}
)

// Register names a stage. It is called before Main, usually from an init
// function of the package that the stage belongs to.
func Register(name string, run func(args []string) int) {
	mu.Lock()
	defer mu.Unlock()
	if _, twice := stages[name]; twice {
		panic("stage: " + name + " is registered twice")
	}
	stages[name] = run
}

// Run runs the stage that the process was started as, if it was, and returns
// its exit code. Every main function, and TestMain of every package that starts
// stages, calls it first:
//
//	if code, ok := stage.Run(os.Args, os.Stderr); ok {
//		os.Exit(code)
//	}
func Run(args []string, stderr io.Writer) (code int, ok bool) {
	name, ok := "", false
	for i := 0; i < len(args) && i < 2 && !ok; i++ {
		if name, ok = strings.CutPrefix(args[i], prefix); ok {
			args = args[i:]
		}
	}
	if !ok {
		return 0, false
	}
	mu.Lock()
	run := stages[name]
	mu.Unlock()
	if run == nil {
		_, _ = fmt.Fprintf(stderr, "holdfast: no stage %q in this binary\n", name)
		return 70, true
	}
	return run(args[1:]), true
}

// Argv is the command line of the named stage, for those who start it without
// this package's help: the executable is that of the process that executes it.
func Argv(name string, args ...string) []string {
	return append([]string{self, prefix + name}, args...)
}

// Command is this executable as the named stage. The caller sets namespaces,
// files and environment, and starts it; it is killed when ctx ends.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{prefix + name}, args...)
	return cmd
}
