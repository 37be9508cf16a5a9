// Package lint holds the tests that read the code instead of running it.
package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "holdfast.dev"

// layers says what each package may import: ours before the bar, others'
// modules after it. The standard library is open to all. It is a statement of policy: do not edit it to make a build pass. A
// package that is not listed fails the test.
const layers = `
.                  :                                  |
engine             : .                                | golang.org/x/sys
engine/enginetest  : . engine                         | github.com/google/go-cmp pgregory.net/rapid
engine/etcd        : . engine                         | go.etcd.io/etcd/api google.golang.org/grpc
engine/embed       : . engine engine/etcd             | go.etcd.io/etcd google.golang.org/grpc go.uber.org/zap github.com/prometheus
lock               : . engine internal/grant          |
election           : . engine internal/grant          |
membership         : . engine                         |
kv                 : . engine                         |
fence              : .                                |
client             : . engine lock election membership kv internal/gen internal/wire | connectrpc.com google.golang.org/protobuf
internal/grant     : . engine                         |
internal/gen       : internal/gen                     | connectrpc.com google.golang.org/protobuf
internal/wire      : . engine internal/gen            | connectrpc.com google.golang.org/protobuf
internal/cert      :                                  |
internal/server/auth : .                              | go.yaml.in/yaml
internal/server    : . engine lock election membership kv internal/gen internal/wire internal/cert internal/server/auth | connectrpc.com google.golang.org/protobuf github.com/prometheus go.opentelemetry.io/otel/trace golang.org/x/time
internal/access    : . client engine engine/etcd lock election membership kv internal/cert |
internal/cli       : .                                | github.com/alecthomas/kong
internal/config    : engine/etcd                      | github.com/alecthomas/kong go.yaml.in/yaml
internal/node      : . client engine engine/embed engine/etcd internal/server internal/cert internal/config | go.opentelemetry.io
internal/doctor    : . engine internal/cert internal/gen internal/wire | connectrpc.com google.golang.org/protobuf
internal/runner    :                                  |
internal/devcluster :                                 |
internal/lint      :                                  |
internal/simtest   : . engine                         |
internal/pgtest    :                                  | github.com/jackc/pgx
internal/stage     :                                  |
internal/strict    :                                  | go.yaml.in/yaml
internal/labtest   : internal/stage                   |
internal/drivertest : lab/driver lab/history          |
internal/call      : lab/driver lab/history           |
lab/netem          :                                  |
lab/history        :                                  |
lab/check          : lab/history lab/check/cycle      | github.com/anishathalye/porcupine
lab/check/cycle    :                                  |
lab/host           : internal/stage lab/vclock        | github.com/vishvananda/netlink golang.org/x/sys
lab/vswitch        : lab/netem                        | golang.org/x/sys
lab/dns            :                                  | golang.org/x/net/dns
lab/faultfs        : internal/stage                   | github.com/hanwen/go-fuse golang.org/x/sys
lab/vclock         : internal/stage                   | golang.org/x/sys
lab/nemesis        : lab/faultfs lab/netem lab/vclock |
lab/driver         : lab/history                      |
lab/driver/etcd    : lab/driver internal/call lab/history | go.etcd.io/etcd google.golang.org/grpc
lab/driver/redis   : lab/driver internal/call lab/history | github.com/redis/go-redis
lab/driver/postgres : lab/driver internal/call lab/history | github.com/jackc/pgx
lab/driver/holdfast : . internal/cert client engine lock election kv membership lab/driver internal/call lab/history |
lab/workload       : lab/check lab/driver lab/history |
lab/report         : lab/check lab/history            |
lab/scenarios      :                                  |
lab                : internal/stage internal/strict lab/check lab/dns lab/driver lab/driver/etcd lab/driver/redis lab/driver/postgres lab/driver/holdfast lab/faultfs lab/history lab/host lab/nemesis lab/netem lab/report lab/scenarios lab/vclock lab/vswitch lab/workload | go.yaml.in/yaml golang.org/x/sys
cmd/holdfast       : *                                | github.com/alecthomas/kong go.opentelemetry.io/otel
examples/fenced-ledger : . fence                      | github.com/jackc/pgx modernc.org/sqlite
examples/stampede  : . client engine lock internal/devcluster |
`

type rule struct{ ours, others []string }

// TestLayers reads the import clauses itself rather than asking "go list":
// go test keeps a result until a file that the test opened changes, and it
// cannot see what a subprocess opened.
func TestLayers(t *testing.T) {
	rules := map[string]rule{}
	for line := range strings.Lines(layers) {
		pkg, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		ours, others, _ := strings.Cut(rest, "|")
		rules[strings.TrimSpace(pkg)] = rule{strings.Fields(ours), strings.Fields(others)}
	}

	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".tmp", "testdata", "bench"}, d.Name()):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		pkg := path.Dir(rel)
		if strings.HasPrefix(pkg, "internal/gen/") {
			pkg = "internal/gen"
		}
		r, ok := rules[pkg]
		if !ok {
			t.Errorf("%s: %s is not in the layers table: say what it may import", rel, pkg)
			return nil
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := r.forbids(pkg, imp); why != "" {
				t.Errorf("%s: must not import %s: %s", rel, imp, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r rule) forbids(pkg, imp string) string {
	if imp == module {
		imp = module + "/."
	}
	name, ours := strings.CutPrefix(imp, module+"/")
	switch first, _, _ := strings.Cut(imp, "/"); {
	case ours:
		if strings.HasPrefix(name, "internal/gen/") {
			name = "internal/gen"
		}
		if slices.Contains(r.ours, "*") || slices.Contains(r.ours, name) {
			return ""
		}
		return "not below it"
	case imp == "testing" || strings.HasPrefix(imp, "testing/"):
		if strings.HasSuffix(pkg, "test") {
			return ""
		}
		return "test code in the product"
	case !strings.Contains(first, "."):
		return "" // the standard library
	}
	for _, o := range r.others {
		if imp == o || strings.HasPrefix(imp, o+"/") {
			return ""
		}
	}
	return "a dependency this package does not have"
}
