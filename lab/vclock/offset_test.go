package vclock

import (
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestOffsetBounds(t *testing.T) {
	for _, o := range []Offset{
		{}, {Jump: MaxJump, Drift: MaxDrift}, {Jump: -MaxJump, Drift: -MaxDrift}, {Drift: 1e-12}, {Jump: 1},
	} {
		if err := o.check(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []Offset{
		{Jump: MaxJump + 1},
		{Jump: -MaxJump - 1},
		{Jump: math.MinInt64},
		{Drift: math.Nextafter(MaxDrift, 2000)},
		{Drift: -1001},
		{Drift: math.NaN()},
		{Drift: math.Inf(1)},
		{Drift: math.Inf(-1)},
	} {
		if err := o.check(); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestSettings(t *testing.T) {
	if s := settingsOf(Offset{}, 42); s != (settings{}) {
		t.Errorf("a clock that is right is moved: %+v", s)
	}
	if s := settingsOf(Offset{Drift: 1e-20}, 42); s != (settings{}) {
		t.Errorf("a drift of nothing moves a clock: %+v", s)
	}
	want := settings{jump: -5, since: 42, drift: -1 << (driftShift - 1), mask: wallClocks}
	if s := settingsOf(Offset{Jump: -5, Drift: -0.5}, 42); s != want {
		t.Errorf("settings %+v, want %+v", s, want)
	}
}

// TestAt compares with numbers of any size.
func TestAt(t *testing.T) {
	for _, tc := range []struct {
		o       Offset
		elapsed time.Duration
		want    time.Duration
	}{
		{Offset{}, time.Hour, 0},
		{Offset{Jump: time.Second}, time.Hour, time.Second},
		{Offset{Drift: 0.5}, time.Hour, 30 * time.Minute},
		{Offset{Drift: -1}, time.Hour, -time.Hour},
		{Offset{Jump: -time.Second, Drift: 1}, time.Minute, 59 * time.Second},
		{Offset{Drift: 0.0005}, 30 * 24 * time.Hour, 1296 * time.Second},
	} {
		if got := tc.o.At(tc.elapsed); got < tc.want-10 || got > tc.want+10 {
			t.Errorf("%+v after %v: %v, want %v", tc.o, tc.elapsed, got, tc.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		o := Offset{
			Jump:  time.Duration(rapid.Int64Range(int64(-MaxJump), int64(MaxJump)).Draw(t, "jump")),
			Drift: rapid.Float64Range(-MaxDrift, MaxDrift).Draw(t, "drift"),
		}
		days := rapid.Int64Range(int64(-time.Hour), int64(60*24*time.Hour)).Draw(t, "elapsed")
		s := settingsOf(o, 0)
		want := new(big.Int).Mul(big.NewInt(s.drift), big.NewInt(days))
		want.Rsh(want, driftShift) // rounds down, as the shim does
		want.Add(want, big.NewInt(int64(o.Jump)))
		if !want.IsInt64() {
			t.Fatalf("%+v overflows after %v", o, time.Duration(days))
		}
		if got := o.At(time.Duration(days)); int64(got) != want.Int64() {
			t.Fatalf("%+v after %v: %d, want %d", o, time.Duration(days), got, want)
		}
	})
}
