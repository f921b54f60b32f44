package appliance_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// devices are the tokens that tests of copies run on: a real one, and that in memory.
var devices = map[string]func(t *testing.T) appliancetest.Device{
	"SoftHSM2": func(t *testing.T) appliancetest.Device { return realToken(t) },
	"memory":   func(*testing.T) appliancetest.Device { return appliancetest.NewMemory() },
}

// copyDatabase copies the database of a stopped bed to a new folder.
func copyDatabase(t *testing.T, from string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text := must(os.ReadFile(filepath.Join(from, "holdfast.db")))(t)
	if err := os.WriteFile(filepath.Join(dir, "holdfast.db"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// original is an installation that was started twice, and stopped: the database as it is
// and as it was after the first start, and a backup.
type original struct {
	dir, older string
	backup     []byte
	client     appliancetest.Client
	sealed     *appliance.Ciphertext
}

func newOriginal(t *testing.T, device appliancetest.Device) *original {
	t.Helper()
	b := appliancetest.Start(t, appliancetest.Options{Token: device})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyHSM)
	o := &original{sealed: k.OK(appliancetest.Encrypt("k", "x")).Ciphertext}
	var backup bytes.Buffer
	if err := backupTo(b.Appliance, &backup, ""); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	o.backup, o.older = backup.Bytes(), copyDatabase(t, b.Dir)
	b = appliancetest.Restart(t, b, appliancetest.Options{})
	b.Stop()
	o.dir, o.client = b.Dir, *k
	return o
}

// tokenStates are what a token may be when a database meets it. Each is made of the
// token that the original was made with, and says whether it has the master key that the
// original's rows are wrapped under.
var tokenStates = map[string]struct {
	make func(t *testing.T, device appliancetest.Device)
	own  bool // the original's keys
}{
	"fresh":       {nil, false},
	"master only": {clearToken, true},
	"objects":     {func(*testing.T, appliancetest.Device) {}, true},
	"objects of another installation": {func(t *testing.T, device appliancetest.Device) {
		clearToken(t, device)
		other := appliancetest.Start(t, appliancetest.Options{Token: device, Beside: true})
		other.NewKeyStore(t, "other", "/other", "")
		other.NewKey(t, "other", "k", "encrypt", appliance.CustodyHSM)
		other.Stop()
	}, true},
}

// clearToken removes all but master and probe key.
func clearToken(t *testing.T, device appliancetest.Device) {
	t.Helper()
	token := must(device.Open(ctx, appliancetest.Opening{}))(t)
	for _, o := range must(token.DataObjects(ctx, hsm.ReachAny))(t) {
		if err := token.DestroyDataObject(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, label := range must(token.KeyLabels(ctx))(t) {
		if err := token.DestroyKey(ctx, label); err != nil {
			t.Fatal(err)
		}
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
}

// databases are what a database may be when it is started. Restored has the backup
// taken over by an empty one.
var databases = []string{"empty", "restored", "copied", "older copy"}

// TestDatabaseMeetsToken is the matrix of {database} × {token} × {audit log}: what starts,
// what is locked and by which code, and what may be destroyed.
func TestDatabaseMeetsToken(t *testing.T) {
	for kind, newDevice := range devices {
		for _, database := range databases {
			for state := range tokenStates {
				for _, logged := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%s/records %t", kind, database, state, logged), func(t *testing.T) {
						databaseMeetsToken(t, newDevice, database, state, logged)
					})
				}
			}
		}
	}
}

func databaseMeetsToken(t *testing.T, newDevice func(*testing.T) appliancetest.Device, database, state string, logged bool) {
	device := newDevice(t)
	made := newOriginal(t, device)
	token := tokenStates[state]
	if token.make == nil {
		device = newDevice(t)
	} else {
		token.make(t, device)
	}
	o := appliancetest.Options{Token: device}
	if logged {
		o.Appliance.Traces = []func(context.Context) (string, error){func(context.Context) (string, error) { return "a record in the audit log", nil }}
	}
	var want fault.Code
	ownership := appliance.OwnershipOwner
	switch database {
	case "empty":
		if state != "fresh" || logged {
			want, ownership = fault.StateMissing, appliance.OwnershipMissing
		}
	case "restored":
		o.Locked = fault.StateMissing
		if state == "fresh" && !logged {
			o.Locked = ""
		}
	case "copied":
		o.Dir = copyDatabase(t, made.dir)
	case "older copy":
		o.Dir, ownership = copyDatabase(t, made.older), appliance.OwnershipCopy
	}
	if database == "copied" || database == "older copy" {
		switch state {
		case "fresh": // the state key does not unwrap
			want, ownership = fault.Tampered, ""
		case "master only", "objects of another installation": // nobody knows who is the owner
			want, ownership = fault.StateSuperseded, appliance.OwnershipSuperseded
		}
	}
	if database != "restored" {
		o.Locked = want
	}
	b := appliancetest.Start(t, o)
	if database == "restored" {
		_, err := b.Appliance.Restore(ctx, bytes.NewReader(made.backup), appliance.Restoration{Reason: "the disk is gone"})
		if !token.own {
			wantCode(t, err, fault.Tampered)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Appliance.Installation().Ownership; got != ownership {
		t.Errorf("it is %q, want %q: %s", got, ownership, b.Log)
	}
	if b.Appliance.Locked() != (want != "") {
		t.Errorf("locked: %t", b.Appliance.Locked())
	}
	if status := b.Appliance.Status(ctx); status.Installation.Ownership != ownership {
		t.Errorf("the status says %+v", status.Installation)
	}
	if logged && want == fault.StateMissing && !strings.Contains(b.Appliance.Held().Error(), "a record in the audit log") {
		t.Errorf("it does not name the audit log: %s", b.Appliance.Held().Error())
	}
	if want == "" && state == "objects" && database != "empty" { // its keys are there
		k := made.client
		k.Appliance, k.T = b.Appliance, t
		k.OK(appliancetest.Decrypt("k", made.sealed))
	}
}

// destroysFor deletes a key in the HSM, waits, and says whether its object is gone.
func destroysFor(t *testing.T, b *appliancetest.Bed, clock *appliancetest.Clock, id string) bool {
	t.Helper()
	before := len(must(b.Token.KeyLabels(ctx))(t))
	must(b.Appliance.ScheduleDeletion(ctx, "demo", id, 7))(t)
	clock.Pass(8 * day)
	b.Appliance.DeleteDueKeys(ctx)
	b.DestroyLeftovers(ctx)
	return len(must(b.Token.KeyLabels(ctx))(t)) < before
}

// TestOneCopyDestroys: of several copies of one database that run at once, made by each
// of the ways in which copies are made, exactly one destroys objects in the HSM. The
// others say what they are.
func TestOneCopyDestroys(t *testing.T) {
	for kind, newDevice := range devices {
		for name, tt := range map[string]struct {
			copy func(t *testing.T, made *original, o appliancetest.Options) *appliancetest.Bed
			// ownership is what the copy is; destroys says whether it, and not the original, destroys.
			ownership appliance.Ownership
			destroys  bool
		}{
			"a copied volume that starts second": {func(t *testing.T, made *original, o appliancetest.Options) *appliancetest.Bed {
				o.Dir = copyDatabase(t, made.older)
				return appliancetest.Start(t, o)
			}, appliance.OwnershipCopy, false},
			"a restored backup": {func(t *testing.T, made *original, o appliancetest.Options) *appliancetest.Bed {
				o.Locked = fault.StateMissing
				b := appliancetest.Start(t, o)
				must(b.Appliance.Restore(ctx, bytes.NewReader(made.backup), appliance.Restoration{}))(t)
				return b
			}, appliance.OwnershipOwner, true},
			"a drill": {func(t *testing.T, made *original, o appliancetest.Options) *appliancetest.Bed {
				o.Locked = fault.StateMissing
				b := appliancetest.Start(t, o)
				must(b.Appliance.Restore(ctx, bytes.NewReader(made.backup), appliance.Restoration{Drill: true}))(t)
				return b
			}, appliance.OwnershipDrill, false},
			"a copy that takes over": {func(t *testing.T, made *original, o appliancetest.Options) *appliancetest.Bed {
				o.Dir = copyDatabase(t, made.older)
				b := appliancetest.Start(t, o)
				must(b.Appliance.TakeOver(ctx))(t)
				return b
			}, appliance.OwnershipOwner, true},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				clock := appliancetest.NewClock()
				device := newDevice(t)
				made := newOriginal(t, device)
				o := appliancetest.Options{Token: device, Appliance: appliance.Options{Now: clock.Now, Lease: 10000 * day}}
				own := o
				own.Dir = made.dir
				first := appliancetest.Start(t, own)
				second := tt.copy(t, made, o)
				if got := second.Appliance.Installation(); got.Ownership != tt.ownership || (got.Detail == "") != (tt.ownership == appliance.OwnershipOwner) {
					t.Errorf("the copy is %+v", got)
				}
				if ready, _ := second.Appliance.Ready(ctx); !ready {
					t.Error("the copy is not ready")
				}
				if got := destroysFor(t, second, clock, "k"); got != tt.destroys {
					t.Errorf("the copy destroys: %t", got)
				}
				if tt.destroys {
					first.NewKey(t, "demo", "another", "encrypt", appliance.CustodyHSM)
					if destroysFor(t, first, clock, "another") {
						t.Error("the original destroys as well")
					}
					if got := first.Appliance.Installation().Ownership; got != appliance.OwnershipCopy {
						t.Errorf("the original says that it is %q", got)
					}
					first.Stop()
					own.Locked = fault.StateSuperseded
					first = appliancetest.Start(t, own)
					wantCode(t, errorOf(first.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "x"})), fault.Locked)
					return
				}
				if got := destroysFor(t, first, clock, "k"); !got {
					t.Error("the original does not destroy")
				}
			})
		}
	}
}

