package report

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// number groups digits by narrow blanks that do not break.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "−", s[1:]
	}
	if len(s) <= 4 {
		return sign + s
	}
	var b strings.Builder
	b.WriteString(sign)
	for i, r := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// span writes a duration in its three or so most significant digits.
func span(d time.Duration) string {
	switch a := abs(d); {
	case a == math.MaxInt64:
		return "for ever"
	case a == 0:
		return "0 s"
	case a < time.Microsecond:
		return digits(float64(d)) + " ns"
	case a < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case a < time.Second:
		return digits(float64(d)/1e6) + " ms"
	case a < 100*time.Second:
		return digits(d.Seconds()) + " s"
	case a < time.Hour:
		return strings.TrimSuffix(fmt.Sprintf("%d min %02d s", int64(d/time.Minute), int64(a/time.Second)%60), " 00 s")
	case a < 48*time.Hour:
		return strings.TrimSuffix(fmt.Sprintf("%d h %02d min", int64(d/time.Hour), int64(a/time.Minute)%60), " 00 min")
	}
	return number(int64(d.Hours()/24)) + " days"
}

func abs(d time.Duration) time.Duration {
	switch {
	case d == math.MinInt64:
		return math.MaxInt64
	case d < 0:
		return -d
	}
	return d
}

// signed is span with a sign always.
func signed(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d > 0:
		return "+" + span(d)
	}
	return "−" + span(abs(d))
}

func digits(f float64) string {
	switch a := math.Abs(f); {
	case a >= 99.95:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case a >= 9.995:
		return trim(strconv.FormatFloat(f, 'f', 1, 64))
	}
	return trim(strconv.FormatFloat(f, 'f', 2, 64))
}

func trim(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// instant is a moment of the run.
func instant(d time.Duration) string {
	if abs(d) < 100*time.Second {
		return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + " s"
	}
	return clockTime(d)
}

func clockTime(d time.Duration) string {
	s := int64(d / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

func size(n int64) string {
	f, unit := float64(n), 0
	for units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}; ; unit++ {
		if math.Abs(f) < 1000 || unit == len(units)-1 {
			return digits(f) + " " + units[unit]
		}
		f /= 1000
	}
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "0 %"
	}
	p := 100 * float64(part) / float64(whole)
	if p > 0 && p < 0.01 {
		return "< 0.01 %"
	}
	return digits(p) + " %"
}

// cleanAll cleans every string in a value, in place.
func cleanAll(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // others hold no strings
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return
		}
		if v.Kind() == reflect.Interface {
			c := reflect.New(v.Elem().Type()).Elem()
			c.Set(v.Elem())
			cleanAll(c)
			if v.CanSet() {
				v.Set(c)
			}
			return
		}
		cleanAll(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			cleanAll(v.Field(i))
		}
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k >= reflect.Int && k <= reflect.Float64 {
			return
		}
		for i := range v.Len() {
			cleanAll(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(key))
			cleanAll(e)
			k := reflect.New(v.Type().Key()).Elem()
			k.Set(key)
			cleanAll(k)
			v.SetMapIndex(key, reflect.Value{})
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		v.SetString(clean(v.String()))
	}
}
