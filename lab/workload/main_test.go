package workload

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

func init() {
	stage.Register("client", driver.ClientStage(func(context.Context, driver.Env, driver.ClientSpec) (driver.Client, error) {
		return &generous{}, nil
	}))
}

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// generous grants a lock to everybody who asks; who asked before has a smaller
// token. It is what a lock with a lease is to a holder that slept.
type generous struct{ next int64 }

func (g *generous) Invoke(_ context.Context, op history.Op) history.Op {
	op.Type = history.OK
	if op.F == "acquire" {
		if g.next++; op.Value != nil {
			op.Value = g.next + 100
		} else {
			op.Value = g.next
		}
	}
	return op
}

func (g *generous) Close() error { return nil }

// paused says whether every thread of a process stands still.
func paused(pid int) (bool, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false, err
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	if !ok {
		return false, errors.New("no such line")
	}
	return strings.HasPrefix(rest, "T"), nil
}
