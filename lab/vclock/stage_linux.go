package vclock

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

func init() {
	stage.Register(ProbeStage, func([]string) int {
		if err := answerAll(os.NewFile(0, "stdin"), os.NewFile(1, "stdout")); err != nil {
			_, _ = fmt.Fprintln(os.NewFile(2, "stderr"), "holdfast: clock probe:", err)
			return 1
		}
		return 0
	})
}

// answerAll answers every line: with it, the offset of this process's wall clock
// from the machine's, how far that can be wrong, and when it was, in nanoseconds.
func answerAll(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		s, err := measure()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, lines.Text(), int64(s.Offset), int64(s.Error), s.Real.UnixNano(), int64(s.Mono)); err != nil {
			return err
		}
	}
	return lines.Err()
}

// measure reads the wall clock as programs do, by the vDSO, between two readings
// by the system call, which nothing moves. Of some tries the one is best that was
// interrupted the least.
func measure() (best Sample, err error) {
	for i := range 5 {
		var before, after, mono unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &before); err != nil {
			return Sample{}, fmt.Errorf("clock_gettime: %w", err)
		}
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
			return Sample{}, fmt.Errorf("clock_gettime: %w", err)
		}
		wall := time.Now().UnixNano()
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &after); err != nil {
			return Sample{}, fmt.Errorf("clock_gettime: %w", err)
		}
		half := (after.Nano() - before.Nano() + 1) / 2
		s := Sample{
			Offset: time.Duration(wall - before.Nano() - half),
			Error:  time.Duration(half),
			Real:   time.Unix(0, before.Nano()+half),
			Mono:   time.Duration(mono.Nano()),
		}
		if i == 0 || s.Error < best.Error {
			best = s
		}
	}
	return best, nil
}
