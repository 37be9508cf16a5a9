package node

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestTraces_ReachTheCollector(t *testing.T) {
	paths := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
	defer collector.Close()
	tr, err := newTraces(t.Context(), collector.URL, "n1")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tr.provider.Tracer("test").Start(t.Context(), "work")
	span.End()
	tr.close(t.Context(), slog.New(slog.DiscardHandler))
	if p := <-paths; p != "/v1/traces" {
		t.Errorf("sent to %s", p)
	}
}

func TestTraces_OffAndCollectorAway(t *testing.T) {
	if tr, err := newTraces(t.Context(), "", "n1"); tr != nil || err != nil {
		t.Fatalf("no URL: %v, %v", tr, err)
	}
	tr, err := newTraces(t.Context(), "http://127.0.0.1:1", "n1")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tr.provider.Tracer("test").Start(t.Context(), "work")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tr.close(ctx, slog.New(slog.DiscardHandler)) // returns long before ctx ends
	if ctx.Err() != nil {
		t.Error("it held up the end")
	}
}
