package strict

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Every time.Duration `yaml:"every" doc:"How often."`
	Mode  string        `yaml:"mode" enum:"fast,slow"`
}

type outer struct {
	Name    string            `yaml:"name" required:"true" doc:"What it is called."`
	Count   int               `yaml:"count"`
	Share   float64           `yaml:"share"`
	On      bool              `yaml:"on"`
	Inner   *inner            `yaml:"inner"`
	List    []inner           `yaml:"list"`
	Options map[string]string `yaml:"options"`
}

func TestDecode(t *testing.T) {
	src := `
name: x
count: 3
share: 0.5
on: true
inner: {every: 10s, mode: fast}
list:
  - every: 1m
options: {a: 1, b: true}
`
	var got outer
	if err := Decode("f.yaml", []byte(src), &got); err != nil {
		t.Fatal(err)
	}
	want := outer{
		Name: "x", Count: 3, Share: 0.5, On: true, Inner: &inner{10 * time.Second, "fast"},
		List: []inner{{Every: time.Minute}}, Options: map[string]string{"a": "1", "b": "true"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// What the text does not name stays.
	if err := Decode("f.yaml", []byte("inner: {mode: slow}\noptions: {c: z}"), &got); err != nil {
		t.Fatal(err)
	}
	want.Inner.Mode = "slow"
	want.Options["c"] = "z"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDecode_TellsLineAndField(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"unknown field", "name: x\ncuont: 3", "f.yaml:2: cuont: unknown field: did you mean count?"},
		{"nothing near", "name: x\nzzzzzz: 3", "f.yaml:2: zzzzzz: unknown field: there are name, count, share, on, inner, list, options"},
		{"nested", "list:\n  - every: 1s\n    mood: 1", "f.yaml:3: list[0].mood: unknown field: did you mean mode?"},
		{"duration", "inner:\n  every: soon", `f.yaml:2: inner.every: "soon" is not a duration such as 500ms or 10s`},
		{"number", "count: many", "f.yaml:1: count: a whole number is expected here"},
		{"fraction", "count: 1.5", "f.yaml:1: count: a whole number is expected here"},
		{"share", "share: x", "f.yaml:1: share: a number is expected here"},
		{"boolean", "on: maybe", "f.yaml:1: on: true or false is expected here"},
		{"enum", "inner: {mode: quick}", `f.yaml:1: inner.mode: "quick": one of fast, slow`},
		{"twice", "name: a\nname: b", `f.yaml:2: name: is given twice`},
		{"list", "list: 3", "f.yaml:1: list: a list is expected here: lines that begin with a dash"},
		{"struct", "inner: 3", "f.yaml:1: inner: fields are expected here, one per line: every, mode"},
		{"map", "options: [a]", "f.yaml:1: options: names and values are expected here, one pair per line"},
		{"text of many lines", "name: [a]", "f.yaml:1: name: text is expected here"},
		{"root", "- a", "f.yaml:1: the file: fields are expected here, one per line: name, count, share, on, inner, list, options"},
		{"empty", "# nothing\n", "f.yaml: is empty"},
		{"tabs", "inner:\n\tmode: fast", "f.yaml:2: found character that cannot start any token; look at the indentation"},
		{"syntax", "name: \"x", "f.yaml: found unexpected end of stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Decode("f.yaml", []byte(c.src), &outer{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestDecode_TellsEverythingAtOnce(t *testing.T) {
	err := Decode("f.yaml", []byte("a: 1\nb: 2\ncount: x"), &outer{})
	if n := len(strings.Split(err.Error(), "\n")); n != 3 {
		t.Errorf("%d lines, want 3:\n%v", n, err)
	}
}

func TestSchema(t *testing.T) {
	var s struct {
		Properties map[string]struct {
			Type        any
			Description string
		}
		Required             []string
		AdditionalProperties bool
	}
	if err := json.Unmarshal(Schema(reflect.TypeFor[outer](), "test"), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Properties) != 7 || s.Properties["name"].Description != "What it is called." || s.Properties["count"].Type != "integer" {
		t.Errorf("properties: %+v", s.Properties)
	}
	if len(s.Required) != 1 || s.Required[0] != "name" || s.AdditionalProperties {
		t.Errorf("required %v, additional %v", s.Required, s.AdditionalProperties)
	}
}