// TestTakeOverWhileItWaits: another copy takes over in the ten minutes before an object
// is destroyed, and it stays.
func TestTakeOverWhileItWaits(t *testing.T) {
	for kind, newDevice := range devices {
		t.Run(kind, func(t *testing.T) {
			clock := appliancetest.NewClock()
			device := newDevice(t)
			made := newOriginal(t, device)
			first := appliancetest.Start(t, appliancetest.Options{Dir: made.dir, Token: device, Appliance: appliance.Options{Now: clock.Now, Lease: 10000 * day}})
			must(first.Appliance.ScheduleDeletion(ctx, "demo", "k", 7))(t)
			clock.Pass(8 * day)
			first.Appliance.DeleteDueKeys(ctx)
			objects := must(first.Token.KeyLabels(ctx))(t)
			for range 9 { // it is looked at each minute
				clock.Pass(appliance.DestroyWait/10 - 1)
				first.Appliance.DestroyLeftovers(ctx)
			}
			second := appliancetest.Start(t, appliancetest.Options{Token: device, Locked: fault.StateMissing})
			must(second.Appliance.Restore(ctx, bytes.NewReader(made.backup), appliance.Restoration{}))(t)
			for range 100 {
				clock.Pass(appliance.DestroyWait / 10)
				first.Appliance.DestroyLeftovers(ctx)
			}
			if got := must(second.Token.KeyLabels(ctx))(t); len(got) != len(objects) || len(objects) != 1 {
				t.Errorf("of %q there are %q", objects, got)
			}
			k := made.client
			k.Appliance = second.Appliance
			k.OK(appliancetest.Decrypt("k", made.sealed))
		})
	}
}

