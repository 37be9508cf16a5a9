package stage

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func init() {
	Register("say", func(args []string) int {
		_, _ = os.Stdout.WriteString(strings.Join(args, " ")) //nolint:forbidigo // the test reads it
		return 7
	})
}

func TestMain(m *testing.M) {
	if code, ok := Run(os.Args, os.Stderr); ok { //nolint:forbidigo // a process's own door
		os.Exit(code) //nolint:forbidigo // as above
	}
	os.Exit(m.Run()) //nolint:forbidigo // as above
}

func TestStages(t *testing.T) {
	argv := Argv("say", "one", "two")
	for name, cmd := range map[string]*exec.Cmd{
		"command": Command(t.Context(), "say", "one", "two"),
		"argv":    exec.CommandContext(t.Context(), argv[0], argv[1:]...),
	} {
		out, err := cmd.Output()
		if string(out) != "one two" || cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	out, err := Command(t.Context(), "nobody").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `no stage "nobody"`) {
		t.Errorf("unknown stage: %q, %v", out, err)
	}
}

func TestRun_NotAStage(t *testing.T) {
	for _, args := range [][]string{nil, {"holdfast"}, {"holdfast", "lab", "holdfast-lab:say"}} {
		if _, ok := Run(args, os.Stderr); ok { //nolint:forbidigo // nothing is written
			t.Errorf("%q ran", args)
		}
	}
}
