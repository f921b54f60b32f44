// Package tracing sends a trace of each request to an OpenTelemetry collector,
// if the standard environment variables name one. It is off without them.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"

	"holdfast/appliance"
)

// Tracer traces requests.
type Tracer struct {
	provider *trace.TracerProvider
	tracer   api.Tracer
}

// enabled says whether the environment asks for traces (OpenTelemetry
// Environment Variable Specification): by naming an endpoint for OTLP, or the
// exporter, and not disabling the SDK.
func enabled() bool {
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || exporter == "none" {
		return false
	}
	return exporter == "otlp" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// New makes a tracer of what the OTEL_* variables say; nil if they ask for none.
// Endpoint, headers, certificates, timeouts, sampler, batches and limits are the
// library's to read from there. A collector that is away holds nothing up.
func New(ctx context.Context, version string, log *slog.Logger) (*Tracer, error) {
	if !enabled() {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("OpenTelemetry: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "holdfast"), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("OpenTelemetry: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces could not be sent", "error", err) }))
	p := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))
	return &Tracer{p, p.Tracer("holdfast/xks")}, nil
}

// Observe traces a request that was answered.
func (t *Tracer) Observe(o *appliance.Outcome) {
	end, words := time.Now(), o.Words()
	name := words.Operation
	if name == "" {
		name = "unknown operation"
	}
	_, span := t.tracer.Start(context.Background(), name, api.WithTimestamp(end.Add(-o.Took)), api.WithSpanKind(api.SpanKindServer))
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("http.response.status_code", words.Status), attribute.String("holdfast.key_store", o.Request.KeyStore),
			attribute.String("holdfast.key_id", o.Request.Key), attribute.String("aws.request_id", o.RequestID), attribute.String("aws.kms.operation", o.Request.KMSOperation))
		if words.Error != "" {
			span.SetAttributes(attribute.String("error.type", words.Error))
		}
		if words.Status >= 500 {
			span.SetStatus(codes.Error, words.Error)
		}
	}
	span.End(api.WithTimestamp(end))
}

// Close sends what was not sent yet.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }
