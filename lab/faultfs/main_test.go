//go:build linux

package faultfs

import (
	"os"
	"testing"

	"holdfast.dev/internal/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
