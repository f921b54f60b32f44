package appliance_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// TestStopsDoNotWait: what takes a key, a credential or a grant out of service does
// not wait for an operation that waits for the HSM.
func TestStopsDoNotWait(t *testing.T) {
	hangs := make(chan struct{})
	b := appliancetest.Start(t, appliancetest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { return slowKeyring{r, hangs} }})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	grant, err := b.Appliance.AddGrant(ctx, "demo", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}})
	if err != nil {
		t.Fatal(err)
	}
	credential, _, err := b.Appliance.CreateCredential(ctx, "demo", appliance.NewCredential{})
	if err != nil {
		t.Fatal(err)
	}
	waiting, stop := context.WithCancel(ctx)
	made := make(chan error)
	go func() {
		_, err := b.Appliance.CreateKey(waiting, "demo", appliance.NewExternalKey{ID: "h", Custody: appliance.CustodyHSM})
		made <- err
	}()
	<-hangs
	for _, tt := range []struct {
		what string
		do   func() error
	}{
		{"a key is disabled", func() error { _, err := b.Appliance.SetKeyEnabled(ctx, "demo", "k", false); return err }},
		{"a credential is deactivated", func() error {
			_, err := b.Appliance.SetCredentialActive(ctx, "demo", credential.AccessKeyID, false)
			return err
		}},
		{"a credential is removed", func() error { return b.Appliance.DeleteCredential(ctx, "demo", credential.AccessKeyID) }},
		{"a grant is removed", func() error { return b.Appliance.RemoveGrant(ctx, "demo", grant.ID) }},
	} {
		done := make(chan error, 1)
		go func() { done <- tt.do() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", tt.what, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: it waits for the HSM", tt.what)
		}
	}
	stop()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if k, err := b.Appliance.ShowKey(ctx, "demo", "k"); err != nil || k.State != appliance.KeyDisabled {
		t.Errorf("%+v: %v", k, err)
	}
	// What forbids it still does.
	if _, err := b.Appliance.ScheduleDeletion(ctx, "demo", "k", 7); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Appliance.SetKeyEnabled(ctx, "demo", "k", false); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("a key that is to be deleted is disabled: %v", err)
	}
}
