package workload

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

func clock() func() time.Duration {
	var now time.Duration
	return func() time.Duration { now += time.Millisecond; return now }
}

func TestResource(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fencing bool
		steps   []string // method, query, token, body → status and the answer's beginning
	}{
		{"without fencing tokens are not looked at", false, []string{
			`GET lock=a - - → 200 {"elements":[]}`,
			`PUT lock=a 5 {"elements":[1,2]} → 204`,
			`PUT lock=a 4 {"elements":[1,3]} → 204`,
			`PUT lock=a - {"elements":[1,3,4]} → 204`,
			`GET lock=a - - → 200 {"elements":[1,3,4]}`,
			`GET lock=b - - → 200 {"elements":[]}`,
		}},
		{"with fencing older ones are refused", true, []string{
			`PUT lock=a 5 {"elements":[1]} → 204`,
			`PUT lock=a 5 {"elements":[1,2]} → 204`,
			`PUT lock=a 4 {"elements":[9]} → 409 fenced: a was seen with token 5, which is newer than 4`,
			`PUT lock=a - {"elements":[9]} → 400 this resource fences`,
			`PUT lock=b 1 {"elements":[9]} → 204`,
			`GET lock=a - - → 200 {"elements":[1,2]}`,
			`GET lock=a 4 - → 409 fenced`,
		}},
		// Holder 7 has read. What holder 5 writes now, 7 will write over: the
		// write must not be acknowledged.
		{"a read of a newer holder counts", true, []string{
			`PUT lock=a 5 {"elements":[1]} → 204`,
			`GET lock=a 7 - → 200 {"elements":[1]}`,
			`PUT lock=a 5 {"elements":[1,2]} → 409`,
			`PUT lock=a 7 {"elements":[1,3]} → 204`,
		}},
		{"what is no request", true, []string{
			`GET - - - → 400 which lock`,
			`GET lock=a x - → 400 token "x"`,
			`GET lock=a 0 - → 400 token "0"`,
			`PUT lock=a 5 {"elements": → 400 elements`,
			`PUT lock=a 5 {"elements":["x"]} → 400 elements`,
			`DELETE lock=a 5 - → 405`,
			`GET lock=a&token=7 - - → 200 {"elements":[]}`,
			`GET lock=a 6 - → 409`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewResource(tc.fencing, clock())
			for _, step := range tc.steps {
				ask, want, _ := strings.Cut(step, " → ")
				part := strings.SplitN(ask, " ", 4)
				for i := range part {
					part[i] = strings.TrimPrefix(part[i], "-")
				}
				req := httptest.NewRequestWithContext(t.Context(), part[0], "/set?"+part[1], strings.NewReader(part[3]))
				if part[2] != "" {
					req.Header.Set(driver.TokenHeader, part[2])
				}
				w := httptest.NewRecorder()
				r.ServeHTTP(w, req)
				body, _ := io.ReadAll(w.Result().Body)
				if got := strings.TrimSpace(fmt.Sprint(w.Code, " ", string(body))); !strings.HasPrefix(got, want) {
					t.Fatalf("%s: got %s", step, got)
				}
			}
		})
	}
}

