//go:build linux

package vswitch

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/lab/netem"
)

var both = []Link{{"n0", "n1"}, {"n1", "n0"}}

// roundTrip sends a byte and waits for it.
func roundTrip(t *testing.T, c net.Conn, within time.Duration) (time.Duration, error) {
	t.Helper()
	start := time.Now()
	if err := c.SetDeadline(start.Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return time.Since(start), err
}

func apply(t *testing.T, s *Switch, links []Link, m Match, im netem.Impairment) *Applied {
	t.Helper()
	a, err := s.Apply(links, m, im)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Remove)
	return a
}

// TestTAP_TCP: real stacks, real sockets, and each kind of fault as they see it.
func TestTAP_TCP(t *testing.T) {
	s, h := spaces(t, 3, Config{Seed: 1, Late: time.Second}) // this machine may be busy; the test is not about that
	at := h[1].echo(t)
	dial := func() net.Conn {
		t.Helper()
		c, err := h[0].dial(t, at, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	if _, err := roundTrip(t, c, 10*time.Second); err != nil {
		t.Fatal(err)
	}

	t.Run("delay", func(t *testing.T) {
		a := apply(t, s, both, Match{}, netem.Impairment{Delay: 20 * time.Millisecond})
		for range 3 {
			if d, err := roundTrip(t, c, 10*time.Second); err != nil || d < 40*time.Millisecond {
				t.Errorf("round trip took %v, %v; want at least 40ms", d, err)
			}
		}
		if n := a.Touched(); n < 6 {
			t.Errorf("touched %d frames, want at least 6", n)
		}
		a.Remove()
		best := time.Hour
		for range 20 {
			d, err := roundTrip(t, c, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			best = min(best, d)
		}
		if best > 20*time.Millisecond {
			t.Errorf("round trip still takes %v after the rule was removed", best)
		}
	})

	t.Run("loss and corruption", func(t *testing.T) {
		a := apply(t, s, both, Match{Proto: "tcp"}, netem.Impairment{Loss: 0.05, Corrupt: 0.05, Duplicate: 0.05})
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<13)
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() {
			_, err := c.Write(sent)
			failed <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent, got) {
			t.Error("TCP delivered other bytes: the checksum was not broken")
		}
		if n := a.Counters(); n.DroppedLoss == 0 || n.Corrupted == 0 || n.Duplicated == 0 {
			t.Errorf("counters %+v: the rule did nothing", n)
		}
		a.Remove()
	})

	t.Run("corruption that passes the checksum", func(t *testing.T) {
		a := apply(t, s, []Link{{"n0", "n1"}}, Match{Proto: "tcp"}, netem.Impairment{Corrupt: 1, FixChecksum: true})
		c := dial()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(got, make([]byte, 100)) || a.Counters().Corrupted == 0 {
			t.Errorf("the application did not see the corruption: %x, %+v", got, a.Counters())
		}
		a.Remove()
	})

	t.Run("one way cut", func(t *testing.T) {
		a := apply(t, s, []Link{{"n1", "n0"}}, Match{}, netem.Impairment{Cut: netem.Stopped})
		if _, err := roundTrip(t, c, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("round trip over a cut: %v", err)
		}
		if n := a.Counters(); n.DroppedCut == 0 || n.DroppedCut != n.Touched {
			t.Errorf("counters %+v: want frames that were cut, and all of them touched", n)
		}
		a.Remove()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("the byte is not delivered after the cut: %v", err)
		}
	})

	t.Run("black hole for new connections", func(t *testing.T) {
		a := apply(t, s, both, Match{SYN: true}, netem.Impairment{Cut: netem.Stopped})
		if _, err := h[0].dial(t, at, 300*time.Millisecond); err == nil || !err.(net.Error).Timeout() { //nolint:errorlint // Dial promises it
			t.Errorf("dial through a black hole: %v", err)
		}
		if _, err := roundTrip(t, c, 10*time.Second); err != nil {
			t.Errorf("the old connection has to live: %v", err)
		}
		if a.Touched() == 0 {
			t.Error("no SYN was touched")
		}
		a.Remove()
	})

	t.Run("reset", func(t *testing.T) {
		other, err := h[2].dial(t, at, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.Reset(both); err != nil || n < 1 {
			t.Fatalf("reset %d connections: %v", n, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read after a reset: %v", err)
		}
		if _, err := roundTrip(t, other, 10*time.Second); err != nil {
			t.Errorf("a connection of another link: %v", err)
		}
		if n, err := s.Reset(both); err != nil || n != 0 {
			t.Errorf("reset again %d connections, %v: want none", n, err)
		}
	})

	if h := s.Health(); h.Overruns != 0 {
		t.Errorf("health %+v", h)
	}
	for _, c := range s.Counters() {
		t.Logf("%+v", c)
	}
}
