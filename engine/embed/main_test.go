package embed

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"holdfast.dev/internal/stage"
)

// etcd's server leaves connections between members to die of themselves.
func TestMain(m *testing.M) {
	if code, ok := stage.Run(os.Args, os.Stderr); ok {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
	)
}
