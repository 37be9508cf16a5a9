package node

import (
	"context"
	"errors"

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

func (t *traces) close(ctx context.Context) error {
	return errors.Join(t.provider.ForceFlush(ctx), t.provider.Shutdown(ctx))
}
