package engine

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspendedAtStart is what the kernel had slept before this process began.
var suspendedAtStart = kernelSlept()

// suspended is for how long the machine has slept since the process started:
// CLOCK_BOOTTIME counts suspend, CLOCK_MONOTONIC and Go's timers do not. It is
// a lower bound in whole milliseconds, so that two readings of two clocks never
// look like a sleep.
func suspended() int64 {
	return (kernelSlept() - suspendedAtStart) / int64(time.Millisecond) * int64(time.Millisecond)
}

func kernelSlept() int64 {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0 // kernels older than 2.6.39
	}
	return boot.Nano() - mono.Nano()
}
