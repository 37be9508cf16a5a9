package driver

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"text/template"
)

// TemplateData is what the templates of ExecConfig see. Besides the functions
// of text/template there are join (join .Nodes ","), json, addr (addr "n2") and
// abs (abs "build/server": a path from where the lab was started).
type TemplateData struct {
	Node    string   // this host; for clients the one they talk to
	Addr    string   // its address
	Index   int      // its place among the nodes, from 0
	Nodes   []string // all hosts of the system
	Peers   []string // all but this one
	LabAddr string   // address of the lab
	DataDir string   // the host's data directory
	LogDir  string   // and its directory for logs

	env Env // nil when templates are only tried
}

// Option is a setting of the driver from the scenario; one that is not given is
// an error.
func (d TemplateData) Option(name string) (string, error) {
	if d.env == nil {
		return name, nil
	}
	v := d.env.Option(name)
	if v == "" {
		return "", fmt.Errorf("option %s is not given: set system.options.%s", name, name)
	}
	return v, nil
}

// requestData is what the templates of requests see.
type requestData struct {
	TemplateData

	F       string
	Key     string
	Value   any
	Process int
}

// actionData is what the templates of actions see.
type actionData struct {
	TemplateData

	Args []string
}

// templateData is a host as templates see it.
func templateData(env Env, node string) TemplateData {
	d := TemplateData{
		Node: node, Addr: env.Addr(node).String(), Index: -1,
		Nodes: env.Nodes(), LabAddr: env.LabAddr().String(),
		DataDir: env.DataDir(node), LogDir: env.LogDir(node),
		env: env,
	}
	for i, n := range d.Nodes {
		if n == node {
			d.Index = i
		} else {
			d.Peers = append(d.Peers, n)
		}
	}
	return d
}

// sampleData is for trying templates before there is a world.
func sampleData() TemplateData {
	return TemplateData{
		Node: "n1", Addr: "10.77.0.11", Nodes: []string{"n1", "n2", "n3"}, Peers: []string{"n2", "n3"},
		LabAddr: "10.77.0.1", DataDir: "/data", LogDir: "/log",
	}
}

func parseTemplate(text string, env Env) (*template.Template, error) {
	addr := func(host string) (string, error) {
		if env == nil {
			return "10.77.0.11", nil
		}
		a := env.Addr(host)
		if a == (netip.Addr{}) {
			return "", fmt.Errorf("there is no host %s", host)
		}
		return a.String(), nil
	}
	abs := filepath.Abs
	if e, ok := env.(specEnv); ok { // a client's own process runs elsewhere
		abs = func(file string) (string, error) {
			if filepath.IsAbs(file) {
				return filepath.Clean(file), nil
			}
			return filepath.Join(e.spec.Dir, file), nil
		}
	}
	return template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"join": strings.Join,
		"addr": addr,
		"abs":  abs,
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
	}).Parse(text)
}

// expand fills a template in. data is TemplateData or has it embedded.
func expand(text string, env Env, data any) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := parseTemplate(text, env)
	if err != nil {
		return "", fmt.Errorf("template %q: %w", text, err)
	}
	var out strings.Builder
	if err := t.Execute(&out, data); err != nil {
		if m := noField.FindStringSubmatch(err.Error()); m != nil {
			return "", fmt.Errorf("template %q: there is no .%s: there are %s", text, m[1], strings.Join(fieldsOf(data), ", "))
		}
		return "", fmt.Errorf("template %q: %w", text, err)
	}
	return out.String(), nil
}

// expandAll fills templates in.
func expandAll(texts []string, env Env, data any) ([]string, error) {
	out := make([]string, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = expand(text, env, data); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// noField is how text/template says that a name is unknown.
var noField = regexp.MustCompile(`can't evaluate field (\w+) in type driver\.`)

// fieldsOf are the names that a template can use with data.
func fieldsOf(data any) []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(data)) {
		if f.IsExported() && !f.Anonymous {
			names = append(names, "."+f.Name)
		}
	}
	return names
}
