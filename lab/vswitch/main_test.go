//go:build linux

package vswitch

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"holdfast.dev/internal/labtest"
)

func TestMain(m *testing.M) {
	code := labtest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		panic(err)
	}
	os.Exit(code)
}
