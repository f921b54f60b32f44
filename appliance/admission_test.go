package appliance_test

import (
	"context"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
)

// person is somebody whom the first unlock would seal.
func person(name, detail string) appliance.Admitted {
	return appliance.Admit(appliance.AdmittedUser, name, detail, appliance.Binding{Purpose: "user", Fields: []string{name, detail}}, false)
}

// awaiting starts an appliance whose first unlock waits for somebody to confirm.
func awaiting(t *testing.T, i *identities) *appliancetest.Bed {
	t.Helper()
	return appliancetest.Start(t, appliancetest.Options{Locked: fault.AdmissionUnconfirmed,
		Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: i}})
}

func admission(t *testing.T, b *appliancetest.Bed) *appliance.Admission {
	t.Helper()
	return must(b.Appliance.Admission(ctx))(t)
}

// TestFirstUnlockAsks: the first unlock seals nobody whom no person has seen. It waits, and
// seals exactly those whose digest is confirmed.
func TestFirstUnlockAsks(t *testing.T) {
	i := &identities{admitted: []appliance.Admitted{person("alice", "administrator")}}
	b := awaiting(t, i)
	wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
	if i.sealed != nil {
		t.Error("somebody was sealed")
	}
	a := admission(t, b)
	if a.Installed || !a.Unconfirmed || len(a.All) != 4 || a.All[0].Name != "alice" {
		t.Errorf("%+v", a)
	}
	for what, digest := range map[string]string{"none": "", "another": strings.Repeat("0", 64), "cut": a.Digest[:63]} {
		if err := errorOf(b.Appliance.ConfirmAdmission(ctx, digest, "alice")); fault.CodeOf(err) != fault.AdmissionChanged {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Somebody else comes in between.
	i.admitted = append(i.admitted, person("mallory", "administrator"))
	wantCode(t, errorOf(b.Appliance.ConfirmAdmission(ctx, a.Digest, "alice")), fault.AdmissionChanged)
	wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
	i.admitted = i.admitted[:1]
	if err := errorOf(b.Appliance.ConfirmAdmission(ctx, a.Digest, "alice")); err != nil {
		t.Fatal(err)
	}
	if b.Appliance.Locked() || i.by.By != "alice" || i.by.Digest != a.Digest || len(i.sealed) != 4 {
		t.Errorf("by %+v, sealed %+v", i.by, i.sealed)
	}
	if a = admission(t, b); !a.Installed || a.Unconfirmed || a.Confirmed.By != "alice" {
		t.Errorf("%+v", a)
	}
	// What is held by this takes nothing else for an answer.
	held := awaiting(t, &identities{admitted: i.admitted})
	wantCode(t, errorOf(held.Appliance.AcceptState(ctx, "alice", "no")), fault.Conflict)
	wantCode(t, errorOf(held.Appliance.Begin(ctx)), fault.Conflict)
	wantCode(t, errorOf(held.Appliance.TakeOver(ctx)), fault.Conflict)
	wantCode(t, held.Appliance.Seals().Verify(ctx, appliance.Binding{Purpose: "user"}, nil), fault.Tampered)
}

// TestEachChangeAsksAgain: whatever differs between what was confirmed and what would be
// sealed, the first unlock waits.
func TestEachChangeAsksAgain(t *testing.T) {
	alice, bob := person("alice", "administrator"), person("bob", "viewer")
	refused := appliance.Admit(appliance.AdmittedUser, "bob", "viewer", appliance.Binding{Purpose: "user", Fields: []string{"bob", "viewer"}}, true)
	for name, after := range map[string][]appliance.Admitted{
		"removed":  {alice},
		"all gone": {},
		"added":    {alice, bob, person("mallory", "administrator")},
		"changed":  {alice, person("bob", "administrator")},
		"replaced": {alice, person("mallory", "viewer")},
		"refused":  {alice, refused},
		"twice":    {alice, bob, bob},
	} {
		// With the PIN, and then changed.
		t.Run(name+", before the unlock", func(t *testing.T) {
			i := &identities{admitted: []appliance.Admitted{alice, bob}}
			device := appliancetest.NewMemory()
			b := appliancetest.Start(t, appliancetest.Options{Token: device, Locked: fault.AdmissionUnconfirmed,
				Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: i}})
			b.Appliance.Lock()
			if err := errorOf(b.Appliance.ConfirmAdmission(ctx, admission(t, b).Digest, "alice")); err != nil {
				t.Fatal(err)
			}
			i.admitted = after
			wantCode(t, b.Appliance.Unlock(ctx, keyring.New(b.Token), nil), fault.AdmissionUnconfirmed)
			wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
			i.admitted = []appliance.Admitted{alice, bob}
			b.Appliance.Lock()
			if err := b.Appliance.Unlock(ctx, keyring.New(b.Token), nil); err != nil {
				t.Errorf("as it was confirmed: %v", err)
			}
		})
		// Between the look and the seal of one unlock.
		t.Run(name+", while it seals", func(t *testing.T) {
			i := &identities{admitted: []appliance.Admitted{alice, bob}}
			i.sealAll = func(context.Context, func(name, value string) error) error { i.admitted = after; return nil }
			b := awaiting(t, i)
			digest := admission(t, b).Digest
			wantCode(t, errorOf(b.Appliance.ConfirmAdmission(ctx, digest, "alice")), fault.AdmissionUnconfirmed)
			wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
			if i.sealed != nil || b.Appliance.Held() == nil {
				t.Errorf("sealed %v, held %v", i.sealed, b.Appliance.Held())
			}
			i.admitted, i.sealAll = []appliance.Admitted{alice, bob}, nil
			if err := errorOf(b.Appliance.ConfirmAdmission(ctx, digest, "alice")); err != nil || b.Appliance.Locked() {
				t.Errorf("as it was confirmed: %v", err)
			}
		})
	}
}

// TestNobodyToAsk: where there is nobody, the first unlock waits for nobody.
func TestNobodyToAsk(t *testing.T) {
	refused := appliance.Admit(appliance.AdmittedToken, "robot", "administrator", appliance.Binding{Purpose: "api-token"}, true)
	for name, all := range map[string][]appliance.Admitted{"empty": nil, "refused": {refused}} {
		t.Run(name, func(t *testing.T) {
			i := &identities{admitted: all}
			b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: i}})
			if a := admission(t, b); a.Unconfirmed || a.Confirmed.By == "" || i.by.By != a.Confirmed.By {
				t.Errorf("%+v, recorded %+v", a, i.by)
			}
		})
	}
}

