package embed

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"holdfast.dev/engine/enginetest"
)

// quick is a configuration for tests: fast, and not safe across a power cut.
func quick(tb testing.TB) Config {
	tb.Helper()
	return Config{
		Dir: tb.TempDir(), Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond,
		UnsafeNoFsync: true, Logger: slog.New(slog.DiscardHandler), CompactAfter: -1,
	}
}

// start starts a node and closes it with the test.
func start(tb testing.TB, cfg Config) *Node {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	n, err := Start(ctx, cfg)
	if err != nil {
		tb.Fatalf("start: %v", err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return n
}

// freeURL is a URL on loopback that nobody listens on.
func freeURL(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to wait for on loopback
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("http://%s", l.Addr())
}

func TestEngineSingle(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		return enginetest.Harness{Engine: start(t, quick(t)), MinTTL: time.Second}
	})
}
