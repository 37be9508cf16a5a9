// Package strict reads YAML files that people write into Go structs: every
// fault is told with its file, line and field, and the same struct gives the
// JSON Schema for their editors. Struct tags: yaml as usual, doc describes the
// field, enum:"a,b" bounds its values, required:"true" says that it has to be there
// (the caller checks that).
package strict

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Decode fills v, a pointer to a struct, from YAML. Unknown fields, fields given twice and values
// of the wrong kind are errors that name file, line and field; all are reported
// at once.
func Decode(file string, src []byte, v any) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return inFile(file, err)
	}
	if len(doc.Content) == 0 {
		return fmt.Errorf("%s: is empty", file)
	}
	root := doc.Content[0]
	var errs []error
	checkNode(root, reflect.TypeOf(v).Elem(), "", func(line int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	})
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := root.Decode(v); err != nil {
		return inFile(file, err)
	}
	return nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

// inFile puts the file before each message of the parser, with its line where
// editors look for it.
func inFile(file string, err error) error {
	lines := []string{err.Error()}
	if many, ok := errors.AsType[*yaml.TypeError](err); ok {
		lines = many.Errors
	}
	var errs []error
	for _, l := range lines {
		if m := yamlLine.FindStringSubmatch(l); m != nil {
			hint := ""
			if strings.Contains(l, "cannot start any token") || strings.Contains(l, "did not find expected") {
				hint = "; look at the indentation here and in the lines that follow: blanks, no tabs"
			}
			errs = append(errs, fmt.Errorf("%s:%s: %s%s", file, m[1], l[len(m[0]):], hint))
		} else {
			errs = append(errs, fmt.Errorf("%s: %s", file, strings.TrimPrefix(l, "yaml: ")))
		}
	}
	return errors.Join(errs...)
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()
)

// checkNode compares a node with the type that it will be decoded into.
func checkNode(n *yaml.Node, t reflect.Type, path string, bad func(line int, format string, args ...any)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	at := func(field string) string { return strings.TrimPrefix(path+"."+field, ".") }
	switch {
	case n.Tag == "!!null":
		return
	case reflect.PointerTo(t).Implements(unmarshalerType):
		return
	case t == durationType:
		if _, err := time.ParseDuration(n.Value); err != nil || n.Kind != yaml.ScalarNode {
			bad(n.Line, "%s: %q is not a duration such as 500ms or 10s", path, n.Value)
		}
	case t.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			bad(n.Line, "%s: fields are expected here, one per line: %s", orRoot(path), strings.Join(fieldNames(t), ", "))
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			f, ok := fieldByName(t, key.Value)
			switch {
			case !ok:
				bad(key.Line, "%s: unknown field%s", at(key.Value), closest(key.Value, fieldNames(t)))
			case seen[key.Value]:
				bad(key.Line, "%s: is given twice", at(key.Value))
			default:
				checkNode(value, f.Type, at(key.Value), bad)
				if enum := f.Tag.Get("enum"); enum != "" && value.Kind == yaml.ScalarNode && value.Value != "" && !slices.Contains(strings.Split(enum, ","), value.Value) {
					bad(value.Line, "%s: %q: one of %s", at(key.Value), value.Value, strings.ReplaceAll(enum, ",", ", "))
				}
			}
			seen[key.Value] = true
		}
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			bad(n.Line, "%s: a list is expected here: lines that begin with a dash", path)
			return
		}
		for i, c := range n.Content {
			checkNode(c, t.Elem(), fmt.Sprintf("%s[%d]", path, i), bad)
		}
	case t.Kind() == reflect.Map:
		if n.Kind != yaml.MappingNode {
			bad(n.Line, "%s: names and values are expected here, one pair per line", path)
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			checkNode(n.Content[i+1], t.Elem(), at(n.Content[i].Value), bad)
		}
	default:
		if t.Kind() == reflect.String && n.Kind == yaml.ScalarNode {
			return // numbers and booleans without quotes are fine as text
		}
		whole := kindName(t) == "a whole number"
		if err := n.Decode(reflect.New(t).Interface()); err != nil || whole && n.Tag != "!!int" { // the decoder cuts fractions off
			bad(n.Line, "%s: %s is expected here", path, kindName(t))
		}
	}
}

func orRoot(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func kindName(t reflect.Type) string {
	switch t.Kind() { //nolint:exhaustive // the kinds that such structs have
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	default:
		return "a whole number"
	}
}

// fieldByName finds the field with the YAML name.
func fieldByName(t reflect.Type, name string) (reflect.StructField, bool) {
	for f := range fields(t) {
		if yamlName(f) == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for f := range fields(t) {
		names = append(names, yamlName(f))
	}
	return names
}

// fields yields the fields that YAML knows; those of inlined structs among
// their parent's.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			_, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if len(f.Index) > 1 || !f.IsExported() || yamlName(f) == "-" {
				continue
			}
			if strings.Contains(options, "inline") {
				for inner := range fields(f.Type) {
					if !yield(inner) {
						return
					}
				}
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if name == "" {
		name = strings.ToLower(f.Name)
	}
	return name
}

// closest is a hint at the name that was probably meant, or at all of them.
func closest(name string, names []string) string {
	best, distance := "", 3
	for _, n := range names {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best != "" {
		return ": did you mean " + best + "?"
	}
	return ": there are " + strings.Join(names, ", ")
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
