package call

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/lab/driver"
)

// Options reads a driver's settings and collects what is wrong with them.
type Options struct {
	env  driver.Env
	errs []error
}

// NewOptions reads the settings of a world.
func NewOptions(env driver.Env) *Options { return &Options{env: env} }

// Names are the settings that read asks for, sorted.
func Names(read func(driver.Env)) []string {
	a := asked{names: map[string]bool{}}
	read(a)
	return slices.Sorted(maps.Keys(a.names))
}

// asked is a world of one node that notes which settings are asked for.
type asked struct {
	driver.Env
	names map[string]bool
}

func (a asked) Nodes() []string { return []string{"n1"} }

func (a asked) Option(name string) string {
	a.names[name] = true
	return ""
}

// Err is everything that was wrong so far.
func (o *Options) Err() error { return errors.Join(o.errs...) }

func (o *Options) wrong(name, text, want string) {
	o.errs = append(o.errs, fmt.Errorf("option %s: %q: want %s", name, text, want))
}

// Text is a setting as it is.
func (o *Options) Text(name, def string) string {
	if s := o.env.Option(name); s != "" {
		return s
	}
	return def
}

// Choice is one of several words.
func (o *Options) Choice(name, def string, others ...string) string {
	s := o.Text(name, def)
	if all := append([]string{def}, others...); !slices.Contains(all, s) {
		o.wrong(name, s, "one of "+strings.Join(all, ", "))
	}
	return s
}

// Int is a whole number of at least low.
func (o *Options) Int(name string, def, low int) int {
	s := o.env.Option(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low {
		o.wrong(name, s, fmt.Sprintf("a number of at least %d", low))
	}
	return n
}

// Duration is a positive duration such as "500ms".
func (o *Options) Duration(name string, def time.Duration) time.Duration {
	s := o.env.Option(name)
	if s == "" {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		o.wrong(name, s, "a duration, such as 500ms")
	}
	return d
}

// Bool is true or false.
func (o *Options) Bool(name string, def bool) bool {
	s := o.env.Option(name)
	if s == "" {
		return def
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		o.wrong(name, s, "true or false")
	}
	return b
}

// WriteFile writes a file so that a power failure right afterwards does not
// take it.
func WriteFile(name string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// MakeDir makes a directory that a power failure right afterwards does not take.
func MakeDir(name string, perm os.FileMode) error {
	if err := os.MkdirAll(name, perm); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir makes the names in a directory durable.
func SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
