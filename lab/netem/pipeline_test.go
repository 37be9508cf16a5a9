package netem

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

// TestPush_Counts: what happens to the first 1000 frames of a seed never
// changes: runs are repeated years later.
func TestPush_Counts(t *testing.T) {
	for _, c := range []struct {
		im   Impairment
		want string // of the counters that are not 0, but the bytes
	}{
		{Impairment{}, "In 1000 Out 1000"},
		{Impairment{Loss: 0.07}, "In 1000 Out 939 DroppedLoss 61 Touched 61"},
		{Impairment{Loss: 0.2, LossCorrelation: 0.75}, "In 1000 Out 886 DroppedLoss 114 Touched 114"},
		{Impairment{Gilbert: &Gilbert{P: 0.01, R: 0.25}}, "In 1000 Out 973 DroppedLoss 27 Touched 27"},
		{Impairment{Duplicate: 0.1}, "In 1000 Out 1094 Duplicated 94 Touched 94"},
		{Impairment{Corrupt: 0.1}, "In 1000 Out 1000 Corrupted 88 Touched 88"},
		{Impairment{Delay: 10 * ms, Reorder: 1, Gap: 5}, "In 1000 Out 1000 Reordered 200 Delayed 800 Touched 1000"},
		{Impairment{Delay: 10 * ms, Reorder: 0.25, ReorderCorrelation: 0.5}, "In 1000 Out 1000 Reordered 217 Delayed 783 Touched 1000"},
		{Impairment{Delay: 5 * ms, Jitter: 5 * ms}, "In 1000 Out 1000 Delayed 1000 Touched 1000"},
		{Impairment{Rate: 400_000, Limit: 10}, "In 1000 Out 514 DroppedQueue 486 Delayed 1000 Touched 1000"},
		{Impairment{MTU: 85}, "In 1000 Out 1000"},
		{Impairment{MTU: 84}, "In 1000 DroppedMTU 1000 Touched 1000"},
		{Impairment{Cut: Stopped, Loss: 1, Duplicate: 1}, "In 1000 DroppedCut 1000 Touched 1000"},
		{Impairment{Cut: Slowed}, "In 1000 Out 1000 Delayed 1000 Touched 1000"},
		{Impairment{Cut: Jammed}, "In 1000 Held 900 DroppedJam 100 Delayed 900 Touched 1000"},
		{Impairment{Loss: 1, Duplicate: 1}, "In 1000 DroppedLoss 2000 Duplicated 1000 Touched 2000"},
	} {
		l, _ := newLine(t, Config{Seed: 1, Link: "a→b", Jam: 900}, c.im)
		for range 1000 {
			l.until(l.now + ms)
			l.push(99, l.all)
		}
		l.drain()
		l.conserved()
		if got := words(l.p.Counters()); got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.im, got, c.want)
		}
	}
}

// words is the counters that are not 0.
func words(c Counters) string {
	var w []string
	for f, v := range reflect.ValueOf(c).Fields() {
		if n := v.Int(); n != 0 && !strings.HasSuffix(f.Name, "Bytes") {
			w = append(w, fmt.Sprintf("%s %d", f.Name, n))
		}
	}
	return strings.Join(w, " ")
}

func impairments() *rapid.Generator[Impairment] {
	return rapid.Custom(func(t *rapid.T) Impairment {
		var im Impairment
		maybe := func(name string) bool { return rapid.Bool().Draw(t, name) }
		p := rapid.Float64Range(0, 0.9)
		if maybe("delays") {
			im.Delay = time.Duration(rapid.IntRange(0, int(20*ms)).Draw(t, "delay"))
			im.Jitter = time.Duration(rapid.IntRange(0, int(20*ms)).Draw(t, "jitter"))
			im.Distribution = rapid.SampledFrom([]Distribution{"", Uniform, Normal, Pareto, ParetoNormal}).Draw(t, "distribution")
			if im.Jitter > 0 {
				im.Unordered = maybe("unordered")
				im.Correlation = p.Draw(t, "correlation")
			}
			if im.Delay > 0 && maybe("reorders") {
				im.Reorder = p.Draw(t, "reorder")
			}
		}
		if maybe("loses") {
			im.Loss = p.Draw(t, "loss")
			im.Gilbert = &Gilbert{P: p.Draw(t, "p"), R: 0.1 + p.Draw(t, "r"), LossBad: 0.5}
		}
		if maybe("changes") {
			im.Duplicate, im.Corrupt = p.Draw(t, "duplicate"), p.Draw(t, "corrupt")
		}
		if maybe("limits") {
			im.Rate = int64(rapid.IntRange(100_000, 10_000_000).Draw(t, "rate"))
			im.Limit = rapid.IntRange(0, 20).Draw(t, "limit")
			im.MTU = rapid.SampledFrom([]int{0, 500}).Draw(t, "mtu")
		}
		im.Cut = rapid.SampledFrom([]Cut{None, None, None, None, Slowed, Jammed, Stopped}).Draw(t, "cut")
		if im.Corrupt > 0 {
			im.FixChecksum = maybe("fix")
		}
		return im
	})
}

