package engine

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast.dev"
)

// memoryLease is a lease of a Memory.
type memoryLease struct {
	id       LeaseID
	ttl      time.Duration
	deadline time.Time // by the monotonic clock
	queued   time.Time // its place in the queue: deadline, or earlier if it was renewed since
	index    int       // in the queue
	keys     map[string]struct{}
}

// leaseTable is the leases of a Memory with a queue by deadline. Renewing only
// notes the new deadline; the place in the queue is mended when it comes up.
type leaseTable struct {
	byID  map[LeaseID]*memoryLease
	queue leaseQueue
	timer *time.Timer // for the head of the queue, nil if none is set
	due   time.Time   // when the timer fires
}

// moved notes that a key was written or deleted: prev is what it was.
func (t *leaseTable) moved(key string, prev *KV, lease LeaseID) {
	if prev != nil && prev.Lease != 0 && prev.Lease != lease {
		if l := t.byID[prev.Lease]; l != nil {
			delete(l.keys, key)
		}
	}
	if lease != 0 {
		t.byID[lease].keys[key] = struct{}{}
	}
}

// renewAll gives every lease its full TTL.
func (t *leaseTable) renewAll(now time.Time) {
	for _, l := range t.byID {
		l.deadline = now.Add(l.ttl)
	}
}

// expired is the lease that ended first, by deadline and id, nil if none did.
func (t *leaseTable) expired(now time.Time) *memoryLease {
	for len(t.queue) > 0 && !t.queue[0].queued.After(now) {
		l := t.queue[0]
		if !l.deadline.After(now) {
			return l
		}
		l.queued = l.deadline
		heap.Fix(&t.queue, 0)
	}
	return nil
}

func (t *leaseTable) remove(l *memoryLease) {
	heap.Remove(&t.queue, l.index)
	delete(t.byID, l.id)
}

// Grant implements [Engine].
func (m *Memory) Grant(ctx context.Context, id LeaseID, ttl time.Duration) (time.Duration, error) {
	if id == 0 {
		return 0, invalid("grant", "", "lease id 0")
	}
	if err := m.enter(ctx, "grant", holdfast.Unknown); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if m.leases.byID[id] != nil {
		return 0, leaseError("grant", id, holdfast.CodeConflict)
	}
	l := &memoryLease{id: id, ttl: max(ttl, m.cfg.MinTTL), keys: map[string]struct{}{}}
	l.deadline = time.Now().Add(l.ttl)
	l.queued = l.deadline
	m.leases.byID[id] = l
	heap.Push(&m.leases.queue, l)
	m.schedule()
	return l.ttl, nil
}

// Renew implements [Engine].
func (m *Memory) Renew(ctx context.Context, id LeaseID) (time.Duration, error) {
	if err := m.enter(ctx, "renew", holdfast.Unknown); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.expire() // what is due and not yet done must not be revived
	l := m.leases.byID[id]
	if l == nil {
		return 0, leaseError("renew", id, holdfast.CodeNotFound)
	}
	l.deadline = time.Now().Add(l.ttl)
	return l.ttl, nil
}

// Revoke implements [Engine].
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	if err := m.enter(ctx, "revoke", holdfast.Unknown); err != nil {
		return err
	}
	defer m.mu.Unlock()
	l := m.leases.byID[id]
	if l == nil {
		return leaseError("revoke", id, holdfast.CodeNotFound)
	}
	m.end(l)
	return nil
}

func leaseError(op string, id LeaseID, c holdfast.Code) error {
	return callError(op, fmt.Sprintf("lease %x", uint64(id)), c, holdfast.NotApplied, nil)
}

// end deletes a lease's keys in one revision and forgets it.
func (m *Memory) end(l *memoryLease) {
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		m.remove(span{key: key})
	}
	m.leases.remove(l)
	m.commit()
}

// expire ends the leases whose time is over.
func (m *Memory) expire() {
	if m.closed || m.outage != nil {
		return
	}
	now := time.Now()
	for l := m.leases.expired(now); l != nil; l = m.leases.expired(now) {
		m.end(l)
	}
}

// schedule sets the timer for the lease that may end first.
func (m *Memory) schedule() {
	t := &m.leases
	if m.closed || m.outage != nil || len(t.queue) == 0 {
		return
	}
	at := t.queue[0].queued
	if t.timer != nil && !at.Before(t.due) {
		return // it fires early enough, and then sets the next
	}
	m.unschedule()
	m.work.Add(1)
	t.due = at
	t.timer = time.AfterFunc(time.Until(at), m.tick)
}

// unschedule stops the timer.
func (m *Memory) unschedule() {
	if m.leases.timer != nil && m.leases.timer.Stop() {
		m.work.Done()
	}
	m.leases.timer = nil
}

// tick is the timer's work.
func (m *Memory) tick() {
	defer m.work.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases.timer = nil
	m.expire()
	m.schedule()
}

// leaseQueue is a heap by place, then id.
type leaseQueue []*memoryLease

func (q leaseQueue) Len() int { return len(q) }

func (q leaseQueue) Less(i, j int) bool {
	if c := q[i].queued.Compare(q[j].queued); c != 0 {
		return c < 0
	}
	return q[i].id < q[j].id
}

func (q leaseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements [heap.Interface].
func (q *leaseQueue) Push(x any) {
	l := x.(*memoryLease)
	l.index = len(*q)
	*q = append(*q, l)
}

// Pop implements [heap.Interface].
func (q *leaseQueue) Pop() any {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return l
}
