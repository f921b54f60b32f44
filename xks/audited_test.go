package xks_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

// recording is a recorder that the test has fail.
type recording struct{ fails *func(context.Context) error }

func (recording) Ready() error { return nil }

func (r recording) RecordOutcome(ctx context.Context, _ *appliance.Outcome) error {
	return (*r.fails)(ctx)
}

// TestNotAudited: what cannot be recorded is not answered. A disk that is too slow
// is a dependency that did not answer in time, which KMS tries again; anything else
// is an internal failure.
func TestNotAudited(t *testing.T) {
	var fails func(context.Context) error
	b := xkstest.Start(t, xkstest.Options{XKS: xks.Options{Timeout: 100 * time.Millisecond}, Appliance: appliance.Options{Recorder: recording{&fails}}})
	k := b.NewKeyStore(t, "bank", "/bank", "*")
	b.NewKey(t, "bank", "k", "encrypt,decrypt", appliance.CustodyCached)

	fails = func(context.Context) error { return nil }
	sealed := inTime(k, "/keys/k/encrypt", xkstest.EncryptBody("secret words"))
	if sealed.Status != http.StatusOK {
		t.Fatalf("%d %s", sealed.Status, sealed.Text)
	}
	for _, tt := range []struct {
		fails  func(context.Context) error
		status int
		name   string
	}{
		{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, http.StatusServiceUnavailable, "DependencyTimeoutException"},
		{func(context.Context) error { return errors.New("the disk is full") }, http.StatusInternalServerError, "InternalException"},
	} {
		fails = tt.fails
		call := k.Call
		if tt.name != "DependencyTimeoutException" {
			call = func(path string, body any) xkstest.Answer { return inTime(k, path, body) }
		}
		a := call("/keys/k/decrypt", xkstest.DecryptBody(sealed.Body))
		if a.Status != tt.status || a.ErrorName() != tt.name || strings.Contains(a.Text, "plaintext") || strings.Contains(a.Text, "disk") {
			t.Errorf("%d %s; want %d %s", a.Status, a.Text, tt.status, tt.name)
		}
	}
}