// TestPush_Conservation: whatever the rules and however they come and go, for
// some frames or for all, each frame and each copy has exactly one end, and none
// comes before it was sent.
func TestPush_Conservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, _ := newLine(t, Config{Seed: rapid.Uint64().Draw(t, "seed"), Jam: 20})
		sent := map[int]time.Duration{}
		var rules []*Rule
		l.p.config.Clone = func(f Frame) Frame {
			f.Data = slices.Clone(f.Data)
			return f
		}
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				set := Set(rapid.Uint64().Draw(t, "rules"))
				for range rapid.IntRange(1, 20).Draw(t, "frames") {
					sent[l.sent] = l.now
					l.push(rapid.IntRange(14, 1514).Draw(t, "size"), set)
				}
			},
			"wait": func(t *rapid.T) {
				l.until(l.now + time.Duration(rapid.IntRange(0, int(50*ms)).Draw(t, "time")))
			},
			"add": func(t *rapid.T) {
				if len(rules) < 5 {
					rules = append(rules, l.add("x", impairments().Draw(t, "rule")))
				}
			},
			"remove": func(t *rapid.T) {
				if len(rules) > 0 {
					i := rapid.IntRange(0, len(rules)-1).Draw(t, "which")
					l.remove(rules[i])
					rules = slices.Delete(rules, i, i+1)
				}
			},
			"": func(*rapid.T) { l.conserved() },
		})
		for _, r := range rules {
			l.remove(r)
		}
		l.drain()
		l.conserved()
		if c := l.p.Counters(); c.Held != 0 || c.Waiting != 0 {
			t.Fatalf("counters %+v after everything was removed", c)
		}
		ends := map[int]int{}
		for _, o := range l.outs {
			n := o.Frame.Ref.(int)
			if o.At < sent[n] {
				t.Fatalf("frame %d was sent at %v and arrives at %v", n, sent[n], o.At)
			}
			if o.Marks&Copied == 0 {
				ends[n]++
			}
		}
		for n := range sent {
			if ends[n] != 1 {
				t.Fatalf("frame %d ends %d times", n, ends[n])
			}
		}
	})
}

// TestPush_Order: frames that meet the same rules arrive in the order in which
// they were sent, also when other rules than rates come and go, unless they are
// to be reordered.
func TestPush_Order(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, _ := newLine(t, Config{Seed: rapid.Uint64().Draw(t, "seed")})
		if rapid.Bool().Draw(t, "rated") {
			l.add("rate", Impairment{Rate: 1e6})
		}
		var rules []*Rule
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "frames") {
					l.push(rapid.IntRange(14, 1514).Draw(t, "size"), l.all)
				}
			},
			"wait": func(t *rapid.T) {
				l.until(l.now + time.Duration(rapid.IntRange(0, int(50*ms)).Draw(t, "time")))
			},
			"add": func(t *rapid.T) {
				im := impairments().Draw(t, "rule")
				im.Reorder, im.Unordered, im.Rate, im.Limit = 0, false, 0, 0
				if len(rules) < 5 {
					rules = append(rules, l.add("x", im))
				}
			},
			"remove": func(t *rapid.T) {
				if len(rules) > 0 {
					i := rapid.IntRange(0, len(rules)-1).Draw(t, "which")
					l.remove(rules[i])
					rules = slices.Delete(rules, i, i+1)
				}
			},
		})
		for _, r := range rules {
			l.remove(r)
		}
		l.drain()
		last := Out{Frame: Frame{Ref: -1}}
		for _, o := range l.delivered() {
			if o.Frame.Ref.(int) < last.Frame.Ref.(int) {
				t.Fatalf("frame %v at %v came after frame %v at %v", o.Frame.Ref, o.At, last.Frame.Ref, last.At)
			}
			last = o
		}
	})
}

