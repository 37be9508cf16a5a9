//go:build linux

package vswitch

import (
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// schedule holds frames until their time, in order of time and then of arrival.
// One goroutine on a thread of its own takes them out: the kernel wakes it with
// a high-resolution timer, without the Go scheduler's detours.
type schedule struct {
	mu   sync.Mutex
	heap []entry
	seq  uint64
	wake time.Duration // when the thread will look; MinInt64 while it is at work
	bell int           // an eventfd, which wakes it earlier
}

type entry struct {
	at  time.Duration
	seq uint64
	b   *buffer
}

func (e *entry) before(o *entry) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

const working = time.Duration(math.MinInt64)

// add puts a frame in; it may be called with a link's lock held.
func (q *schedule) add(at time.Duration, b *buffer) {
	q.mu.Lock()
	q.seq++
	q.heap = append(q.heap, entry{at, q.seq, b})
	h, i := q.heap, len(q.heap)-1
	for i > 0 {
		up := (i - 1) / 4
		if !h[i].before(&h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	ring := at < q.wake
	if ring {
		q.wake = at
	}
	q.mu.Unlock()
	if ring {
		q.ring()
	}
}

// due appends frames whose time has come, not more than there is room for. When
// there are none it says until when there will be none.
func (q *schedule) due(now time.Duration, out []*buffer) ([]*buffer, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(out) < cap(out) && len(q.heap) > 0 && q.heap[0].at <= now {
		out = append(out, q.heap[0].b)
		q.pop()
	}
	q.wake = working
	if len(out) == 0 {
		q.wake = math.MaxInt64
		if len(q.heap) > 0 {
			q.wake = q.heap[0].at
		}
	}
	return out, q.wake
}

func (q *schedule) pop() {
	h := q.heap
	n := len(h) - 1
	h[0], h[n] = h[n], entry{}
	h = h[:n]
	q.heap = h
	for i := 0; ; {
		least := i
		for c := 4*i + 1; c < min(4*i+5, n); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// ring wakes the thread.
func (q *schedule) ring() {
	one := [8]byte{1}
	_, _ = unix.Write(q.bell, one[:]) // it can only fail when the bell rings already
}

// wait returns at the time, or when the bell rings.
func (q *schedule) wait(now, until time.Duration) {
	fds := [1]unix.PollFd{{Fd: int32(q.bell), Events: unix.POLLIN}}
	var ts *unix.Timespec
	if until != math.MaxInt64 {
		t := unix.NsecToTimespec(int64(max(0, until-now)))
		ts = &t
	}
	if n, _ := unix.Ppoll(fds[:], ts, nil); n > 0 {
		var b [8]byte
		_, _ = unix.Read(q.bell, b[:])
	}
}

// urgent makes this thread precise and preferred, as far as this process may.
// The goroutine keeps the thread, which ends with it.
func (s *Switch) urgent() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // nanoseconds; the default is 50 µs
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	if s.config.Realtime && unix.SchedSetAttr(0, &attr, 0) == nil {
		return
	}
	// A short slice lets it take the turn of a thread that computes (Linux 6.12).
	attr = unix.SchedAttr{Size: unix.SizeofSchedAttr, Nice: -15, Runtime: uint64(100 * time.Microsecond)}
	if unix.SchedSetAttr(0, &attr, 0) != nil {
		attr.Nice = 0
		_ = unix.SchedSetAttr(0, &attr, 0) // it needs no right; an older kernel ignores it
	}
}

// dispatch sends frames at their time until the switch is closed.
func (s *Switch) dispatch() {
	s.urgent()
	batch := make([]*buffer, 0, 64)
	for !s.closing.Load() {
		now := s.now()
		var until time.Duration
		if batch, until = s.schedule.due(now, batch[:0]); len(batch) == 0 {
			s.schedule.wait(now, until)
			continue
		}
		for _, b := range batch {
			s.arrive(b)
		}
	}
}
