//go:build linux

package host

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"
)

// period is that of the duty cycle, and of the quota of a cgroup.
const period = 100 * time.Millisecond

// minShare gives a quota that the kernel takes: a hundredth of a core.
const minShare = 0.01

// Throttle gives the host this share of one core, 0.01 at least; 0 ends it. It
// is a CPU quota where cgroups can be had. Otherwise its processes are stopped
// and let go in turn, ten times a second: then a share above 1 limits nothing,
// and several threads may use several cores while they run.
func (h *Host) Throttle(ctx context.Context, share float64) error {
	if share != 0 && (math.IsNaN(share) || share < minShare || share > 1024) {
		return fmt.Errorf("host %s: throttle: share %v of a core: want 0 or %v to 1024", h.cfg.Name, share, minShare)
	}
	err := h.do(ctx, func(o *owner) error {
		if h.group != nil {
			return h.group.limit(share)
		}
		o.release()
		o.duty = duty{share: share, turn: time.Now()}
		return nil
	})
	if err != nil {
		return fmt.Errorf("host %s: throttle: %w", h.cfg.Name, err)
	}
	return nil
}

// Throttled is for how long the host was held back by Throttle so far: what the
// kernel measured, summed over the cores on which something wanted to run, or
// the time for which its processes were stopped.
func (h *Host) Throttled() time.Duration {
	waited := h.group.throttled()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waited = max(h.waited, waited)
	return h.held + h.waited
}

// duty is the alternation of running and being stopped.
type duty struct {
	share float64   // 0 and from 1 on: no alternation
	turn  time.Time // when the next phase begins
	since time.Time // when the processes were stopped; zero while they run
}

func (d duty) on() bool { return d.share > 0 && d.share < 1 }

// untilTurn is how long the present phase lasts.
func (d duty) untilTurn(now time.Time) time.Duration {
	if !d.on() {
		return time.Hour
	}
	return max(d.turn.Sub(now), 0)
}

// turn goes from running to being stopped and back.
func (o *owner) turn() {
	if !o.duty.on() {
		return
	}
	running := time.Duration(o.duty.share * float64(period))
	if !o.duty.since.IsZero() {
		o.release()
		o.duty.turn = time.Now().Add(running)
		return
	}
	o.duty.since = time.Now()
	// Those that are paused are stopped once more, which changes nothing.
	_, _, _ = o.stop("", o.held) // without /proc nobody is held, and Throttled says so
	if len(o.held) == 0 {
		o.duty.since = time.Time{}
		o.duty.turn = time.Now().Add(period)
		return
	}
	o.duty.turn = o.duty.since.Add(period - running)
}

// release lets go what the duty cycle holds, and adds up the time.
func (o *owner) release() {
	if o.duty.since.IsZero() {
		return
	}
	for pid := range o.held {
		if !o.paused[pid] {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
	}
	clear(o.held)
	o.h.mu.Lock()
	o.h.held += time.Since(o.duty.since)
	o.h.mu.Unlock()
	o.duty.since = time.Time{}
}
