package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/bench/peer"
	"holdfast.dev/lab/netem"
	"holdfast.dev/lab/vswitch"
)

func jsonReader(s string) io.Reader { return strings.NewReader(s) }

// labSwitch compares the lab's switch with the kernel's bridge between veths,
// and for a single TCP connection with toxiproxy. Ends are processes of their
// own, in namespaces of their own.
func labSwitch(ctx context.Context, b *bench) ([]row, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 4)) // as package vswitch asks for
	var rows []row
	for _, realtime := range []bool{false, true} {
		r, err := b.labSwitch(ctx, realtime)
		rows = append(rows, r...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func (b *bench) labSwitch(ctx context.Context, realtime bool) (rows []row, err error) {
	steps := []func(context.Context, *nets) ([]row, error){b.switchUDP, b.switchTCP}
	for _, d := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond} {
		steps = append(steps, func(ctx context.Context, n *nets) ([]row, error) { return b.switchDelay(ctx, n, d) })
	}
	for _, step := range steps {
		r, err := b.onNets(ctx, realtime, step)
		rows = append(rows, r...)
		if err != nil {
			return rows, err
		}
	}
	if realtime {
		for i := range rows {
			rows[i].What += " (Realtime)"
		}
	}
	return rows, nil
}

// onNets runs one measurement on networks of its own, whose counters begin at 0.
func (b *bench) onNets(ctx context.Context, realtime bool, f func(context.Context, *nets) ([]row, error)) ([]row, error) {
	n, err := newNets(ctx, realtime)
	if err != nil {
		return nil, err
	}
	defer n.close(ctx)
	return f(ctx, n)
}

// nets is the three ways from one end to another.
type nets struct {
	s      *vswitch.Switch
	hosts  [2]*space // on the switch
	bridge [2]*space
	all    []*space
}

func newNets(ctx context.Context, realtime bool) (n *nets, err error) {
	n = &nets{s: vswitch.New(vswitch.Config{Realtime: realtime})}
	defer func() {
		if err != nil {
			n.close(ctx)
		}
	}()
	made := func() *space {
		s, e := newSpace()
		if e != nil {
			err = errors.Join(err, e)
			return nil
		}
		n.all = append(n.all, s)
		return s
	}
	n.hosts, n.bridge = [2]*space{made(), made()}, [2]*space{made(), made()}
	between := made()
	if err != nil {
		return nil, err
	}
	if err := n.s.Run(); err != nil {
		return nil, err
	}
	if err := bridged(between, n.bridge); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	for i := range 2 {
		if err := n.bridge[i].do(func() error { return address(i) }); err != nil {
			return nil, fmt.Errorf("veth: %w", err)
		}
		var f *os.File
		if err := n.hosts[i].do(func() (err error) {
			if f, err = tap(); err == nil {
				err = address(i)
			}
			return err
		}); err != nil {
			return nil, fmt.Errorf("TAP: %w", err)
		}
		if err := n.s.Attach(vswitch.Port{Name: fmt.Sprintf("n%d", i), Addr: netAddr(i), MAC: netMAC(i), TAP: f}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *nets) close(ctx context.Context) {
	_ = n.s.Close(context.WithoutCancel(ctx)) // its TAPs go with the namespaces
	for _, s := range n.all {
		s.close()
	}
}

// start starts an end, in a namespace or in that of this process, and gives the first line that it says.
func (b *bench) start(ctx context.Context, in *space, kind string, args ...string) (*peer.Process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	args = append([]string{self, endCommand, "-kind", kind}, args...)
	if in != nil {
		args = append(args, "-in", in.path)
	}
	p, err := b.host.Start(filepath.Join(b.dir, kind+".log"), args...)
	if err != nil || kind == "spin" {
		return p, "", err
	}
	line, err := p.Line(ctx)
	return p, line, err
}

// end runs an end that measures.
func (b *bench) end(ctx context.Context, in *space, kind string, args ...string) (m measured, err error) {
	p, line, err := b.start(ctx, in, kind, append(args, "-time", b.time.String())...)
	if err != nil {
		return m, fmt.Errorf("%s: %w", kind, err)
	}
	defer p.Kill()
	return m, json.Unmarshal([]byte(line), &m)
}

// way is one of the things that are compared, with its figures of all rounds.
type way struct {
	name   string
	run    func(context.Context) (float64, error)
	values []float64
}

// takeTurns runs all ways in each round.
func (b *bench) takeTurns(ctx context.Context, unit string, ways ...*way) error {
	for round := range b.rounds {
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			v, err := w.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			w.values = append(w.values, v)
		}
	}
	for _, w := range ways {
		b.logf("%s", w.figure(unit))
	}
	return nil
}

func (w *way) figure(unit string) figure {
	return figure{Who: w.name, Value: median(w.values), Unit: unit, Rounds: w.values}
}

// versus is a row with a target for what ours shows.
func (w *way) versus(p *way, what, unit string, target *bound) row {
	ratio := spreadOf(ratios(w.values, p.values))
	return row{What: what, Ours: w.figure(unit), Peer: p.figure(unit), Ratio: &ratio, Target: target}
}

const (
	ourName    = "lab switch"
	bridgeName = "veth+bridge"
)

// switchUDP floods one host from the other, and counts what its interface gets.
func (b *bench) switchUDP(ctx context.Context, n *nets) ([]row, error) {
	over := func(ends [2]*space) func(context.Context) (float64, error) {
		return func(ctx context.Context) (rate float64, err error) {
			to := netAddr(1).String() + ":9"
			var fd int
			if err := ends[1].do(func() (err error) { fd, err = udpSocket(to, false); return err }); err != nil { // nobody reads
				return 0, err
			}
			defer unix.Close(fd) //nolint:errcheck // nothing was written
			var before, after uint64
			if err := ends[1].do(func() (err error) { before, err = received(); return err }); err != nil {
				return 0, err
			}
			m, err := b.end(ctx, ends[0], "flood", "-addr", to)
			if err != nil {
				return 0, err
			}
			err = ends[1].do(func() (err error) { after, err = received(); return err })
			return float64(after-before) / m.Elapsed.Seconds() / 1000, err
		}
	}
	ours, theirs := &way{name: ourName, run: over(n.hosts)}, &way{name: bridgeName, run: over(n.bridge)}
	if err := b.takeTurns(ctx, "kpps", ours, theirs); err != nil {
		return nil, err
	}
	return []row{ours.versus(theirs, "UDP, frames of 64 bytes", "kpps", &bound{Of: "ours", Value: 150})}, nil
}

// switchTCP measures throughput and round trips of one connection.
func (b *bench) switchTCP(ctx context.Context, n *nets) ([]row, error) {
	type result struct{ gbit, rtt *way }
	var results []result
	for _, e := range []struct {
		name string
		ends [2]*space
	}{{ourName, n.hosts}, {bridgeName, n.bridge}, {"toxiproxy", [2]*space{}}} {
		at := netAddr(1).String() + ":0"
		if e.ends[0] == nil {
			at = "127.0.0.1:0"
		}
		var addr [2]string
		for i, kind := range []string{"sink", "echo"} {
			p, line, err := b.start(ctx, e.ends[1], kind, "-addr", at)
			if err != nil {
				return nil, err
			}
			defer p.Kill()
			addr[i] = line
			if e.ends[0] == nil {
				p, line, err := b.start(ctx, e.ends[1], "toxiproxy", "-addr", at, "-to", line)
				if err != nil {
					return nil, err
				}
				defer p.Kill()
				addr[i] = line
			}
		}
		results = append(results, result{
			gbit: &way{name: e.name, run: func(ctx context.Context) (float64, error) {
				m, err := b.end(ctx, e.ends[0], "stream", "-addr", addr[0])
				return float64(m.Bytes) * 8 / 1e9 / m.Elapsed.Seconds(), err
			}},
			rtt: &way{name: e.name, run: func(ctx context.Context) (float64, error) {
				m, err := b.end(ctx, e.ends[0], "ping", "-addr", addr[1])
				return float64(m.P50.Nanoseconds()) / 1000, err
			}},
		})
	}
	ours, bridge, toxi := results[0], results[1], results[2]
	if err := b.takeTurns(ctx, "Gbit/s", ours.gbit, bridge.gbit, toxi.gbit); err != nil {
		return nil, err
	}
	if err := b.takeTurns(ctx, "µs", ours.rtt, bridge.rtt, toxi.rtt); err != nil {
		return nil, err
	}
	added := &way{name: "what the switch adds"}
	for i := range ours.rtt.values {
		added.values = append(added.values, ours.rtt.values[i]-bridge.rtt.values[i])
	}
	return []row{
		ours.gbit.versus(bridge.gbit, "TCP, MTU 1500, one connection", "Gbit/s", &bound{Of: "ours", Value: 1.5}),
		ours.gbit.versus(toxi.gbit, "TCP, one connection, against toxiproxy on loopback", "Gbit/s", nil),
		ours.rtt.versus(bridge.rtt, "TCP round trip of 64 bytes, median", "µs", nil),
		ours.rtt.versus(toxi.rtt, "TCP round trip of 64 bytes, median, against toxiproxy on loopback", "µs", nil),
		{
			What: "TCP round trip of 64 bytes, switch minus bridge", Ours: added.figure("µs"), Peer: figure{Who: bridgeName},
			Missing: "–", Target: &bound{Of: "ours", AtMost: true, Value: 50},
			Note: "the bridge carries segments of 64 KiB, the switch the frames that a wire would",
		},
	}, nil
}

// switchDelay asks for a delay while every core is half busy with something
// else: datagrams one way, and round trips against those through toxiproxy.
func (b *bench) switchDelay(ctx context.Context, n *nets, d time.Duration) ([]row, error) {
	for range runtime.NumCPU() {
		p, _, err := b.start(ctx, nil, "spin")
		if err != nil {
			return nil, err
		}
		defer p.Kill()
	}
	pOurs, ourEcho, err := b.start(ctx, n.hosts[1], "echo", "-addr", netAddr(1).String()+":0")
	if err != nil {
		return nil, err
	}
	defer pOurs.Kill()
	pToxi, toxiEcho, err := b.start(ctx, nil, "echo", "-addr", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer pToxi.Kill()
	p, proxied, err := b.start(ctx, nil, "toxiproxy", "-addr", "127.0.0.1:0", "-to", toxiEcho, "-delay", d.String())
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	rule, err := n.s.Apply([]vswitch.Link{{From: "n0", To: "n1"}}, vswitch.Match{}, netem.Impairment{Delay: d})
	if err != nil {
		return nil, err
	}
	defer rule.Remove()
	ways := &way{name: "end to end"}
	for range b.rounds {
		m, err := b.end(ctx, n.hosts[0], "oneway", "-addr", netAddr(1).String()+":7", "-to", n.hosts[1].path)
		if err != nil {
			return nil, err
		}
		ways.values = append(ways.values, milliseconds(m.P99-d))
	}
	late := &way{name: ourName}
	for _, c := range n.s.Counters() {
		if c.From == "n0" && c.To == "n1" {
			late.values = append(late.values, milliseconds(c.Delay.P99))
		}
	}
	b.logf("delay %v: %s late at p99, %s", d, late.figure("ms"), ways.figure("ms"))
	trip := func(name string, in *space, addr string) *way {
		return &way{name: name, run: func(ctx context.Context) (float64, error) {
			m, err := b.end(ctx, in, "ping", "-addr", addr)
			return milliseconds(m.P99 - d), err
		}}
	}
	ours, toxi := trip(ourName, n.hosts[0], ourEcho), trip("toxiproxy", nil, proxied)
	if err := b.takeTurns(ctx, "ms", ours, toxi); err != nil {
		return nil, err
	}
	return []row{
		{
			What: fmt.Sprintf("delay of %v, cores half busy: frames late by, p99", d), Ours: late.figure("ms"),
			Missing: "no netem in this kernel", Target: &bound{Of: "ours", AtMost: true, Value: 0.3},
			Note: fmt.Sprintf("from send in one process to receive in another it takes %s ms longer than asked at p99: "+
				"both have to be given a core too", number(median(ways.values))),
		},
		ours.versus(toxi, fmt.Sprintf("delay of %v, cores half busy: TCP round trip late by, p99", d), "ms", nil),
	}, nil
}
