package driver

import (
	"context"
	"fmt"
	"os"
	"testing"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/history"
)

func init() {
	stage.Register("client", ClientStage(func(_ context.Context, env Env, spec ClientSpec) (Client, error) {
		if spec.Node == "n9" {
			return nil, fmt.Errorf("no route to %s", env.Addr("n9"))
		}
		return &memory{env: env, spec: spec}, nil
	}))
}

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// memory is a client of nothing but its own memory.
type memory struct {
	env    Env
	spec   ClientSpec
	values map[string]any
	tokens int64
}

func (m *memory) Invoke(ctx context.Context, op history.Op) history.Op {
	if m.values == nil {
		m.values = map[string]any{}
	}
	op.Type = history.OK
	switch op.F {
	case "read":
		op.Value = m.values[op.Key]
	case "write":
		m.values[op.Key] = op.Value
	case "where":
		op.Value = fmt.Sprintf("%s %s %s %s", m.spec.Node, m.env.Addr(m.spec.Node), m.spec.Workload, m.env.Option("tls"))
	case "hang":
		<-ctx.Done()
		op.Type, op.Error = history.Info, ctx.Err().Error()
	case "exit":
		os.Exit(3)
	case "acquire":
		m.tokens++
		op.Value = m.tokens
	case "release":
	default:
		op.Type, op.Error = history.Fail, "what is "+op.F
	}
	return op
}

func (m *memory) Close() error { return nil }