// TestForgedInstallationObjects count for nothing: those of somebody who has a session
// and not the state key, also with everything that the token has.
func TestForgedInstallationObjects(t *testing.T) {
	device := appliancetest.PKCS11(hsmtest.New(t))
	made := newOriginal(t, device)
	b := appliancetest.Start(t, appliancetest.Options{Dir: made.dir, Token: device})
	own := must(b.Token.DataObjects(ctx, hsm.ReachAny))(t)
	if len(own) != 1 {
		t.Fatalf("there are %d installation objects", len(own))
	}
	for i, change := range [][2]string{
		{`"epoch":1`, `"epoch":9`}, {`"start":2`, `"start":99`}, {`"start":3`, `"start":99`}, {`"incarnation":"`, `"incarnation":"0`}, {`"run":"`, `"run":"0`}, {`"seal":"`, `"seal":"AAAA`},
	} {
		value := bytes.Replace(own[0].Value, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(value, own[0].Value) {
			continue
		}
		forged := own[0]
		forged.Label, forged.Value = fmt.Sprintf("holdfast-installation-forged-%d", i), value
		if err := b.Token.CreateDataObject(ctx, forged, hsm.ReachAny); err != nil {
			t.Fatal(err)
		}
	}
	b.NewKey(t, "demo", "going", "encrypt", appliance.CustodyHSM)
	b = appliancetest.Restart(t, b, appliancetest.Options{})
	if got := b.Appliance.Installation().Ownership; got != appliance.OwnershipOwner {
		t.Errorf("it is %q", got)
	}
	if !strings.Contains(b.Log.String(), "does not match its seal, and counts for nothing") {
		t.Error("the log does not name them")
	}
}

// TestObjectRemoved: who has the PIN removes the installation object. The appliance that
// runs destroys nothing more; started again it is locked, until it takes over.
func TestObjectRemoved(t *testing.T) {
	for kind, newDevice := range devices {
		t.Run(kind, func(t *testing.T) {
			device := newDevice(t)
			made := newOriginal(t, device)
			b := appliancetest.Start(t, appliancetest.Options{Dir: made.dir, Token: device})
			for _, o := range must(b.Token.DataObjects(ctx, hsm.ReachAny))(t) {
				if err := b.Token.DestroyDataObject(ctx, o); err != nil {
					t.Fatal(err)
				}
			}
			b = appliancetest.Restart(t, b, appliancetest.Options{Locked: fault.StateSuperseded})
			if f := b.Appliance.Held(); f == nil || !strings.Contains(f.Error(), "has no installation object of this installation any more") {
				t.Errorf("held: %v", f)
			}
			if _, err := b.Appliance.Begin(ctx); fault.CodeOf(err) != fault.Conflict {
				t.Errorf("begin: %v", err)
			}
			state := must(b.Appliance.TakeOver(ctx))(t)
			if state.Ownership != appliance.OwnershipOwner || state.Epoch != 2 {
				t.Errorf("after the takeover: %+v", state)
			}
			k := made.client
			k.Appliance = b.Appliance
			k.OK(appliancetest.Decrypt("k", made.sealed))
			wantCode(t, errorOf(b.Appliance.TakeOver(ctx)), fault.Conflict)
			appliancetest.Restart(t, b, appliancetest.Options{})
		})
	}
}

// TestIncarnationEdited: a row that says another incarnation, or none, does not make a
// copy the owner.
func TestIncarnationEdited(t *testing.T) {
	for name, statement := range map[string]string{
		"removed":       `UPDATE installation SET incarnation = '', incarnation_seal = NULL`,
		"without seal":  `UPDATE installation SET incarnation_seal = NULL`,
		"empty seal":    `UPDATE installation SET incarnation_seal = x''`,
		"another epoch": `UPDATE installation SET incarnation = replace(incarnation, '"epoch":1', '"epoch":7')`,
		"a drill":       `UPDATE installation SET incarnation = replace(incarnation, '"made":true', '"made":true,"drill":true')`,
	} {
		t.Run(name, func(t *testing.T) {
			device := appliancetest.NewMemory()
			made := newOriginal(t, device)
			edit(t, filepath.Join(made.dir, "holdfast.db"), statement)
			b := appliancetest.Start(t, appliancetest.Options{Dir: made.dir, Token: device, Accept: true, Locked: fault.StateSuperseded})
			must(b.Appliance.TakeOver(ctx))(t)
			k := made.client
			k.Appliance = b.Appliance
			k.OK(appliancetest.Decrypt("k", made.sealed))
		})
	}
}

// TestEarlierInstallationIsAdopted: one that was made before there were incarnations
// becomes the owner at its first start, unless the HSM names one.
func TestEarlierInstallationIsAdopted(t *testing.T) {
	device := appliancetest.NewMemory()
	made := newOriginal(t, device)
	edit(t, filepath.Join(made.dir, "holdfast.db"), `UPDATE installation SET incarnation = '', incarnation_seal = NULL`)
	token := must(device.Open(ctx, appliancetest.Opening{}))(t)
	for _, o := range must(token.DataObjects(ctx, hsm.ReachAny))(t) {
		if err := token.DestroyDataObject(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	b := appliancetest.Start(t, appliancetest.Options{Dir: made.dir, Token: device, Accept: true})
	if got := b.Appliance.Installation(); got.Ownership != appliance.OwnershipOwner || got.Epoch != 1 {
		t.Errorf("it is %+v", got)
	}
}

// TestInterruptedFirstStart: the master key was made and no installation was written.
// The next start of that database goes on; that of another one does not.
func TestInterruptedFirstStart(t *testing.T) {
	for kind, newDevice := range devices {
		t.Run(kind, func(t *testing.T) {
			device := newDevice(t)
			unsealed := fault.Errorf(fault.Internal, "the power went off")
			machine := appliancetest.NewMachineKey(t)
			o := appliancetest.Options{Token: device, Locked: fault.Internal, Appliance: appliance.Options{MachineKey: machine,
				Identities: &identities{sealAll: func(context.Context, func(name, value string) error) error { return unsealed }}}}
			b := appliancetest.Start(t, o)
			b.Stop()
			another := appliancetest.Start(t, appliancetest.Options{Token: device, Locked: fault.StateMissing})
			another.Stop()
			b = appliancetest.Restart(t, b, appliancetest.Options{Appliance: appliance.Options{MachineKey: machine}})
			if got := b.Appliance.Installation().Ownership; got != appliance.OwnershipOwner {
				t.Errorf("it is %q", got)
			}
			// Once there is an installation the note is gone.
			b.Stop()
			edit(t, b.DB, `DELETE FROM installation; DELETE FROM settings`)
			appliancetest.Restart(t, b, appliancetest.Options{Locked: fault.StateMissing})
		})
	}
}

// TestNoInstallationObject: with an HSM that takes none, by choice, the appliance serves
// and destroys nothing.
func TestNoInstallationObject(t *testing.T) {
	clock := appliancetest.NewClock()
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{NoInstallationObject: true, Now: clock.Now, Lease: 10000 * day}})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt", appliance.CustodyHSM)
	if got := b.Appliance.Installation(); got.Ownership != appliance.OwnershipUnkept || got.Detail == "" {
		t.Errorf("it is %+v", got)
	}
	if objects := must(b.Token.DataObjects(ctx, hsm.ReachAny))(t); len(objects) != 0 {
		t.Errorf("there are %d objects", len(objects))
	}
	if destroysFor(t, b, clock, "k") {
		t.Error("the object was destroyed")
	}
	wantCode(t, errorOf(b.Appliance.TakeOver(ctx)), fault.Conflict)
}

// TestDrillMakesNoKeyInTheHSM, and is made the owner by a takeover.
func TestDrillMakesNoKeyInTheHSM(t *testing.T) {
	device := appliancetest.NewMemory()
	made := newOriginal(t, device)
	b := appliancetest.Start(t, appliancetest.Options{Token: device, Locked: fault.StateMissing})
	report := must(b.Appliance.Restore(ctx, bytes.NewReader(made.backup), appliance.Restoration{Drill: true, Reason: "the yearly drill"}))(t)
	if report.As.Ownership != appliance.OwnershipDrill || report.Reason != "the yearly drill" {
		t.Errorf("restored: %+v", report)
	}
	before := device.Calls("CreateObject") + device.Calls("GenerateKey") + device.Calls("DestroyObject")
	want := appliance.NewExternalKey{ID: "new", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyHSM}
	wantCode(t, errorOf(b.Appliance.CreateKey(ctx, "demo", want)), fault.Conflict)
	wantCode(t, errorOf(b.Appliance.RotateKey(ctx, "demo", "k", nil)), fault.Conflict)
	if after := device.Calls("CreateObject") + device.Calls("GenerateKey") + device.Calls("DestroyObject"); after != before {
		t.Errorf("a drill changed the HSM %d times", after-before)
	}
	want.Custody = appliance.CustodyCached
	must(b.Appliance.CreateKey(ctx, "demo", want))(t)
	b = appliancetest.Restart(t, b, appliancetest.Options{})
	if got := b.Appliance.Installation().Ownership; got != appliance.OwnershipDrill {
		t.Errorf("after a restart it is %q", got)
	}
	if got := must(b.Appliance.TakeOver(ctx))(t); got.Ownership != appliance.OwnershipOwner || got.Epoch != 2 {
		t.Errorf("after the takeover it is %+v", got)
	}
	must(b.Appliance.RotateKey(ctx, "demo", "k", nil))(t)
}
