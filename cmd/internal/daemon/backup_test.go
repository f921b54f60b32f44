package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/hsm/hsmtest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// TestRestoreElsewhere: a backup that was taken under load serves on another
// machine, with another TPM, and the same HSM; with another HSM it says that.
func TestRestoreElsewhere(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	s := newSiteWith(t, token, shim)
	r := s.start()
	r.enrol(<-s.welcomed, "alice")
	k := r.newKeyStore()
	r.newKey("cached", appliance.CustodyCached, "")
	r.newKey("hsm", appliance.CustodyHSM, "")
	sealed := map[string]map[string]any{}
	for _, key := range []string{"cached", "hsm"} {
		sealed[key] = k.OK("/keys/"+key+"/encrypt", xkstest.EncryptBody("before "+key))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				k.OK("/keys/cached/encrypt", xkstest.EncryptBody("x"))
			}
		})
	}
	var backup bytes.Buffer
	if err := web.NewClient(r.Socket).Download(t.Context(), "backup", &backup); err != nil {
		t.Fatal(err)
	}
	cancel()
	load.Wait()
	r.stop()

	second := newSiteWith(t, token, shim) // with a folder, a machine and a TPM of its own
	r = second.begin()                    // which is locked beside the traces of the first
	second.logged(0, `state=locked .*code=E_STATE_MISSING`)
	var report appliance.BackupReport
	if err := web.NewClient(r.Socket).Upload(t.Context(), "restore", bytes.NewReader(backup.Bytes()), &report); err != nil {
		t.Fatal(err)
	}
	if report.Keys != 2 || report.Checkpoint == "" || report.As.Ownership != appliance.OwnershipOwner {
		t.Errorf("restored: %+v", report)
	}
	second.logged(0, `msg=serving `)
	again := r.kms(k.AccessKeyID, k.SecretAccessKey)
	for key, c := range sealed {
		got := again.OK("/keys/"+key+"/decrypt", xkstest.DecryptBody(c))["plaintext"]
		if want := base64.StdEncoding.EncodeToString([]byte("before " + key)); got != want {
			t.Errorf("%s decrypts to %v, want %s", key, got, want)
		}
	}
	again.OK("/keys/cached/encrypt", xkstest.EncryptBody("after"))
	// The users of the backup are good here, also after a restart, and nobody else.
	for range 2 {
		var users operation.List[*identity.User]
		if r.ok("GET", "users", nil, &users); len(users.Items) != 1 || users.Items[0].Name != "alice" || users.Items[0].Refused {
			t.Errorf("users: %+v", users)
		}
		if _, page := r.page("/setup", nil); strings.Contains(page, "setup_code") {
			t.Error("the page asks for a setup code")
		}
		r.stop()
		r = second.start()
	}
	r.stop()

	other, shim := hsmtest.NewBehindShim(t)
	r = newSiteWith(t, other, shim).start()
	err := web.NewClient(r.Socket).Upload(t.Context(), "restore", bytes.NewReader(backup.Bytes()), nil)
	if err == nil || !strings.Contains(err.Error(), "does not unwrap under this HSM's master key: it is of another HSM") {
		t.Errorf("with another HSM: %v", err)
	}
	var stores operation.List[appliance.KeyStore]
	if r.ok("GET", "keystores", nil, &stores); len(stores.Items) != 0 {
		t.Errorf("the refused backup left %d key stores", len(stores.Items))
	}
}
