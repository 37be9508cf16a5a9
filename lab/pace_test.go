//go:build linux

package lab

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: a worker keeps its rate, and one that was late does not catch up.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(&Plan{Scenario: Scenario{Workload: Workload{Workers: 10, Rate: 100}}}, 0) // one in 100ms each
		begin, n := time.Now(), 0
		for time.Since(begin) < 10*time.Second {
			if !p.wait(t.Context()) {
				t.Fatal("ended")
			}
			n++
		}
		if n < 90 || n > 110 {
			t.Errorf("%d operations in 10s, want about 100", n)
		}
		sleep(t.Context(), 5*time.Second)
		begin, n = time.Now(), 0
		for time.Since(begin) < time.Second {
			p.wait(t.Context())
			n++
		}
		if n > 15 {
			t.Errorf("%d operations in the second after a pause: it catches up", n)
		}
	})
}