// TestEgress_Queue holds the rate against a queue that is written as one reads
// it: frames come as they would without a rate, one at a time is sent, so many
// may wait.
func TestEgress_Queue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		im := impairments().Draw(t, "rule")
		im.Cut, im.Limit, im.MTU = None, rapid.IntRange(1, 20).Draw(t, "queue"), 0
		im.Rate = int64(rapid.IntRange(100_000, 10_000_000).Draw(t, "bits per second"))
		free := im
		free.Rate, free.Limit = 0, 0
		seed := rapid.Uint64().Draw(t, "seed")
		limited, _ := newLine(t, Config{Seed: seed}, im)
		model, _ := newLine(t, Config{Seed: seed}, free)
		for range rapid.IntRange(1, 200).Draw(t, "frames") {
			wait := time.Duration(rapid.IntRange(0, int(3*ms)).Draw(t, "gap"))
			size := rapid.IntRange(14, 1514).Draw(t, "size")
			for _, l := range []*line{limited, model} {
				l.until(l.now + wait)
				l.push(size, l.all)
			}
		}
		limited.drain()
		limited.conserved()
		var queue []time.Duration // when those in it will be gone
		var want []string
		dropped := 0
		for _, o := range model.delivered() {
			queue = slices.DeleteFunc(queue, func(gone time.Duration) bool { return gone <= o.At })
			if len(queue) == im.Limit {
				dropped++
				continue
			}
			from := o.At
			if n := len(queue); n > 0 {
				from = queue[n-1]
			}
			nanos := (int64(len(o.Frame.Data))*8*1e9 + im.Rate - 1) / im.Rate
			queue = append(queue, from+time.Duration(nanos))
			want = append(want, fmt.Sprint(o.Frame.Ref, queue[len(queue)-1]))
		}
		var got []string
		for _, o := range limited.delivered() {
			got = append(got, fmt.Sprint(o.Frame.Ref, o.At))
		}
		if !slices.Equal(got, want) || limited.p.Counters().DroppedQueue != int64(dropped) {
			t.Fatalf("%v:\n got %v\nwant %v, %d dropped: %+v", im, got, want, dropped, limited.p.Counters())
		}
	})
}

// TestEgress_Rate: no rate is exceeded over any span of time, whatever other
// rules there are: the last bit of a frame is at least its length after the last
// bit of the frame before.
func TestEgress_Rate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rates := rapid.SliceOfN(rapid.IntRange(100_000, 10_000_000), 1, 3).Draw(t, "rates")
		l, _ := newLine(t, Config{}, impairments().Filter(func(im Impairment) bool { return im.Cut != Jammed }).Draw(t, "other"))
		slowest := slices.Min(rates)
		for _, r := range rates {
			l.add("rate", Impairment{Rate: int64(r)})
		}
		for range rapid.IntRange(1, 200).Draw(t, "frames") {
			l.until(l.now + time.Duration(rapid.IntRange(0, int(3*ms)).Draw(t, "gap")))
			l.push(rapid.IntRange(14, 1514).Draw(t, "size"), l.all)
		}
		l.drain()
		last := time.Duration(-1 << 40)
		for _, o := range l.delivered() {
			if least := float64(len(o.Frame.Data)) * 8e9 / float64(slowest); float64(o.At-last) < least-1e-3 {
				t.Fatalf("a frame of %d bytes came %v after the one before, want %v ns", len(o.Frame.Data), o.At-last, least)
			}
			last = o.At
		}
	})
}

func TestJam(t *testing.T) {
	l, rules := newLine(t, Config{Jam: 3}, Impairment{Cut: Jammed})
	refs := func() (out []int) {
		for _, o := range l.delivered() {
			out = append(out, o.Frame.Ref.(int))
		}
		return out
	}
	other := l.add("second", Impairment{Cut: Jammed})
	for range 4 { // the last finds no room
		l.push(100, l.all)
	}
	l.remove(rules[0])
	if c := l.p.Counters(); len(refs()) != 0 || c.Held != 3 || c.DroppedJam != 1 {
		t.Fatalf("%v delivered while another jam lasts, %+v", refs(), c)
	}
	stop := l.add("cut", Impairment{Cut: Stopped})
	l.push(100, l.all)
	l.p.Remove(stop)
	slow := l.add("slow", Impairment{Delay: 5 * ms})
	l.until(7 * ms)
	l.remove(other)
	l.push(100, l.all)
	l.remove(slow)
	l.push(100, l.all)
	l.drain()
	l.conserved()
	if got := refs(); !slices.Equal(got, []int{0, 1, 2, 5, 6}) {
		t.Errorf("delivered %v", got)
	}
	for _, o := range l.delivered() {
		if o.At != 12*ms {
			t.Errorf("frame %v at %v, want 12ms: released at 7ms and delayed", o.Frame.Ref, o.At)
		}
		if released := o.Frame.Ref.(int) < 3; released != (o.Marks&Released != 0) {
			t.Errorf("frame %v marked %v", o.Frame.Ref, o.Marks)
		}
	}
	for i, r := range []*Rule{rules[0], other} {
		if c := r.Counters(); c.Touched != 4-int64(i) || c.Held != 0 {
			t.Errorf("rule %d: %+v", i, c)
		}
	}
}

