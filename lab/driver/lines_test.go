package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/lab/history"
)

// fakeProgram is a program that is a function.
type fakeProgram struct {
	in     *bufio.Scanner
	out    io.Writer
	killed <-chan struct{}
}

// line writes one line of output.
func (p fakeProgram) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

// next is the next request.
func (p fakeProgram) next() (request, bool) {
	if !p.in.Scan() {
		return request{}, false
	}
	var r request
	if err := json.Unmarshal(p.in.Bytes(), &r); err != nil {
		panic(err)
	}
	return r, true
}

// greet answers hello.
func (p fakeProgram) greet() bool {
	r, ok := p.next()
	if ok && r.Hello == nil {
		panic("the first request is not hello")
	}
	p.line(`{"id":%d,"type":"ok"}`, r.ID)
	return ok
}

// fakes spawns one program after the other: the last of them again and again.
type fakes struct {
	spawns   atomic.Int32
	programs []func(fakeProgram)
}

func (f *fakes) spawn(context.Context) (*Program, error) {
	n := int(f.spawns.Add(1)) - 1
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done, killed := make(chan struct{}), make(chan struct{})
	in := bufio.NewScanner(inR)
	in.Buffer(nil, 2*maxLine)
	go func() {
		defer close(done)
		defer func() { _ = outW.Close() }()
		defer func() { _ = inR.Close() }()
		f.programs[min(n, len(f.programs)-1)](fakeProgram{in: in, out: outW, killed: killed})
	}()
	var once sync.Once
	return &Program{
		Stdin: inW, Stdout: outR, Done: done,
		Kill: func() {
			once.Do(func() {
				close(killed)
				_ = inR.Close()
				_ = outW.Close()
			})
		},
	}, nil
}

// echo answers every operation with its own value.
func echo(p fakeProgram) {
	if !p.greet() {
		return
	}
	for {
		r, ok := p.next()
		if !ok {
			return
		}
		v, _ := json.Marshal(r.Op.Value)
		p.line(`{"id":%d,"type":"ok","value":%s}`, r.ID, v)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newLines is a client of programs that are functions.
func newLines(t *testing.T, cfg LinesConfig, programs ...func(fakeProgram)) (*Lines, *fakes) {
	t.Helper()
	f := &fakes{programs: programs}
	l := NewLines(f.spawn, Hello{Workload: "register", Node: "n1", Addr: "10.77.0.11"}, cfg)
	t.Cleanup(func() { _ = l.Close() })
	return l, f
}

func op(f, key string, value any) history.Op {
	return history.Op{Type: history.Invoke, F: f, Key: key, Value: value, Process: 3, Node: "n1"}
}

func TestLinesAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer string // after the id
		op     history.Op
		want   history.Type
		value  any
		err    string
	}{
		{"value", `"type":"ok","value":7`, op("read", "x", nil), history.OK, int64(7), ""},
		{"large", `"type":"ok","value":9007199254740993`, op("read", "x", nil), history.OK, int64(9007199254740993), ""},
		{"list", `"type":"ok","value":[1,"a",null]`, op("read", "x", nil), history.OK, []any{int64(1), "a", nil}, ""},
		{"null", `"type":"ok","value":null`, op("read", "x", nil), history.OK, nil, ""},
		{"null instead of its own", `"type":"ok","value":null`, op("write", "x", int64(5)), history.OK, nil, ""},
		{"its own", `"type":"ok"`, op("write", "x", int64(5)), history.OK, int64(5), ""},
		{"fail", `"type":"fail","error":"no such key"`, op("cas", "x", []any{int64(1), int64(2)}), history.Fail, []any{int64(1), int64(2)}, "no such key"},
		{"info", `"type":"info","error":"timeout"`, op("write", "x", int64(5)), history.Info, int64(5), "timeout"},
		{"more fields", `"type":"ok","value":1,"took":3`, op("read", "x", nil), history.OK, int64(1), ""},
		{"too large", `"type":"ok","value":9223372036854775808`, op("read", "x", nil), history.Info, nil, "its value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, _ := newLines(t, LinesConfig{}, func(p fakeProgram) {
				p.greet()
				r, _ := p.next()
				if r.Op.F != tc.op.F || r.Op.Key != tc.op.Key || r.Op.Process != 3 || r.Op.Node != "n1" || r.TimeoutMS < 1 || r.TimeoutMS > 5000 {
					t.Errorf("the program got %+v, timeout %d", *r.Op, r.TimeoutMS)
				}
				p.line(`{"id":%d,%s}`, r.ID, tc.answer)
				<-p.killed
			})
			got := l.Invoke(within(t, 5*time.Second), tc.op)
			if got.Type != tc.want || fmt.Sprintf("%#v", got.Value) != fmt.Sprintf("%#v", tc.value) || !strings.Contains(got.Error, tc.err) {
				t.Errorf("got %s %#v %q, want %s %#v %q", got.Type, got.Value, got.Error, tc.want, tc.value, tc.err)
			}
			if got.F != tc.op.F || got.Key != tc.op.Key || got.Process != 3 || got.Node != "n1" {
				t.Errorf("the rest of the operation changed: %+v", got)
			}
		})
	}
}