func TestResourceLog(t *testing.T) {
	r := NewResource(true, clock())
	r.write("a", 5, []int64{1, 2})
	r.read("a", 6)
	r.write("a", 6, []int64{1, 3})
	r.write("a", 5, []int64{1, 2, 4})
	r.read("a", 5)
	want := []Effect{
		{At: time.Millisecond, Lock: "a", Method: "PUT", Token: 5, Newest: 5, Added: []int64{1, 2}},
		{At: 2 * time.Millisecond, Lock: "a", Method: "PUT", Token: 6, Newest: 6, Added: []int64{3}, Lost: []int64{2}},
		{At: 3 * time.Millisecond, Lock: "a", Method: "PUT", Token: 5, Newest: 6, Refused: true},
		{At: 4 * time.Millisecond, Lock: "a", Method: "GET", Token: 5, Newest: 6, Refused: true},
	}
	if got := r.Effects(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := r.Elements("a"); !slices.Equal(got, []int64{1, 3}) {
		t.Errorf("it holds %v", got)
	}
}

// A holder whose process stands still for a while, in a process of its own:
// without fencing its write wipes out what its successor wrote, with fencing it
// is refused.
func TestPausedHolder(t *testing.T) {
	for _, fencing := range []bool{false, true} {
		t.Run(fmt.Sprint("fencing ", fencing), func(t *testing.T) {
			r := NewResource(fencing, clock())
			reads := make(chan struct{}, 10)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r.ServeHTTP(w, req)
				if req.Method == http.MethodGet {
					reads <- struct{}{}
				}
			}))
			defer srv.Close()
			cfg := driver.ResourceConfig{URL: srv.URL, Fencing: fencing, Hold: 300 * time.Millisecond}
			var pid int
			slow := driver.NewLines(func(ctx context.Context) (*driver.Program, error) {
				p, n, err := spawnStage(context.WithoutCancel(ctx), t, driver.ClientSpec{Resource: &cfg})
				pid = n
				return p, err
			}, driver.Hello{}, driver.LinesConfig{Timeout: 100 * time.Millisecond})
			defer func() { _ = slow.Close() }()
			fast := driver.WithResource(&generous{}, driver.ResourceConfig{URL: srv.URL, Fencing: fencing, Hold: time.Millisecond})
			defer func() { _ = fast.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			must := func(got history.Op) {
				t.Helper()
				if got.Type != history.OK {
					t.Fatalf("%s: %s %s", got.F, got.Type, got.Error)
				}
			}

			must(slow.Invoke(ctx, history.Op{F: "acquire", Key: "l0"}))
			done := make(chan history.Op)
			go func() { done <- slow.Invoke(ctx, history.Op{F: "add", Key: "l0", Value: int64(1)}) }()
			<-reads // the slow holder has read, and works
			stop(t, pid)
			must(fast.Invoke(ctx, history.Op{F: "acquire", Key: "l0", Value: "newer"}))
			must(fast.Invoke(ctx, history.Op{F: "add", Key: "l0", Value: int64(2)}))
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			got := <-done
			wantType, wantHeld := history.OK, []int64{1}
			if fencing {
				wantType, wantHeld = history.Fail, []int64{2}
			}
			if got.Type != wantType || !slices.Equal(r.Elements("l0"), wantHeld) {
				t.Errorf("the slow holder's add: %s %q; the resource holds %v, want %s, %v", got.Type, got.Error, r.Elements("l0"), wantType, wantHeld)
			}
		})
	}
}

// stop stops a process, and waits until it stands still.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		still, err := paused(pid)
		if err != nil {
			t.Fatal(err)
		}
		if still {
			return
		}
	}
}

// spawnStage starts this test binary as the stage "client".
func spawnStage(ctx context.Context, t *testing.T, spec driver.ClientSpec) (*driver.Program, int, error) {
	t.Helper()
	cmd := stage.Command(ctx, "client", spec.Arg())
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	cmd.Stdout, cmd.Stderr = theirs, t.Output()
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	_ = theirs.Close()
	return &driver.Program{Stdin: in, Stdout: out, Kill: func() { _ = cmd.Process.Kill() }, Done: waited(cmd)}, cmd.Process.Pid, nil
}

func waited(cmd *exec.Cmd) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	return done
}

// The resource's own log tells who wiped out whose write.
func TestResourceCheck(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fencing bool
		do      func(r *Resource)
		want    check.Verdict
		say     string
	}{
		{"nothing", false, func(r *Resource) { r.read("a", 1) }, check.Unknown, "nothing was written"},
		{"in turn", false, func(r *Resource) { r.write("a", 1, []int64{1}); r.write("a", 2, []int64{1, 2}) }, check.Valid, "2 writes under locks, none lost; 0 accesses"},
		{
			"wiped out", false, func(r *Resource) { r.write("a", 6, []int64{1}); r.write("a", 5, []int64{2}) }, check.Invalid,
			"a: element 1, written at 1ms with token 6, was gone after the write at 2ms with token 5",
		},
		{"other locks", false, func(r *Resource) { r.write("a", 0, []int64{1}); r.write("b", 0, []int64{2}) }, check.Valid, "2 writes"},
		{"refused", true, func(r *Resource) { r.write("a", 6, []int64{1}); r.write("a", 5, []int64{2}) }, check.Valid, "1 writes under locks, none lost; 1 accesses"},
		{"a resource that forgets", true, func(r *Resource) {
			r.write("a", 6, []int64{1})
			r.sets["a"].newest = 0
			r.write("a", 5, []int64{1, 2})
		}, check.Invalid, "a: a write with token 5 was accepted at 2ms, after one with token 6 at 1ms"},
	} {
		r := NewResource(tc.fencing, clock())
		tc.do(r)
		got := r.Check(t.Context(), nil)
		if got.Verdict != tc.want || !strings.Contains(got.Summary+"\n"+strings.Join(got.Witness, "\n"), tc.say) {
			t.Errorf("%s: %s: %s %q", tc.name, got.Verdict, got.Summary, got.Witness)
		}
	}
}
