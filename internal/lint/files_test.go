package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxLines = 800 // of one file
	maxFiles = 15  // of one package, tests not counted
)

// crowded are the packages that may have more than maxFiles, and why.
var crowded = map[string]string{
	"engine": "the interface, sessions on it and the in-memory engine need one another's internals",
}

// leftOver matches the words that mark unfinished work. They are spelt with a
// gap here, so that this file does not match itself.
var leftOver = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|not impl` + `emented`)

// sources calls f with every file of ours that has one of the extensions; rel
// is its path from the root of the module.
func sources(t *testing.T, exts []string, f func(rel string, src []byte)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case d.IsDir() && (slices.Contains([]string{".git", ".tmp"}, d.Name()) || rel == "internal/gen"):
			return fs.SkipDir
		case d.IsDir() || !slices.Contains(exts, filepath.Ext(file)):
			return nil
		}
		src, err := os.ReadFile(file)
		if err == nil {
			f(rel, src)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFiles_SmallEnoughToRead keeps files and packages at a size one can hold
// in mind. Commands are exempt from the second limit: one file per command.
func TestFiles_SmallEnoughToRead(t *testing.T) {
	files := map[string]int{}
	sources(t, []string{".go"}, func(rel string, src []byte) {
		if n := bytes.Count(src, []byte("\n")); n > maxLines {
			t.Errorf("%s: %d lines, at most %d: split it by ideas", rel, n, maxLines)
		}
		if !strings.HasSuffix(rel, "_test.go") {
			files[path.Dir(rel)]++
		}
	})
	for pkg, n := range files {
		if n > maxFiles && crowded[pkg] == "" && !strings.HasPrefix(pkg, "cmd/") {
			t.Errorf("%s: %d files, at most %d: split the package by ideas", pkg, n, maxFiles)
		}
	}
}

// TestFiles_NothingLeftOver: unfinished work belongs into an issue.
func TestFiles_NothingLeftOver(t *testing.T) {
	sources(t, []string{".go", ".md", ".proto", ".html", ".sh", ".yml", ".yaml"}, func(rel string, src []byte) {
		for i, line := range bytes.Split(src, []byte("\n")) {
			if m := leftOver.Find(line); m != nil {
				t.Errorf("%s:%d: %s: do it, or open an issue and delete the line", rel, i+1, m)
			}
		}
	})
}

// TestFiles_Calls holds the rules about calls that must hold for those too who
// run nothing but go test.
func TestFiles_Calls(t *testing.T) {
	sources(t, []string{".go"}, func(rel string, src []byte) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, rel, src, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if why := forbiddenCall(call); why != "" {
				t.Errorf("%s: %s", fset.Position(call.Pos()), why)
			}
			return true
		})
	})
}

// forbiddenCall says why the call must not be, or "".
func forbiddenCall(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	on, _ := sel.X.(*ast.Ident)
	switch {
	case on == nil:
		return ""
	case on.Name == "time" && sel.Sel.Name == "Sleep":
		return "time.Sleep: wait for the condition; in tests use testing/synctest"
	case slices.Contains([]string{"t", "b", "tb"}, on.Name) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name):
		names := false
		for _, arg := range call.Args {
			ast.Inspect(arg, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				names = names || ok && strings.Contains(lit.Value, "install")
				return true
			})
		}
		if !names {
			return "a test is skipped only for a missing server, and says which package to install"
		}
	}
	return ""
}

func TestForbiddenCall(t *testing.T) {
	for expr, want := range map[string]bool{
		`time.Sleep(1)`:  true,
		`t.Skip("slow")`: true,
		`t.SkipNow()`:    true,
		`t.Skip("missing server etcd: install etcd-server")`: false,
		`clock.Sleep(1)`: false,
		`t.Log("skip")`:  false,
	} {
		e, err := parser.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := forbiddenCall(e.(*ast.CallExpr)) != ""; got != want {
			t.Errorf("%s: forbidden %v, want %v", expr, got, want)
		}
	}
}

// TestDocs_FiveHeadings: the documentation of a public package answers the
// same five questions in the same order.
func TestDocs_FiveHeadings(t *testing.T) {
	headings := []string{"# Use", "# Promises", "# What you must do", "# When it goes wrong", "# Testing"}
	seen := map[string]string{} // package → its doc.go
	sources(t, []string{".go"}, func(rel string, src []byte) {
		pkg := path.Dir(rel)
		first, _, _ := strings.Cut(pkg, "/")
		if slices.Contains([]string{"internal", "cmd", "examples", "bench"}, first) || strings.HasSuffix(pkg, "test") || strings.HasSuffix(rel, "_test.go") {
			return
		}
		seen[pkg] += ""
		if path.Base(rel) == "doc.go" {
			seen[pkg] = string(src)
		}
	})
	for pkg, doc := range seen {
		at := 0
		for _, h := range headings {
			i := strings.Index(doc[at:], "\n// "+h+"\n")
			if i < 0 {
				t.Errorf("%s/doc.go: heading %q is missing or out of order", pkg, h)
				break
			}
			at += i
		}
	}
}

// TestDocs_Dependencies: each module that we import ourselves has a line in
// docs/dependencies.md that says why.
func TestDocs_Dependencies(t *testing.T) {
	root := filepath.Join("..", "..")
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllSubmatch(mod, -1) { // "// indirect" follows others' versions
		if !bytes.Contains(doc, []byte("| "+string(dep[1])+" |")) {
			t.Errorf("docs/dependencies.md: %s has no line: say why it is there", dep[1])
		}
	}
}
