//go:build linux

package host

import (
	"errors"
	"os"
	"testing"
	"time"

	"holdfast.dev/internal/stage"
)

func TestHost_ThrottleCgroup(t *testing.T) {
	h := up(t, "n1", 11)
	if h.group == nil {
		t.Fatal("root has no cgroup here")
	}
	throttle(t, h)
	dir := h.group.dir
	if err := h.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if h.Throttled() == 0 {
		t.Error("forgot for how long it was throttled")
	}
}

func TestHost_ThrottleDutyCycle(t *testing.T) {
	h := up(t, "n1", 11)
	group := h.group
	defer func() { h.group = group }()
	h.group = nil
	throttle(t, h)

	// What is paused stays so, whatever the cycle does.
	if err := h.Throttle(t.Context(), 0.5); err != nil {
		t.Fatal(err)
	}
	p := run(t, h, Process{Name: "paused", Argv: stage.Argv("test.spin")})
	if _, err := h.Pause(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	before, held := cpu(t, p.PID()), h.Throttled()
	until(t, "three cycles", func() bool { return h.Throttled() > held+150*time.Millisecond })
	if n := cpu(t, p.PID()) - before; n != 0 {
		t.Errorf("used %d ticks while paused", n)
	}
	if _, err := h.Resume(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs again", func() bool { return cpu(t, p.PID()) > before })
}

// throttle measures the CPU time of a process that wants a core and gets a
// twentieth: less than what a busy machine leaves it.
func throttle(t *testing.T, h *Host) {
	t.Helper()
	p := run(t, h, Process{Name: "spin", Argv: stage.Argv("test.spin")})
	for _, share := range []float64{-1, 0.001, 1e9} {
		if err := h.Throttle(t.Context(), share); err == nil {
			t.Errorf("share %v is allowed", share)
		}
	}
	if err := h.Throttle(t.Context(), 0.05); err != nil {
		t.Fatal(err)
	}
	begin, before := time.Now(), cpu(t, p.PID())
	<-time.NewTimer(2 * time.Second).C
	took, used := time.Since(begin), time.Duration(cpu(t, p.PID())-before)*10*time.Millisecond
	if share := used.Seconds() / took.Seconds(); share > 0.15 {
		t.Errorf("it used %.2f of a core instead of 0.05", share)
	}
	if got := h.Throttled(); got < took/10 {
		t.Errorf("held back for %v of %v", got, took)
	}
	if err := h.Throttle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	held := h.Throttled()
	before = cpu(t, p.PID())
	until(t, "it runs freely", func() bool { return cpu(t, p.PID()) > before+20 })
	if got := h.Throttled(); got > held+period {
		t.Errorf("held back for %v after the end", got-held)
	}
	if _, err := h.Kill(t.Context(), "spin"); err != nil {
		t.Error(err)
	}
}
