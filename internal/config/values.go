package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Setting is a value that keeps what was written when it cannot be read, so
// that one wrong value does not hide the others. T's parser is chosen by
// [Setting.UnmarshalText].
type Setting[T time.Duration | int64 | Bytes] struct {
	Value T
	fault error
}

// Bytes is a number of bytes; it is written as 1048576, 1MiB or 2GiB.
type Bytes int64

// UnmarshalText reads the value; a wrong one is reported by the struct's
// Validate and not here.
func (s *Setting[T]) UnmarshalText(b []byte) error {
	text := string(b)
	s.fault = nil
	switch v := any(&s.Value).(type) {
	case *time.Duration:
		*v, s.fault = time.ParseDuration(text)
		if s.fault != nil {
			s.fault = fmt.Errorf("%q is not a duration, as in 500ms, 10s or 1h30m", text)
		}
	case *int64:
		*v, s.fault = strconv.ParseInt(text, 10, 64)
		if s.fault != nil {
			s.fault = fmt.Errorf("%q is not a whole number", text)
		}
	case *Bytes:
		*v, s.fault = parseBytes(text)
	}
	return nil
}

// MarshalText writes the value as it may stand in the file.
func (s Setting[T]) MarshalText() ([]byte, error) { return fmt.Append(nil, s.Value), nil }

// String is the value as it may stand in the file.
func (s Setting[T]) String() string { return fmt.Sprint(s.Value) }

var units = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

func parseBytes(s string) (Bytes, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	unit, known := units[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 0 || n > 1<<62/unit {
		return 0, fmt.Errorf("%q is not a size, as in 512MiB or 2GiB", s)
	}
	return Bytes(n * unit), nil
}

// String is the number in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if b != 0 && int64(b)%units[u] == 0 {
			return strconv.FormatInt(int64(b)/units[u], 10) + u
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// faults collects what is wrong, each with where the value came from.
type faults struct {
	sources *Sources
	list    []error
}

// add reports a fault of the named setting.
func (f *faults) add(name, format string, args ...any) {
	f.list = append(f.list, fmt.Errorf("%s: %s", f.sources.Origin(name), fmt.Sprintf(format, args...)))
}

func (f *faults) join() error { return errors.Join(f.list...) }

// check reports a setting that could not be read, or is out of its bounds.
func check[T time.Duration | int64 | Bytes](f *faults, name string, s Setting[T], low, high T) {
	switch {
	case s.fault != nil:
		f.add(name, "%v", s.fault)
	case s.Value < low || s.Value > high:
		f.add(name, "%v: want %v to %v", s.Value, low, high)
	}
}
