package embed

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"holdfast.dev"
)

func TestConfigTellsAllFaults(t *testing.T) {
	_, err := Start(t.Context(), Config{
		Name: "a=b", Heartbeat: time.Second, Election: time.Second, Quota: 1, MaxTxnOps: 1,
		ListenPeer: "ftp://x", ListenClient: "https://127.0.0.1:1", InitialCluster: "n=http://127.0.0.1:1",
		PeerTLS: TLS{Cert: "x"}, CompactAfter: time.Millisecond, Attempt: -1,
	})
	if !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"no data directory", "name", "five heartbeats", "quota", "128 operations", "peer listen URL",
		"client listen URL https://127.0.0.1:1 needs TLS files", "peer TLS needs", "less than 1 s", "attempt",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in:\n%v", want, err)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	cfg := Config{Dir: "x"}.withDefaults()
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	e, err := cfg.etcd()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	cfg := quick(t)
	cfg.Name, cfg.ListenPeer = "n0", freeURL(t)
	cfg.InitialCluster = "n0=" + cfg.ListenPeer + ",n1=" + freeURL(t) + ",n2=" + freeURL(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, cfg); !errors.Is(err, holdfast.ErrNoQuorum) {
		t.Fatalf("got %v", err)
	}

	cfg.NoWait = true
	n := start(t, cfg)
	select {
	case <-n.Ready():
		t.Fatal("ready alone")
	default:
	}
}

func TestLogBridge(t *testing.T) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	l := zapLogger(slog.New(h), slog.LevelWarn)
	l.Info("quiet")
	l.Warn(groundless[0])
	l.Named("raft").With(zap.String("member", "a")).Warn("slow", zap.Duration("took", time.Second), zap.Error(errors.New("x")))
	if want := "level=WARN msg=\"etcd: slow\" member=a logger=raft took=1s error=x\n"; out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}