// TestSettingsAreAsked: a setting that was chosen before the first unlock is among what a
// person confirms.
func TestSettingsAreAsked(t *testing.T) {
	for name, value := range map[string]string{appliance.SettingFourEyes: `{"operations":["block"]}`, appliance.SettingSetup: appliance.SettingDone, appliance.SettingBootstrap: appliance.SettingDone} {
		t.Run(name, func(t *testing.T) {
			b := awaiting(t, &identities{admitted: []appliance.Admitted{person("alice", "administrator")}})
			b.Appliance.Lock()
			digest := admission(t, b).Digest
			if err := errorOf(b.Appliance.ConfirmAdmission(ctx, digest, "alice")); err != nil {
				t.Fatal(err)
			}
			if err := b.Appliance.SetSetting(ctx, name, value); err != nil {
				t.Fatal(err)
			}
			wantCode(t, b.Appliance.Unlock(ctx, keyring.New(b.Token), nil), fault.AdmissionUnconfirmed)
			wantCode(t, errorOf(b.Appliance.ConfirmAdmission(ctx, digest, "alice")), fault.AdmissionChanged)
			if err := errorOf(b.Appliance.ConfirmAdmission(ctx, admission(t, b).Digest, "alice")); err != nil {
				t.Fatal(err)
			}
			if got := must(b.Appliance.Setting(ctx, name))(t); got != value {
				t.Errorf("it is %s", got)
			}
		})
	}
}

