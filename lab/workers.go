//go:build linux

package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/workload"
)

// workers are the clients of a run at work.
type workers struct {
	plan     *Plan
	workload workload.Instance
	history  *history.Writer
	now      func() time.Duration
	connect  func(ctx context.Context, worker int, node string) (driver.Client, error)
	nodeOf   func(worker int) string

	nextProcess atomic.Int64
	ok          atomic.Int64
	fail        atomic.Int64
	unknown     atomic.Int64
	closing     sync.WaitGroup // clients that were given up

	recording sync.Mutex

	mu     sync.Mutex
	byNode map[string]int64 // operations that succeeded
}

// work makes operations with all workers until ctx ends, and waits until the
// last was answered or timed out.
func (ws *workers) work(ctx context.Context) {
	n := ws.plan.Scenario.Workload.Workers
	ws.nextProcess.Store(int64(n))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { ws.worker(ctx, i) })
	}
	all.Wait()
	ws.closing.Wait()
}

// worker is one client: it makes one operation at a time. After an operation
// of unknown outcome it is a new process with a new connection, as in Jepsen.
func (ws *workers) worker(ctx context.Context, index int) {
	me := workload.Worker{Index: index, Process: index, Node: ws.nodeOf(index)}
	stream := fmt.Sprintf("worker/%d", index)
	pace := newPace(ws.plan, index)
	var client driver.Client
	defer func() { ws.leave(client) }()
	timeout := ws.plan.Scenario.Workload.Timeout
	for n := 0; ; {
		if !pace.wait(ctx) {
			return
		}
		op, ok := ws.workload.Next(me, n, random(ws.plan.Seed, stream, n))
		if !ok {
			if !sleep(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		n++
		if client == nil {
			me.Node = ws.nodeOf(index)
		}
		op.Process, op.Node, op.Type = me.Process, me.Node, history.Invoke
		op = ws.record(op)
		done := op
		var refused error
		if client == nil {
			opening, cancel := context.WithTimeout(ctx, timeout)
			client, refused = ws.connect(opening, index, me.Node)
			cancel()
		}
		if refused != nil {
			client = nil
			done.Type, done.Error = history.Fail, "no connection: "+refused.Error()
		} else {
			// The call outlives the phase: it is answered or times out, or what
			// happened at the very end would be unknown for no reason.
			calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
			done = client.Invoke(calling, op)
			cancel()
		}
		done.Process, done.Node, done.F, done.Key = op.Process, op.Node, op.F, op.Key
		done = ws.record(done)
		ws.count(done)
		me.Last = &done
		switch {
		case done.Type == history.Info:
			ws.leave(client)
			client = nil
			me.Process = int(ws.nextProcess.Add(1)) - 1
		case refused != nil:
			if !sleep(ctx, 100*time.Millisecond) {
				return
			}
		}
	}
}

// leave closes a client that is not needed any more. One that was given up may
// take its time.
func (ws *workers) leave(c driver.Client) {
	if c != nil {
		ws.closing.Go(func() { _ = c.Close() }) // its connection may be broken already
	}
}

// record adds the operation to the history with the time it has now. Times and
// places in the history are given under one lock, so that they agree.
func (ws *workers) record(op history.Op) history.Op {
	ws.recording.Lock()
	defer ws.recording.Unlock()
	op.Time = ws.now()
	return ws.history.Append(op)
}

func (ws *workers) count(op history.Op) {
	switch op.Type {
	case history.OK:
		ws.ok.Add(1)
		ws.mu.Lock()
		ws.byNode[op.Node]++
		ws.mu.Unlock()
	case history.Fail:
		ws.fail.Add(1)
	case history.Info, history.Invoke:
		ws.unknown.Add(1)
	}
}

// succeeded is how many operations succeeded on the nodes so far; all nodes when
// none is named.
func (ws *workers) succeeded(nodes []string) int64 {
	if nodes == nil {
		return ws.ok.Load()
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var n int64
	for _, node := range nodes {
		n += ws.byNode[node]
	}
	return n
}

// final makes the reads at the end, with one client for each node.
func (ws *workers) final(ctx context.Context, nodes []string, within time.Duration) (doubts []string) {
	clients := map[string]driver.Client{}
	defer func() {
		for _, c := range clients {
			ws.leave(c)
		}
		ws.closing.Wait()
	}()
	process := int(ws.nextProcess.Add(1))
	silent := map[string]bool{} // nodes that answered nothing for as long as they were given
	for _, f := range ws.workload.Final(nodes) {
		if f.Within == 0 || f.Within > within {
			f.Within = within
		}
		if f.Node != "" && silent[f.Node] {
			f.Within = min(f.Within, time.Second)
		}
		if f.Pause == 0 {
			f.Pause = 200 * time.Millisecond
		}
		ok := ws.finalRead(ctx, f, nodes, clients, &process)
		silent[f.Node] = !ok
		if !ok && f.Must && ctx.Err() == nil {
			doubts = append(doubts, fmt.Sprintf("the final %s%s could not be made within %s", f.Op.F, onNode(f.Node), f.Within))
		}
	}
	return doubts
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}

func (ws *workers) finalRead(ctx context.Context, f workload.FinalOp, nodes []string, clients map[string]driver.Client, process *int) bool {
	ctx, cancel := context.WithTimeout(ctx, f.Within)
	defer cancel()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		node := f.Node
		if node == "" {
			node = nodes[attempt%len(nodes)]
		}
		op := f.Op
		*process++
		op.Process, op.Node, op.Type = *process, node, history.Invoke
		op = ws.record(op)
		done := op
		calling, end := context.WithTimeout(ctx, max(10*time.Second, ws.plan.Scenario.Workload.Timeout))
		var err error
		if clients[node] == nil {
			clients[node], err = ws.connect(calling, -1, node)
		}
		if err != nil {
			delete(clients, node)
			done.Type, done.Error = history.Fail, "no connection: "+err.Error()
		} else {
			done = clients[node].Invoke(calling, op)
		}
		end()
		done.Process, done.Node, done.F, done.Key = op.Process, op.Node, op.F, op.Key
		ws.record(done)
		if done.Type == history.OK {
			return true
		}
		if done.Type == history.Info {
			ws.leave(clients[node])
			delete(clients, node)
		}
		if !sleep(ctx, f.Pause) {
			break
		}
	}
	return false
}

// pace spreads a worker's operations over time, so that all of them together
// make the scenario's rate.
type pace struct {
	rnd   *rand.Rand
	mean  time.Duration // between two operations of this worker; 0 is no limit
	next  time.Time
	begun bool
}

func newPace(p *Plan, worker int) *pace {
	w := p.Scenario.Workload
	pc := &pace{rnd: random(p.Seed, fmt.Sprintf("pace/%d", worker), 0)}
	if w.Rate > 0 {
		pc.mean = time.Duration(float64(time.Second) * float64(w.Workers) / w.Rate)
	}
	return pc
}

// wait returns when the next operation is due; false when ctx ended first. Who
// was late does not catch up: a slow system gets fewer operations, not a burst.
func (p *pace) wait(ctx context.Context) bool {
	if p.mean == 0 {
		return ctx.Err() == nil
	}
	now := time.Now()
	if !p.begun {
		p.begun = true
		p.next = now.Add(time.Duration(p.rnd.Float64() * float64(p.mean)))
	}
	ok := sleep(ctx, p.next.Sub(now))
	if now = time.Now(); p.next.Before(now.Add(-p.mean)) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration((0.5 + p.rnd.Float64()) * float64(p.mean)))
	return ok
}

// sleep returns after d, or false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
