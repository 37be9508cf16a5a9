package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/internal/cli"
)

func TestCodeOf(t *testing.T) {
	fail := func(c holdfast.Code, o holdfast.Outcome) error {
		return fmt.Errorf("outer: %w", &holdfast.Error{Op: "put", Code: c, Outcome: o})
	}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, cli.ExitOK},
		{fail(holdfast.CodeBusy, holdfast.NotApplied), cli.ExitNo},
		{fail(holdfast.CodeConflict, holdfast.NotApplied), cli.ExitNo},
		{fail(holdfast.CodeNotFound, holdfast.NotApplied), cli.ExitNo},
		{fail(holdfast.CodeFenced, holdfast.NotApplied), cli.ExitNo},
		{fail(holdfast.CodeDenied, holdfast.NotApplied), cli.ExitNo},
		{fail(holdfast.CodeInvalid, holdfast.NotApplied), cli.ExitUsage},
		{fail(holdfast.CodeNoQuorum, holdfast.NotApplied), cli.ExitNoQuorum},
		{fail(holdfast.CodeNoQuorum, holdfast.Unknown), cli.ExitUnknown},
		{fail(holdfast.CodeDeadline, holdfast.Unknown), cli.ExitUnknown},
		{fail(holdfast.CodeCanceled, holdfast.Unknown), cli.ExitInterrupted},
		{fail(holdfast.CodeInternal, holdfast.Unknown), cli.ExitInternal},
		{context.DeadlineExceeded, cli.ExitNoQuorum},
		{errors.New("whatever"), cli.ExitInternal},
		{cli.Usage("wrong"), cli.ExitUsage},
		{fmt.Errorf("open x: %w", fs.ErrNotExist), cli.ExitUsage},
		{fmt.Errorf("open x: %w", fs.ErrPermission), cli.ExitUsage},
		{cli.Silent(7), 7},
		{cli.WithHint(cli.WithCode(errors.New("x"), 99), "try"), 99},
	} {
		if got := cli.CodeOf(c.err); got != c.want {
			t.Errorf("%v: code %d, want %d", c.err, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{cli.Silent(3), ""},
		{cli.WithHint(errors.New("one\ntwo"), "do %s", "that"), "holdfast: one\nholdfast: two\nhint: do that\n"},
		{
			&holdfast.Error{Op: "dial", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: errors.New("x509: certificate signed by unknown authority")},
			"holdfast: dial: no quorum: x509: certificate signed by unknown authority\nhint: name the authority of the nodes' certificates with --ca or HOLDFAST_CA\n",
		},
		{
			&holdfast.Error{Key: "kv a", Op: "put", Code: holdfast.CodeNoQuorum, Outcome: holdfast.Unknown},
			"holdfast: kv a: put: no quorum\nhint: the change may have happened: read before you repeat it\n",
		},
	} {
		var b bytes.Buffer
		cli.Report(&b, c.err)
		if b.String() != c.want {
			t.Errorf("got %q, want %q", b.String(), c.want)
		}
	}
}

func TestEnv_LastSettingCounts(t *testing.T) {
	env := cli.Env{Environ: []string{"A=1", "B=2", "A=3"}, Dir: "/there"}
	if got := env.Getenv("A"); got != "3" {
		t.Errorf("A is %q", got)
	}
	if _, set := env.Lookup("C"); set {
		t.Error("C is not set")
	}
	if got := env.Path("x"); got != "/there/x" {
		t.Errorf("path %q", got)
	}
}

type item struct {
	Name string      `json:"name"`
	Took cli.Seconds `json:"took"`
}

func TestList(t *testing.T) {
	items := []item{{"a", cli.Seconds(1500 * time.Millisecond)}, {"long name", 0}}
	for format, want := range map[cli.Format]string{
		cli.FormatText:  "NAME       TOOK\na          1.5s\nlong name  0s\n",
		cli.FormatJSONL: "{\"name\":\"a\",\"took\":1.5}\n{\"name\":\"long name\",\"took\":0}\n",
		cli.FormatJSON:  "{\n  \"items\": [\n    {\n      \"name\": \"a\",\n      \"took\": 1.5\n    },\n    {\n      \"name\": \"long name\",\n      \"took\": 0\n    }\n  ]\n}\n",
	} {
		var b bytes.Buffer
		p := cli.NewPrinter(cli.Env{Stdout: &b}, format)
		err := cli.List(p, "items", items, "NAME TOOK", func(i item) []any { return []any{i.Name, i.Took} })
		if err != nil || b.String() != want {
			t.Errorf("%s: %q, %v; want %q", format, b.String(), err, want)
		}
	}
}

// full is a pipe that nobody reads any more.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestPrinter_ReportsFailedWrites(t *testing.T) {
	for _, format := range []cli.Format{cli.FormatText, cli.FormatJSON, cli.FormatJSONL} {
		p := cli.NewPrinter(cli.Env{Stdout: full{}}, format)
		if err := p.Object(item{Name: "a"}, func(t *cli.Text) { t.Printf("a") }); err == nil || !strings.Contains(err.Error(), "no space") {
			t.Errorf("%s: %v", format, err)
		}
	}
}
