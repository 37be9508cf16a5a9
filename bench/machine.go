package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Memory string    `json:"memory"`
	Kernel string    `json:"kernel"`
	Go     string    `json:"go"`
	Date   time.Time `json:"date"`
	Load   string    `json:"load_before"`   // average of one minute: what else ran
	Sync   float64   `json:"sync_ms_4kib"`  // a write of 4 KiB and its fdatasync, median
	Dir    string    `json:"dir,omitempty"` // where the data was
}

// inspect describes this machine, and how fast its disk syncs below dir.
func inspect(dir string) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Truncate(time.Second), CPU: runtime.GOARCH}
	m.CPU = field("/proc/cpuinfo", "model name", m.CPU)
	m.Memory = field("/proc/meminfo", "MemTotal", "unknown")
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(b), " ")
	}
	var err error
	m.Sync, err = syncTime(dir)
	return m, err
}

// field finds "name: value" in a file of /proc.
func field(file, name, otherwise string) string {
	b, _ := os.ReadFile(file) // not there on other systems
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return otherwise
}

// syncTime is how long it takes to write 4 KiB safely, in milliseconds.
func syncTime(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // its content does not matter
	block := make([]byte, 4<<10)
	var times []float64
	for range 100 {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, milliseconds(time.Since(start)))
	}
	return median(times), nil
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s memory, %s, %s; 4 KiB synced in %s ms; load before %s; %s",
		m.CPU, m.Cores, m.Memory, m.Kernel, m.Go, number(m.Sync), m.Load, m.Date.Format(time.DateOnly))
}

// usage is what a process has used.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
}

// usageOf reads it from /proc.
func usageOf(pid int) (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	// The command's name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const user, system, resident = 11, 12, 21 // counted from the state
	if len(fields) <= resident {
		return usage{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	var n [3]int64
	for i, f := range []int{user, system, resident} {
		if n[i], err = strconv.ParseInt(fields[f], 10, 64); err != nil {
			return usage{}, err
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return usage{cpu: time.Duration(n[0]+n[1]) * tick, resident: n[2] * int64(os.Getpagesize())}, nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
