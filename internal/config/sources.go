package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// Sources gives kong the values of flags that were not on the command line.
// It is used for one command line and by one goroutine.
type Sources struct {
	lookup func(string) (string, bool)
	name   string // of the file
	file   map[string]entry
	used   map[string]string // flag name to where its value came from
	faults []error
}

// entry is one key of the file.
type entry struct {
	line  int
	value string
}

// NewSources resolves from the environment alone.
func NewSources(lookup func(string) (string, bool)) *Sources {
	return &Sources{lookup: lookup, used: map[string]string{}}
}

// EnvName is the environment variable of a flag.
func EnvName(flag string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// FromEnv says whether the environment may set a flag.
func FromEnv(f *kong.Flag) bool { return fromTag(f, "env") }

func fromTag(f *kong.Flag, source string) bool {
	return f.Tag != nil && slices.Contains(strings.Split(f.Tag.Get("from"), ","), source)
}

// File adds the settings of a YAML file. A file that cannot be read as one
// mapping of scalars, lists of scalars and mappings of scalars is a fault, as
// is a key that none of flags has; see [Sources.Faults].
func (s *Sources) File(name string, data []byte, flags []*kong.Flag) {
	s.name = name
	s.file = map[string]entry{}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		s.fault("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		s.fault("%s:%d: want settings as \"name: value\"", name, top.Line)
		return
	}
	var known []string
	for _, f := range flags {
		if fromTag(f, "file") {
			known = append(known, f.Name)
		}
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if !slices.Contains(known, key.Value) {
			s.fault("%s:%d: unknown key %q%s", name, key.Line, key.Value, nearest(key.Value, known))
			continue
		}
		if before, twice := s.file[key.Value]; twice {
			s.fault("%s:%d: %s stands on line %d already", name, key.Line, key.Value, before.line)
			continue
		}
		text, err := flatten(value)
		if err != nil {
			s.fault("%s:%d: %s: %v", name, value.Line, key.Value, err)
			continue
		}
		s.file[key.Value] = entry{line: key.Line, value: text}
	}
}

// flatten makes one word of a scalar, a list or a mapping, as on the command line.
func flatten(n *yaml.Node) (string, error) {
	errShape := errors.New("want a value, a list of values or a mapping of names to values")
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", nil
		}
		return n.Value, nil
	case yaml.SequenceNode:
		var words []string
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				return "", errShape
			}
			words = append(words, c.Value)
		}
		return strings.Join(words, ","), nil
	case yaml.MappingNode:
		var words []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i+1].Kind != yaml.ScalarNode {
				return "", errShape
			}
			words = append(words, n.Content[i].Value+"="+n.Content[i+1].Value)
		}
		return strings.Join(words, ","), nil
	case yaml.DocumentNode, yaml.AliasNode:
	}
	return "", errShape
}

func (s *Sources) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Errorf(format, args...))
}

// Faults are what is wrong with the file and with values of switches, joined.
func (s *Sources) Faults() error { return errors.Join(s.faults...) }

// Validate is part of kong.Resolver.
func (s *Sources) Validate(*kong.Application) error { return nil }

// Resolve is part of kong.Resolver: the environment's value, or the file's.
func (s *Sources) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	if v, ok := s.lookup(EnvName(f.Name)); ok && v != "" && fromTag(f, "env") {
		return s.take(f, v, EnvName(f.Name)), nil
	}
	if e, ok := s.file[f.Name]; ok && fromTag(f, "file") {
		return s.take(f, e.value, fmt.Sprintf("%s:%d: %s", s.name, e.line, f.Name)), nil
	}
	return nil, nil // kong's word for "not here"
}

// take remembers where a value came from. A value that kong would refuse at
// once, hiding the other faults, is reported here and left out.
func (s *Sources) take(f *kong.Flag, value, origin string) any {
	s.used[f.Name] = origin
	probe := reflect.New(f.Target.Type()).Elem()
	err := f.Mapper.Decode(&kong.DecodeContext{Value: f.Value, Scan: kong.Scan().PushTyped(value, kong.FlagValueToken)}, probe)
	if err == nil && f.Enum != "" && !slices.Contains(strings.Split(f.Enum, ","), value) {
		err = fmt.Errorf("%q: want one of %s", value, strings.ReplaceAll(f.Enum, ",", ", "))
	}
	if err != nil {
		s.fault("%s: %v", origin, err)
		return nil
	}
	return value
}

// Origin is where the value of a setting stands, to be shown before a fault.
func (s *Sources) Origin(name string) string {
	if o, ok := s.used[name]; ok {
		return o
	}
	return "--" + name
}

// nearest names the known word that was probably meant.
func nearest(word string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := distance(word, k); d < at {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is Levenshtein's: how many letters to insert, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