// TestRemove_Rate: what follows when a rate is removed comes after what waited
// for it.
func TestRemove_Rate(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * ms} {
		l, rules := newLine(t, Config{}, Impairment{Rate: 8e5, Delay: delay}) // a frame takes 1ms
		for range 10 {
			l.push(100, l.all)
		}
		l.until(l.now + 3*ms)
		l.remove(rules[0])
		l.push(100, l.all)
		l.drain()
		for i, o := range l.delivered() {
			if o.Frame.Ref.(int) != i {
				t.Errorf("delay %v: frame %v is number %d, at %v", delay, o.Frame.Ref, i, o.At)
			}
		}
	}
}

// TestRemove_Bystanders: a rule for some traffic does not hold up the rest, not
// when it is removed either.
func TestRemove_Bystanders(t *testing.T) {
	l, rules := newLine(t, Config{}, Impairment{Delay: 100 * ms})
	l.push(100, l.all)
	l.push(100, 0)
	l.remove(rules[0])
	l.push(100, 0)
	for i, want := range []time.Duration{100 * ms, 0, 0} {
		if got := l.outs[i].At; got != want {
			t.Errorf("frame %d at %v, want %v", i, got, want)
		}
	}
}

// TestPush_Attribution: of several rules it is the one that did it that counts
// it.
func TestPush_Attribution(t *testing.T) {
	l, r := newLine(t, Config{}, Impairment{Delay: ms}, Impairment{Loss: 1}, Impairment{Delay: 2 * ms})
	l.push(100, r[0].Set()|r[2].Set())
	l.push(100, r[0].Set()|r[1].Set())
	l.push(100, r[2].Set())
	l.conserved()
	if o := l.outs; o[0].At != 3*ms || o[1].Fate != DropLoss || o[1].Rule != r[1] || o[2].At != 2*ms {
		t.Errorf("outs %+v", o)
	}
	for i, want := range []int64{1, 1, 2} {
		if got := r[i].Counters().Touched; got != want {
			t.Errorf("rule %d touched %d frames, want %d", i, got, want)
		}
	}
}

func TestPush_SeedAndLink(t *testing.T) {
	fates := func(c Config, id string) string {
		l := &line{t: t, p: New(c)}
		l.add(id, Impairment{Loss: 0.5})
		for range 64 {
			l.push(100, l.all)
		}
		var s strings.Builder
		for _, o := range l.outs {
			fmt.Fprint(&s, o.Fate)
		}
		return s.String()
	}
	is := fates(Config{Seed: 1, Link: "a→b"}, "x")
	if again := fates(Config{Seed: 1, Link: "a→b"}, "x"); again != is {
		t.Error("the same seed gives another run")
	}
	for _, other := range []string{
		fates(Config{Seed: 2, Link: "a→b"}, "x"), fates(Config{Seed: 1, Link: "b→a"}, "x"), fates(Config{Seed: 1, Link: "a→b"}, "y"),
	} {
		if other == is {
			t.Error("another seed, link or rule gives the same run")
		}
	}
}

func TestAdd_Full(t *testing.T) {
	l, _ := newLine(t, Config{})
	for i := range Rules {
		l.add(fmt.Sprint(i), Impairment{})
	}
	if _, err := l.p.Add("one more", Impairment{}); err != ErrFull { //nolint:errorlint // it is returned as it is
		t.Errorf("error %v", err)
	}
	if _, err := New(Config{}).Add("x", Impairment{Loss: 2}); err == nil {
		t.Error("a rule that is wrong was added")
	}
}

func BenchmarkPush(b *testing.B) {
	for name, im := range map[string]Impairment{
		"nothing": {}, "loss": {Loss: 0.07}, "delay": {Delay: 10 * ms},
		"jitter": {Delay: 10 * ms, Jitter: ms, Distribution: Normal}, "rate": {Rate: 1 << 40},
		"all": {
			Delay: 10 * ms, Jitter: ms, Distribution: ParetoNormal, Correlation: 0.5, Loss: 0.01, LossCorrelation: 0.2,
			Gilbert: &Gilbert{P: 0.01, R: 0.3}, Duplicate: 0.01, Corrupt: 0.01, Reorder: 0.01,
		},
	} {
		b.Run(name, func(b *testing.B) {
			l, _ := newLine(b, Config{}, im)
			f := Frame{Data: make([]byte, 1514)}
			var out []Out
			b.ReportAllocs()
			for b.Loop() {
				l.now += time.Microsecond
				out = l.p.Push(l.now, f, l.all, out[:0])
			}
		})
	}
}
