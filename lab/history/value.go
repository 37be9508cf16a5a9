package history

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
)

// wholeFloat is the bound below which every whole float64 is itself and
// nothing else.
const wholeFloat = 1 << 53

// maxDepth bounds how deep values nest, so that no file can exhaust the stack.
const maxDepth = 200

// Normalize brings a value into the form that Read gives and checkers rely on:
// nil, bool, int64, float64, string, []any or map[string]any. Whole numbers of
// any Go type become int64, floats too where that loses nothing; []byte becomes
// string; other slices, arrays, maps with keys of strings or integers and
// pointers are followed. What cannot be said in JSON is an error: NaN,
// infinities, integers beyond 64 bits, functions, structs.
func Normalize(v any) (any, error) { return normalize(v, 0) }

func normalize(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value nests deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case nil, bool, string, int64:
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		return normalFloat(v)
	case []byte:
		return string(v), nil
	case json.Number:
		return number(string(v))
	case []any:
		return normalSlice(reflect.ValueOf(v), depth)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			n, err := normalize(e, depth+1)
			if err != nil {
				return nil, err
			}
			out[k] = n
		}
		return out, nil
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() { //nolint:exhaustive // the rest is the error below
	case reflect.Bool:
		return rv.Bool(), nil
	case reflect.String:
		return rv.String(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if rv.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("value %d does not fit 64 bits with a sign", rv.Uint())
		}
		return int64(rv.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return normalFloat(rv.Float())
	case reflect.Pointer, reflect.Interface:
		if rv.IsNil() {
			return nil, nil //nolint:nilnil // nil is a value
		}
		return normalize(rv.Elem().Interface(), depth+1)
	case reflect.Slice, reflect.Array:
		return normalSlice(rv, depth)
	case reflect.Map:
		out := make(map[string]any, rv.Len())
		for it := rv.MapRange(); it.Next(); {
			k, err := normalize(it.Key().Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			switch k.(type) {
			case string, int64:
			default:
				return nil, fmt.Errorf("value has a %T as a key of a map", it.Key().Interface())
			}
			n, err := normalize(it.Value().Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			out[fmt.Sprint(k)] = n
		}
		return out, nil
	default:
		return nil, fmt.Errorf("value of type %T has no form in a history", v)
	}
}

func normalSlice(rv reflect.Value, depth int) (any, error) {
	out := make([]any, rv.Len())
	for i := range out {
		n, err := normalize(rv.Index(i).Interface(), depth+1)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

func normalFloat(f float64) (any, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil, fmt.Errorf("value %v has no form in a history", f)
	case f == math.Trunc(f) && math.Abs(f) <= wholeFloat:
		return int64(f), nil
	default:
		return f, nil
	}
}
