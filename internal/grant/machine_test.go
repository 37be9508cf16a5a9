package grant

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// world is one record and the agents that work on it, one at a time. Sessions
// and agents are single letters.
type world struct {
	record   Record
	rev      int64
	waiting  map[string][]*wish
	dead     map[engine.SessionID]bool
	delaying bool
	keep     bool
}

func session(name string) engine.SessionID { return engine.SessionID(name[0]) }

func letter(id engine.SessionID) string { return string(rune(id)) }

// TestMachine runs the transcripts in testdata. Each command names the agent
// that works; the output is what it decided and the record after it.
//
//	ask AGENT [as=SESSION] r=ID [shared] [permits=N of=M] [nowait] [delay=5s]
//	release AGENT [as=SESSION] r=ID       its owner gives it back
//	withdraw AGENT [as=SESSION] r=ID      the agent gives up waiting
//	ready AGENT r=ID [value=V]            the holder confirms
//	die SESSION                           it is gone, and everybody knows
//	delayed | delay-over                  the delay key exists, or is gone
//	work AGENT                            nothing new, decide again
//	keep                                  as elections do
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{waiting: map[string][]*wish{}, dead: map[engine.SessionID]bool{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for line := range strings.Lines(d.Cmd + " " + args(d) + "\n" + d.Input) {
				if fields := strings.Fields(line); len(fields) > 0 {
					w.do(&out, fields)
				}
			}
			out.WriteString(w.String())
			return out.String()
		})
	})
}

func args(d *datadriven.TestData) string {
	var parts []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			parts = append(parts, a.Key)
		} else {
			parts = append(parts, a.Key+"="+a.Vals[0])
		}
	}
	return strings.Join(parts, " ")
}

func (w *world) do(out *strings.Builder, fields []string) {
	cmd, agent := fields[0], ""
	if len(fields) > 1 {
		agent = fields[1]
	}
	opts := map[string]string{"as": agent}
	for _, f := range fields[min(2, len(fields)):] {
		k, v, _ := strings.Cut(f, "=")
		opts[k] = v
	}
	o := Owner{Request: opts["r"]}
	if opts["as"] != "" {
		o.Session = session(opts["as"])
	}
	v := view{keep: w.keep}
	switch cmd {
	case "keep":
		w.keep = true
		return
	case "die":
		w.dead[session(agent)] = true
		return
	case "delayed", "delay-over":
		w.delaying = cmd == "delayed"
		return
	case "ask":
		c := &wish{Claim: Claim{Session: o.Session, Agent: session(agent), Request: o.Request, Mode: Exclusive}}
		if _, ok := opts["shared"]; ok {
			c.Mode = Shared
		}
		if n, ok := opts["permits"]; ok {
			c.Mode = Permits
			_, _ = fmt.Sscan(n, &c.Permits)
			_, _ = fmt.Sscan(opts["of"], &c.capacity)
		}
		_, c.noWait = opts["nowait"]
		if s, ok := opts["delay"]; ok {
			c.Delay, _ = time.ParseDuration(s)
		}
		w.waiting[agent] = append(w.waiting[agent], c)
	case "release":
		v.leaving = []leave{{owner: o}}
	case "withdraw":
		w.waiting[agent] = slices.DeleteFunc(w.waiting[agent], func(c *wish) bool { return c.is(o) })
		v.leaving = []leave{{owner: o, waiting: true}}
	case "ready":
		v.changes = []change{{owner: o, value: []byte(opts["value"]), ready: true}}
	case "work":
	default:
		fmt.Fprintf(out, "unknown command %q\n", cmd)
		return
	}
	w.decide(out, agent, v)
}

func (w *world) decide(out *strings.Builder, agent string, v view) {
	v.agent, v.record, v.waiting = session(agent), w.record, w.waiting[agent]
	v.dead = func(id engine.SessionID) bool { return w.dead[id] }
	v.delaying = w.delaying
	p := decide(v)
	for c, err := range p.refused {
		fmt.Fprintf(out, "refused %s.%s: %v\n", letter(c.Session), c.Request, err)
		w.waiting[agent] = slices.DeleteFunc(w.waiting[agent], func(x *wish) bool { return x == c })
	}
	if !p.write {
		return
	}
	w.rev++
	w.record = p.next
	for i := range w.record.Holders {
		if h := &w.record.Holders[i]; h.Granted == 0 {
			h.Granted = w.rev
			fmt.Fprintf(out, "granted %s.%s token=%d by=%s\n", letter(h.Session), h.Request, w.rev, agent)
		}
	}
	for _, list := range w.waiting {
		for _, c := range list {
			q := find(w.record.Queue, Owner{c.Session, c.Request})
			c.queued = c.queued || q != nil && q.Agent == c.Agent
		}
	}
	for a, list := range w.waiting {
		w.waiting[a] = slices.DeleteFunc(list, func(c *wish) bool { return w.record.holder(Owner{c.Session, c.Request}) != nil })
	}
	if p.delay > 0 {
		w.delaying = true
		fmt.Fprintf(out, "delay %v\n", p.delay)
	}
	for _, id := range p.gone {
		fmt.Fprintf(out, "guard gone %s\n", letter(id))
	}
	again := v
	again.record, again.waiting, again.leaving, again.delaying = w.record, w.waiting[agent], v.leaving, w.delaying
	if decide(again).write {
		out.WriteString("NOT IDEMPOTENT\n")
	}
}

