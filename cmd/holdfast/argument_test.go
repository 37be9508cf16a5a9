package main

import (
	"bytes"
	"strings"
	"testing"

	"holdfast.dev/engine"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/server"
)

// Arguments are taken byte for byte, whatever they are.
func TestArguments(t *testing.T) {
	t.Parallel()
	e := engine.NewMemory(engine.MemoryConfig{})
	t.Cleanup(func() { _ = e.Close() })
	s, err := server.Start(t.Context(), server.Config{Engine: e, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Shutdown(t.Context()) }) // calls are cut
	holdfast := func(args ...string) (code int, out, said string) {
		var stdout, stderr bytes.Buffer
		code = run(t.Context(), cli.Env{
			Program: "holdfast", Args: append([]string{"--endpoints", s.URL()}, args...),
			Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Exit: func(int) {},
		})
		return code, stdout.String(), stderr.String()
	}
	for _, value := range []string{"\xff\xfe raw", `{"a": "\u00e9"}`, "<&>\u2028", "two\nlines", " spaces ", "a,b=c", ""} {
		if code, _, said := holdfast("kv", "put", "a", value); code != 0 {
			t.Errorf("put %q: code %d, %s", value, code, said)
			continue
		}
		if code, got, said := holdfast("kv", "get", "a"); code != 0 || strings.TrimSuffix(got, "\n") != value {
			t.Errorf("put %q, got %q: code %d, %s", value, got, code, said)
		}
	}
	if code, _, said := holdfast("kv", "put", "\xff", "x"); code != cli.ExitUsage {
		t.Errorf("a key that is not UTF-8: code %d, %s", code, said)
	}
}