// TestBeginAsks: an installation that is begun beside the traces of another seals only whom
// somebody has confirmed.
func TestBeginAsks(t *testing.T) {
	before := appliancetest.Start(t, appliancetest.Options{})
	before.Stop()
	i := &identities{admitted: []appliance.Admitted{person("alice", "administrator")}}
	b := appliancetest.Start(t, appliancetest.Options{Token: before.Device, Locked: fault.StateMissing, Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: i}})
	wantCode(t, errorOf(b.Appliance.Begin(ctx)), fault.AdmissionUnconfirmed)
	wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
	wantCode(t, b.Appliance.Held(), fault.StateMissing)
	if err := errorOf(b.Appliance.ConfirmAdmission(ctx, admission(t, b).Digest, "alice")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, b.Appliance.Held(), fault.StateMissing)
	if err := errorOf(b.Appliance.Begin(ctx)); err != nil || i.by.By != "alice" {
		t.Errorf("%v, by %+v", err, i.by)
	}
}

// TestUpgradeIsConfirmedLater: rows of before there were seals are sealed as they are, as
// nobody could sign in to confirm them; until somebody does, it says so.
func TestUpgradeIsConfirmedLater(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.Stop()
	asBefore(t, b)
	i := &identities{admitted: []appliance.Admitted{person("alice", "administrator")}}
	o := appliancetest.Options{Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: i}}
	b = appliancetest.Restart(t, b, o)
	a := admission(t, b)
	if !a.Installed || !a.Unconfirmed || i.by.By != "" || len(i.sealed) != 4 {
		t.Errorf("%+v, recorded %+v", a, i.by)
	}
	wantCode(t, errorOf(b.Appliance.ConfirmAdmission(ctx, "0"+a.Digest[1:], "alice")), fault.AdmissionChanged)
	if err := errorOf(b.Appliance.ConfirmAdmission(ctx, a.Digest, "alice")); err != nil {
		t.Fatal(err)
	}
	b = appliancetest.Restart(t, b, o)
	if a := admission(t, b); a.Unconfirmed || a.Confirmed.By != "alice" {
		t.Errorf("after a restart: %+v", a)
	}
	b.Appliance.Lock()
	wantCode(t, errorOf(b.Appliance.Admission(ctx)), fault.Locked)
	wantCode(t, errorOf(b.Appliance.ConfirmAdmission(ctx, a.Digest, "alice")), fault.Locked)
	b.Stop()
	// Nor while the state is held.
	edit(t, b.DB, `UPDATE settings SET seal = x'00' WHERE name = 'setup'`)
	held := appliancetest.Start(t, appliancetest.Options{Dir: b.Dir, Token: b.Device, Appliance: o.Appliance, MayHold: true})
	if held.Held == nil {
		t.Error("the state is not held")
	}
	wantCode(t, errorOf(held.Appliance.Admission(ctx)), fault.Locked)
	wantCode(t, errorOf(held.Appliance.ConfirmAdmission(ctx, a.Digest, "alice")), fault.Locked)
	held.Stop()
	// That nobody's word is taken from the database.
	for _, statement := range []string{`DELETE FROM settings WHERE name = 'admission'`, `UPDATE settings SET value = '{"by":"mallory"}' WHERE name = 'admission'`, `UPDATE settings SET seal = NULL WHERE name = 'admission'`} {
		edit(t, b.DB, statement)
		o.Accept = true
		b = appliancetest.Restart(t, b, o)
		if a := admission(t, b); !a.Unconfirmed {
			t.Errorf("%s: %+v", statement, a)
		}
		if err := errorOf(b.Appliance.ConfirmAdmission(ctx, admission(t, b).Digest, "alice")); err != nil {
			t.Error(err)
		}
		b.Stop()
	}
}
