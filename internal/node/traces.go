package node

import (
	"context"
	"log/slog"
	neturl "net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// traces sends spans over OTLP.
type traces struct{ provider *sdktrace.TracerProvider }

// newTraces is nil for an empty URL: no traces are made.
func newTraces(ctx context.Context, url, node string) (*traces, error) {
	if url == "" {
		return nil, nil // nil is "off"
	}
	if u, err := neturl.Parse(url); err == nil && strings.Trim(u.Path, "/") == "" {
		url = u.JoinPath("v1", "traces").String() // where collectors listen
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(url))
	if err != nil {
		return nil, err
	}
	return &traces{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "holdfast"), attribute.String("service.instance.id", node),
		)),
	)}, nil
}

// lastSpans bounds how long the last spans are tried to be sent: a collector
// that is away must not hold up the end of the node, nor make it a failure.
const lastSpans = time.Second

func (t *traces) close(ctx context.Context, l *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, lastSpans)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		l.WarnContext(ctx, "the last traces are lost", slog.String("error", err.Error()))
	}
}