func (w *world) String() string {
	var b strings.Builder
	r := &w.record
	for _, h := range r.Holders {
		fmt.Fprintf(&b, "  held %s.%s %s", letter(h.Session), h.Request, h.Mode)
		if h.Mode == Permits {
			fmt.Fprintf(&b, " %d of %d", h.Permits, r.Capacity)
		}
		if !h.Ready {
			b.WriteString(" not ready")
		}
		if len(h.Value) > 0 {
			fmt.Fprintf(&b, " value=%s", h.Value)
		}
		fmt.Fprintf(&b, " token=%d\n", h.Granted)
	}
	for _, c := range r.Queue {
		fmt.Fprintf(&b, "  queued %s.%s %s at=%s\n", letter(c.Session), c.Request, c.Mode, letter(c.Agent))
	}
	for _, agent := range []string{"a", "b", "c", "d"} {
		for _, c := range w.waiting[agent] {
			if find(r.Queue, Owner{c.Session, c.Request}) == nil {
				fmt.Fprintf(&b, "  local %s.%s %s at=%s\n", letter(c.Session), c.Request, c.Mode, agent)
			}
		}
	}
	if r.Run > 0 {
		fmt.Fprintf(&b, "  run %d\n", r.Run)
	}
	if r.Delayed {
		b.WriteString("  delayed\n")
	}
	if r.Vanished != nil {
		fmt.Fprintf(&b, "  vanished %s.%s token=%d\n", letter(r.Vanished.Session), r.Vanished.Request, r.Vanished.Granted)
	}
	if r.empty() {
		b.WriteString("  free\n")
	}
	return b.String()
}

func TestRecord_EncodeDecode(t *testing.T) {
	since := time.UnixMilli(1_790_000_000_000)
	in := Record{
		Capacity: 5, Run: 2, Delayed: true,
		Holders: []Claim{
			{Session: 1, Agent: 2, Request: "r", Mode: Permits, Permits: 2, Since: since, Delay: time.Second, Note: "n", Granted: 7, Ready: true},
			{Session: 3, Agent: 3, Request: "s", Mode: Permits, Permits: 1, Since: since, Value: []byte{0, 255}, Granted: 9},
		},
		Queue:    []Claim{{Session: 4, Agent: 4, Request: "q", Mode: Exclusive, Since: since}},
		Vanished: &Claim{Session: 5, Agent: 5, Request: "v", Mode: Exclusive, Since: since, Granted: 3},
	}
	b, err := in.encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := decode("k", b, 99)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v %+v", out, *out.Vanished), fmt.Sprintf("%+v %+v", in, *in.Vanished); stripPointers(got) != stripPointers(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	in.Holders[0].Granted = 0
	b, _ = in.encode()
	if out, _ = decode("k", b, 99); out.Holders[0].Granted != 99 {
		t.Errorf("a grant by the record's own write has revision %d, want 99", out.Holders[0].Granted)
	}
	if _, err := decode("k", []byte(`{"holders":[{"session":"zz"}]}`), 1); holdfast.CodeOf(err) != holdfast.CodeInternal {
		t.Errorf("corrupt record: %v", err)
	}
}

// stripPointers takes the address out of a printed pointer.
func stripPointers(s string) string {
	before, after, _ := strings.Cut(s, "Vanished:0x")
	_, after, _ = strings.Cut(after, "}")
	return before + after
}

func TestBusy_SaysWho(t *testing.T) {
	r := Record{Holders: []Claim{{Session: 7}}}
	if err := r.busy(); !errors.Is(err, holdfast.ErrBusy) || !strings.Contains(err.Error(), "0000000000000007") {
		t.Errorf("%v", err)
	}
}
