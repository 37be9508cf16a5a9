//go:build linux

package lab

import (
	"os"
	"testing"

	"holdfast.dev/internal/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
