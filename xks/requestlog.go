package xks

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"holdfast/appliance"
)

// logRequest writes the one line there is for a request that was refused or failed, or
// for any ([Options.LogAll]; spec, Logging).
func (a *API) logRequest(ctx context.Context, o *appliance.Outcome) {
	if o.Err == nil && !a.logAll {
		return
	}
	words := o.Words()
	level := slog.LevelInfo
	if words.Status >= 500 && words.Status != http.StatusNotImplemented {
		level = slog.LevelError
	}
	if !a.requests.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 16)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	attrs = append(attrs, slog.Int("status", words.Status), slog.Duration("took", o.Took))
	add("key_store", o.Request.KeyStore)
	add("key_id", o.Request.Key)
	add("kms_request_id", o.RequestID)
	add("kms_operation", o.Request.KMSOperation)
	add("principal", o.Request.Principal)
	add("kms_key_arn", o.Request.KMSKeyARN)
	add("kms_via_service", o.Request.ViaService)
	add("source_vpc", o.Request.SourceVPC)
	add("source_vpce", o.Request.SourceVPCE)
	add("policies", strings.Join(o.Policies, ","))
	if o.KeyVersion != 0 {
		attrs = append(attrs, slog.Uint64("key_version", uint64(o.KeyVersion)))
	}
	if o.Dated {
		add("access_key_id", o.Credential)
		attrs = append(attrs, slog.Duration("clock_skew", o.Skew))
	}
	if o.Err != nil {
		add("error_name", words.Error)
		told := answerTo(o.Err)
		add("reference", told.reference)
		add("error", told.Error())
		add("remote", o.Remote)
	}
	name := words.Operation
	if name == "" {
		name = "unknown operation"
	}
	// Without the logger, which would look up the place in the source each time.
	record := slog.NewRecord(time.Now(), level, name, 0)
	record.AddAttrs(attrs...)
	_ = a.requests.Handler().Handle(ctx, record)
}