// A program that does not keep to the protocol: what it was asked meanwhile may
// have happened, and the next operation meets a new program.
func TestLinesHostile(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  func(p fakeProgram, r request)
		err  string
	}{
		{"garbage", func(p fakeProgram, _ request) { p.line("Traceback (most recent call last):") }, "malformed"},
		{"empty line", func(p fakeProgram, _ request) { p.line("") }, "malformed"},
		{"no id", func(p fakeProgram, _ request) { p.line(`{"type":"ok"}`) }, "no id"},
		{"another id", func(p fakeProgram, r request) { p.line(`{"id":%d,"type":"ok"}`, r.ID+1) }, "no request has this id"},
		{"a past id", func(p fakeProgram, _ request) { p.line(`{"id":0,"type":"ok"}`) }, "no request has this id"},
		{"no type", func(p fakeProgram, r request) { p.line(`{"id":%d}`, r.ID) }, "type must be"},
		{"invoke", func(p fakeProgram, r request) { p.line(`{"id":%d,"type":"invoke"}`, r.ID) }, "type must be"},
		{"not an object", func(p fakeProgram, _ request) { p.line(`[1,2]`) }, "malformed"},
		{"exit", func(fakeProgram, request) {}, "it ended"},
		{"half a line", func(p fakeProgram, r request) { _, _ = fmt.Fprintf(p.out, `{"id":%d,"type":"ok"`, r.ID) }, "unexpected EOF"},
		{"a line without end", func(p fakeProgram, _ request) {
			chunk := []byte(strings.Repeat("x", 1<<20))
			for {
				if _, err := p.out.Write(chunk); err != nil {
					return
				}
			}
		}, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, f := newLines(t, LinesConfig{}, func(p fakeProgram) {
				p.greet()
				r, _ := p.next()
				tc.bad(p, r)
				if tc.name != "exit" && tc.name != "half a line" {
					<-p.killed
				}
			}, echo)
			got := l.Invoke(within(t, 10*time.Second), op("write", "x", int64(5)))
			if got.Type != history.Info || !strings.Contains(got.Error, tc.err) || got.Value != int64(5) {
				t.Errorf("got %s %v %q, want info with %q", got.Type, got.Value, got.Error, tc.err)
			}
			got = l.Invoke(within(t, 10*time.Second), op("write", "x", int64(6)))
			if got.Type != history.OK || f.spawns.Load() != 2 {
				t.Errorf("then got %s %q from program %d, want ok from 2", got.Type, got.Error, f.spawns.Load())
			}
		})
	}
}

// A program that is gone before it was asked is replaced; one that never gets so
// far has not done anything.
func TestLinesNotSent(t *testing.T) {
	t.Run("dies idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, f := newLines(t, LinesConfig{}, func(p fakeProgram) {
				p.greet()
				r, _ := p.next()
				p.line(`{"id":%d,"type":"ok"}`, r.ID)
			}, echo)
			for range 2 {
				if got := l.Invoke(within(t, time.Second), op("read", "x", nil)); got.Type != history.OK {
					t.Errorf("got %s %q", got.Type, got.Error)
				}
				synctest.Wait()
			}
			if f.spawns.Load() != 2 {
				t.Errorf("%d programs were started", f.spawns.Load())
			}
			_ = l.Close()
		})
	})
	for _, tc := range []struct {
		name    string
		program func(fakeProgram)
		err     string
	}{
		{"exits at once", func(fakeProgram) {}, "not sent"},
		{"refuses", func(p fakeProgram) {
			_, _ = p.next()
			p.line(`{"id":0,"type":"fail","error":"n1 is unknown"}`)
			<-p.killed
		}, "it refuses: n1 is unknown"},
		{"wants no requests", func(p fakeProgram) {
			_, _ = p.next()
			p.line(`{"id":0,"type":"ok","concurrency":-1}`)
			<-p.killed
		}, "concurrency"},
		{"says things before hello", func(p fakeProgram) { p.line("starting…"); <-p.killed }, "malformed"},
		{"answers nothing", func(p fakeProgram) { _, _ = p.next(); <-p.killed }, "it was not ready"},
		{"reads nothing", func(p fakeProgram) { <-p.killed }, "it was not ready"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, _ := newLines(t, LinesConfig{}, tc.program)
				got := l.Invoke(within(t, time.Second), op("write", "x", int64(1)))
				if got.Type != history.Fail || !strings.Contains(got.Error, tc.err) {
					t.Errorf("got %s %q, want fail with %q", got.Type, got.Error, tc.err)
				}
				_ = l.Close()
			})
		})
	}
	t.Run("cannot be started", func(t *testing.T) {
		l := NewLines(func(context.Context) (*Program, error) { return nil, errors.New("no such file") }, Hello{}, LinesConfig{})
		defer func() { _ = l.Close() }()
		if got := l.Invoke(t.Context(), op("write", "x", int64(1))); got.Type != history.Fail || !strings.Contains(got.Error, "no such file") {
			t.Errorf("got %s %q", got.Type, got.Error)
		}
	})
}

// Nobody waits for a program that is silent, but it has its time to go on: it
// may only be paused.
func TestLinesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := newLines(t, LinesConfig{Silence: 5 * time.Second}, func(p fakeProgram) {
			p.greet()
			_, _ = p.next()
			<-p.killed
		}, echo)
		begin := time.Now()
		want := func(types ...history.Type) {
			t.Helper()
			for _, typ := range types {
				got := l.Invoke(within(t, time.Second), op("write", "x", int64(1)))
				if got.Type != typ {
					t.Errorf("after %v got %s %q, want %s", time.Since(begin), got.Type, got.Error, typ)
				}
			}
		}
		want(history.Info)                                                         // 0s: it has the request
		want(history.Fail, history.Fail, history.Fail, history.Fail, history.Fail) // 1s … 5s: it is busy
		if f.spawns.Load() != 1 {
			t.Errorf("it was killed after %v", time.Since(begin))
		}
		<-time.NewTimer(100 * time.Millisecond).C // silent for 5.1s
		want(history.OK)
		if f.spawns.Load() != 2 {
			t.Error("the same program answered")
		}
		_ = l.Close()
	})
}

func TestLinesLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := make(chan struct{})
		l, f := newLines(t, LinesConfig{Timeout: time.Second}, func(p fakeProgram) {
			p.greet()
			r, _ := p.next()
			if r.TimeoutMS != 1000 {
				t.Errorf("it was told %dms", r.TimeoutMS)
			}
			<-pause
			p.line(`{"id":%d,"type":"ok"}`, r.ID)
			r, _ = p.next()
			p.line(`{"id":%d,"type":"ok","value":"second"}`, r.ID)
			<-p.killed
		})
		time.AfterFunc(4*time.Second, func() { close(pause) })
		// Whoever waits longer than the program's timeout hears the truth.
		if got := l.Invoke(within(t, 2*time.Second), op("write", "x", int64(1))); got.Type != history.Info {
			t.Errorf("got %s %q", got.Type, got.Error)
		}
		// The late answer is nobody's; the next request gets its own.
		if got := l.Invoke(within(t, 10*time.Second), op("read", "x", nil)); got.Value != "second" || f.spawns.Load() != 1 {
			t.Errorf("got %s %v %q", got.Type, got.Value, got.Error)
		}
		_ = l.Close()
	})
}

func TestLinesConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4
		l, _ := newLines(t, LinesConfig{}, func(p fakeProgram) {
			_, _ = p.next()
			p.line(`{"id":0,"type":"ok","concurrency":%d}`, n)
			var requests []request
			for range n {
				r, _ := p.next()
				requests = append(requests, r)
			}
			for i := n - 1; i >= 0; i-- { // in another order
				p.line(`{"id":%d,"type":"ok","value":%v}`, requests[i].ID, requests[i].Op.Value)
			}
			<-p.killed
		})
		var wg sync.WaitGroup
		for i := range n + 1 {
			wg.Go(func() {
				got := l.Invoke(within(t, time.Second), op("write", "x", int64(i)))
				// One is too many: it waits for room, gets it, and no answer.
				if got.Type != history.OK && got.Type != history.Info || got.Value != int64(i) {
					t.Errorf("%d got %s %v %q", i, got.Type, got.Value, got.Error)
				}
			})
		}
		wg.Wait()
		_ = l.Close()
	})
}

func TestLinesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLines(t, LinesConfig{}, func(p fakeProgram) {
			p.greet()
			_, _ = p.next()
			<-p.killed
		})
		time.AfterFunc(time.Second, func() { _ = l.Close() })
		if got := l.Invoke(t.Context(), op("write", "x", int64(1))); got.Type != history.Info || !strings.Contains(got.Error, "closed") {
			t.Errorf("in flight: %s %q", got.Type, got.Error)
		}
		if got := l.Invoke(t.Context(), op("write", "x", int64(1))); got.Type != history.Fail || !strings.Contains(got.Error, "closed") {
			t.Errorf("after: %s %q", got.Type, got.Error)
		}
	})
}

// Whatever a program does: what it has seen is never called failed unless it
// says so, and what it has not seen is never called done.
func TestLinesOutcomesAreTrue(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			seen := map[int64]bool{}
			rnd := rand.New(rand.NewPCG(seed, 1))
			chance := func(p float64) bool {
				mu.Lock()
				defer mu.Unlock()
				return rnd.Float64() < p
			}
			l, f := newLines(t, LinesConfig{Silence: time.Second}, func(p fakeProgram) {
				if chance(0.1) {
					return
				}
				if _, ok := p.next(); !ok {
					return
				}
				p.line(`{"id":0,"type":"ok","concurrency":3}`)
				for {
					r, ok := p.next()
					if !ok {
						return
					}
					mu.Lock()
					seen[int64(r.Op.Value.(float64))] = true
					mu.Unlock()
					switch {
					case chance(0.05):
						return
					case chance(0.05):
						p.line("oops")
					case chance(0.05): // no answer
					default:
						p.line(`{"id":%d,"type":"ok"}`, r.ID)
					}
				}
			})
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() {
					for i := range 50 {
						v := int64(w*1000 + i)
						got := l.Invoke(within(t, 300*time.Millisecond), op("write", "x", v))
						mu.Lock()
						if got.Type == history.Fail && seen[v] || got.Type == history.OK && !seen[v] {
							t.Errorf("seed %d: %s %q of %d; the program has seen it: %v", seed, got.Type, got.Error, v, seen[v])
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if len(seen) < 50 || f.spawns.Load() < 3 {
				t.Errorf("seed %d shows nothing: %d requests, %d programs", seed, len(seen), f.spawns.Load())
			}
			_ = l.Close()
		})
	}
}
