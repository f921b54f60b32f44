package appliance_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// backedUp is an appliance with keys of all kinds, its backup, and what it has
// encrypted.
type backedUp struct {
	bed    *appliancetest.Bed
	client *appliancetest.Client
	backup []byte
	sealed map[string]*appliance.Ciphertext // by key
}

const checkpoint = "holdfast-audit/x\n7\nroot\n"

func backUp(t *testing.T) *backedUp {
	t.Helper()
	b := &backedUp{bed: appliancetest.Start(t, appliancetest.Options{Token: realToken(t)}), sealed: map[string]*appliance.Ciphertext{}}
	b.client = b.bed.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	for id, custody := range map[string]appliance.Custody{"cached": appliance.CustodyCached, "in-token": appliance.CustodyHSM} {
		if _, err := b.bed.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}); err != nil {
			t.Fatal(err)
		}
		b.sealed[id] = b.client.OK(appliancetest.Encrypt(id, "of "+id)).Ciphertext
		if _, err := b.bed.Appliance.RotateKey(ctx, "demo", id, nil); err != nil {
			t.Fatal(err)
		}
	}
	// It is made under load.
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.client.OK(appliancetest.Encrypt("cached", "load"))
			}
		}
	})
	var out bytes.Buffer
	err := backupTo(b.bed.Appliance, &out, checkpoint)
	close(stop)
	load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	b.backup = out.Bytes()
	return b
}

// TestRestore: a fresh appliance with the same HSM takes a backup over, and
// decrypts what was encrypted before.
func TestRestore(t *testing.T) {
	b := backUp(t)
	report, err := b.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(b.backup))
	if err != nil {
		t.Fatal(err)
	}
	if report.KeyStores != 1 || report.Keys != 2 || report.Versions != 4 || report.InToken != 2 || report.Credentials != 1 || report.Grants == 0 ||
		report.Checkpoint != checkpoint || report.Restored {
		t.Errorf("the backup has %+v", report)
	}
	if _, err := b.bed.Appliance.Restore(ctx, bytes.NewReader(b.backup), appliance.Restoration{}); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "restore into a fresh one") {
		t.Errorf("restoring over key stores: %v", err)
	}
	b.client.OK(appliancetest.Decrypt("cached", b.sealed["cached"])) // unharmed
	b.bed.Stop()

	fresh := appliancetest.Start(t, appliancetest.Options{Token: b.bed.Device, Locked: fault.StateMissing})
	report, err = fresh.Appliance.Restore(ctx, bytes.NewReader(b.backup), appliance.Restoration{})
	if err != nil || !report.Restored {
		t.Fatalf("%+v: %v", report, err)
	}
	k := *b.client
	k.Appliance = fresh.Appliance
	decryptAll := func() {
		t.Helper()
		for id, sealed := range b.sealed {
			if got := k.OK(appliancetest.Decrypt(id, sealed)).Plaintext; got != "of "+id {
				t.Errorf("%s decrypts to %q", id, got)
			}
			k.OK(appliancetest.Encrypt(id, "after"))
		}
	}
	decryptAll()
	restart(t, fresh, &k, appliancetest.Options{})
	decryptAll()
}

// TestBackupOfAnotherHSM says exactly that.
func TestBackupOfAnotherHSM(t *testing.T) {
	b := backUp(t)
	b.bed.Stop()
	other := appliancetest.Start(t, appliancetest.Options{Token: realToken(t)})
	_, err := other.Appliance.VerifyBackup(ctx, bytes.NewReader(b.backup))
	wantCode(t, err, fault.Tampered)
	if err == nil || !strings.Contains(err.Error(), "the backup does not unwrap under this HSM's master key: it is of another HSM, or was changed") {
		t.Errorf("got %v", err)
	}
	k := other.NewKeyStore(t, "mine", "/mine", appliancetest.Principal)
	k.OK(appliancetest.Health())
}

// TestBrokenBackup: what was changed is refused, and changes nothing.
func TestBrokenBackup(t *testing.T) {
	b := backUp(t)
	if bytes.Contains(b.backup, []byte("SQLite format")) || bytes.Contains(b.backup, []byte("in-token")) {
		t.Error("the database is in the backup in clear")
	}
	line := bytes.IndexByte(b.backup, '\n')
	broken := map[string][]byte{
		"nothing":            nil,
		"a line of text":     []byte("hello\n"),
		"no line":            bytes.Repeat([]byte("x"), 1<<20),
		"the header alone":   b.backup[:line+1],
		"cut":                b.backup[:len(b.backup)-1],
		"cut early":          b.backup[:line+200],
		"another checkpoint": bytes.Replace(bytes.Clone(b.backup), []byte(`\n7\n`), []byte(`\n6\n`), 1),
		"another time":       bytes.Replace(bytes.Clone(b.backup), []byte(`"created":"20`), []byte(`"created":"10`), 1),
		"more":               append(bytes.Clone(b.backup), 0),
	}
	for name, at := range map[string]int{"the first byte": 0, "the key": line - 10, "age's header": line + 40, "the database": len(b.backup) / 2, "the end": len(b.backup) - 1} {
		text := bytes.Clone(b.backup)
		text[at] ^= 1
		broken["a flipped bit in "+name] = text
	}
	before, err := os.ReadDir(b.bed.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range broken {
		_, err := b.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(text))
		if code := fault.CodeOf(err); err == nil || (code != fault.Invalid && code != fault.Tampered) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v (%s)", name, err, code)
		}
	}
	if after, err := os.ReadDir(b.bed.Dir); err != nil || len(after) != len(before) {
		t.Errorf("something is left in %s: %v", filepath.Base(b.bed.Dir), after)
	}
	b.client.OK(appliancetest.Decrypt("cached", b.sealed["cached"]))
}
