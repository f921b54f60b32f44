package appliance_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
)

// TestSettingsAreSealed: a setting that was changed or taken away in the database
// is not valid, and says so; one that was never made has no value.
func TestSettingsAreSealed(t *testing.T) {
	for name, statement := range map[string]string{
		"value":        `UPDATE settings SET value = '{"operations":[]}' WHERE name = 'four_eyes'`,
		"no seal":      `UPDATE settings SET seal = NULL`,
		"empty seal":   `UPDATE settings SET seal = x''`,
		"another's":    `UPDATE settings SET value = (SELECT value FROM settings WHERE name = 'setup'), seal = (SELECT seal FROM settings WHERE name = 'setup') WHERE name = 'four_eyes'`,
		"row gone":     `DELETE FROM settings WHERE name = 'four_eyes'`,
		"all are gone": `DELETE FROM settings`,
	} {
		t.Run(name, func(t *testing.T) {
			o := appliancetest.Options{Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t)}}
			b := appliancetest.Start(t, o)
			const value = `{"operations":["scheduleKeyDeletion"]}`
			if err := b.Appliance.SetSetting(ctx, appliance.SettingFourEyes, value); err != nil {
				t.Fatal(err)
			}
			if got := must(b.Appliance.Setting(ctx, appliance.SettingFourEyes))(t); got != value {
				t.Fatalf("it is %s", got)
			}
			b.Appliance.Lock()
			if got, err := b.Appliance.Setting(ctx, appliance.SettingFourEyes); fault.CodeOf(err) != fault.Locked || got != value {
				t.Errorf("locked: %q, %v", got, err)
			}
			b.Stop()
			edit(t, b.DB, statement)
			o.Dir, o.Token, o.Accept = b.Dir, b.Device, true
			b = appliancetest.Start(t, o)
			wantCode(t, errorOf(b.Appliance.Setting(ctx, appliance.SettingFourEyes)), fault.Tampered)
			b.Appliance.Lock()
			wantCode(t, errorOf(b.Appliance.Setting(ctx, appliance.SettingFourEyes)), fault.Tampered)
			wantCode(t, b.Appliance.SetSetting(ctx, appliance.SettingFourEyes, value), fault.Locked)
		})
	}
}

func errorOf[T any](_ T, err error) error { return err }

// TestNoInstallationBesideKeyStores: without the row of the installation nothing is
// founded in a database that has key stores.
func TestNoInstallationBesideKeyStores(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.Appliance.Lock()
	edit(t, b.DB, `DELETE FROM installation`)
	fresh := appliance.New(appliance.Options{Store: b.Store, MachineKey: appliancetest.NewMachineKey(t)})
	err := fresh.Unlock(ctx, keyring.New(b.Token), nil)
	if fault.CodeOf(err) != fault.Tampered || !strings.Contains(err.Error(), "restore the last good backup into a fresh appliance") {
		t.Errorf("%v", err)
	}
	wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
	// Nor are users taken as they are.
	wantCode(t, fresh.Seals().Verify(ctx, appliance.Binding{Purpose: "user"}, nil), fault.Tampered)
	wantCode(t, errorOf(fresh.Setting(ctx, "no such setting")), fault.Tampered)
}

// TestFirstUnlockSeals: what other packages keep is sealed before there is an
// installation, and not again; if it cannot be, there is none.
func TestFirstUnlockSeals(t *testing.T) {
	row := appliance.Binding{Purpose: "row"}
	var seal []byte
	var a *appliance.Appliance
	fail := errors.New("no")
	calls := 0
	o := appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Identities: &identities{sealAll: func(ctx context.Context, set func(name, value string) error) (err error) {
		if calls++; fail != nil {
			return fail
		}
		if seal, err = a.Seals().Seal(ctx, row); err != nil {
			return err
		}
		return set(appliance.SettingSetup, appliance.SettingDone)
	}}}
	b := appliancetest.Start(t, appliancetest.Options{})
	b.Appliance.Lock()
	edit(t, b.DB, `DELETE FROM installation; DELETE FROM settings; DELETE FROM manifests`)
	o.Store = b.Store
	a = appliance.New(o)
	if err := a.Found(ctx); err != nil {
		t.Fatal(err)
	}
	early := must(a.Seals().Seal(ctx, row))(t)
	wantCode(t, a.Seals().Verify(ctx, row, early), "")
	wantCode(t, a.Seals().Verify(ctx, appliance.Binding{Purpose: "another"}, early), fault.Tampered)
	for what, wrong := range map[string][]byte{"none": nil, "empty": {}, "cut": early[:20], "other format": append([]byte{1}, early[1:]...)} {
		if err := a.Seals().Verify(ctx, row, wrong); fault.CodeOf(err) != fault.Tampered {
			t.Errorf("before there is an installation, %s: %v", what, err)
		}
	}
	begin := func() error {
		wantCode(t, a.Unlock(ctx, keyring.New(b.Token), nil), fault.StateMissing)
		return errorOf(a.Begin(ctx))
	}
	if err := begin(); !errors.Is(err, fail) {
		t.Fatalf("%v", err)
	}
	wantCode(t, errorOf(b.Store.Installation(ctx)), fault.NotFound)
	fail = nil
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, a.Seals().Verify(ctx, row, seal), "")
	for what, wrong := range map[string][]byte{"none": nil, "empty": {}, "cut": seal[:20]} {
		if err := a.Seals().Verify(ctx, row, wrong); fault.CodeOf(err) != fault.Tampered {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantCode(t, a.Seals().Verify(ctx, appliance.Binding{Purpose: "another"}, seal), fault.Tampered)
	if got := must(a.Setting(ctx, appliance.SettingSetup))(t); got != appliance.SettingDone {
		t.Errorf("setup is %s", got)
	}
	wantCode(t, a.Seals().Verify(ctx, row, early), fault.Tampered) // the machine's seal alone
	a.Lock()
	wantCode(t, a.Seals().Verify(ctx, row, seal), fault.Locked)
	var unsealed *fault.Fault
	if err := a.Seals().Verify(ctx, row, seal[33:]); !errors.As(err, &unsealed) || unsealed.Codes() != "tampered,E_UNSEALED" {
		t.Errorf("the state key's seal alone, while locked: %v", err)
	}
	wantCode(t, errorOf(a.Seals().Seal(ctx, row)), fault.Locked)
	if err := a.Unlock(ctx, keyring.New(b.Token), nil); err != nil || calls != 2 {
		t.Errorf("%v, sealed %d times", err, calls)
	}
}

// TestInstallationTakenAway: who deletes the row of the installation while the appliance is
// locked does not make it one of before its first unlock.
func TestInstallationTakenAway(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.Appliance.Lock()
	edit(t, b.DB, `DELETE FROM installation; DELETE FROM settings; DELETE FROM manifests`)
	o := appliance.Options{MachineKey: appliancetest.NewMachineKey(t), Store: b.Store}
	a := appliance.New(o)
	if err := a.Found(ctx); err != nil {
		t.Fatal(err)
	}
	row := appliance.Binding{Purpose: "row"}
	before := must(a.Seals().Seal(ctx, row))(t)
	wantCode(t, a.Unlock(ctx, keyring.New(b.Token), nil), fault.StateMissing)
	must(a.Begin(ctx))(t)
	since := must(a.Seals().Seal(ctx, row))(t)
	if err := a.RenewSeals(ctx, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	a.Lock()
	for _, seal := range [][]byte{before, since} { // of before too, as an unlock may be interrupted
		wantCode(t, a.Seals().Verify(ctx, row, seal), fault.Locked)
	}
	edit(t, b.DB, `DELETE FROM installation`)
	a = appliance.New(o)
	wantCode(t, a.Seals().Verify(ctx, row, since), fault.Tampered)
	wantCode(t, a.Seals().Admit(row, since), fault.Tampered)
	for _, name := range []string{appliance.SettingFourEyes, appliance.SettingSetup, appliance.SettingBootstrap} {
		wantCode(t, errorOf(a.Setting(ctx, name)), fault.Tampered)
	}
}

// identities are those of a test.
type identities struct {
	admitted []appliance.Admitted
	sealAll  func(ctx context.Context, set func(name, value string) error) error
	// sealed is what was recorded, and by whose word.
	sealed []appliance.Admitted
	by     appliance.Confirmation
}

func (i *identities) Admissions(context.Context) ([]appliance.Admitted, error) {
	return i.admitted, nil
}

func (i *identities) SealAll(ctx context.Context, set func(name, value string) error) ([]appliance.Admitted, error) {
	if i.sealAll == nil {
		return i.admitted, nil
	}
	return i.admitted, i.sealAll(ctx, set)
}

func (i *identities) Sealed(_ context.Context, all []appliance.Admitted, c appliance.Confirmation) error {
	i.sealed, i.by = all, c
	return nil
}

// asBefore puts the database of a bed, which is stopped, back to what a release
// made that sealed fewer rows.
func asBefore(t *testing.T, b *appliancetest.Bed) {
	t.Helper()
	b = appliancetest.Start(t, appliancetest.Options{Dir: b.Dir, Token: b.Device})
	in := must(b.Store.Installation(ctx))(t)
	now := appliance.Binding{Purpose: "state-key/v3", Fields: []string{in.ID}}
	before := appliance.Binding{Purpose: "state-key", Fields: []string{in.ID}}
	raw := must(b.Token.Unwrap(ctx, in.WrappedStateKey, now.AAD()))(t)
	was := *in
	in.WrappedStateKey = must(b.Token.Wrap(ctx, raw, before.AAD()))(t)
	b.Appliance.Lock()
	edit(t, b.DB, `DELETE FROM manifests`)
	if err := b.Store.UpgradeInstallation(ctx, in, &was); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	edit(t, b.DB, `UPDATE installation SET block_seal = NULL WHERE block_since IS NULL; DELETE FROM settings`)
}

// TestUpgrade: a database of before all rows had seals gets them at the first
// unlock, as it is; from then on a missing one is not valid.
func TestUpgrade(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.Stop()
	asBefore(t, b)
	b = restart(t, b, k, appliancetest.Options{})
	k.OK(appliancetest.Encrypt("k", "x"))
	if !strings.Contains(b.Log.String(), "before all rows had seals") {
		t.Error("the log does not say that rows were sealed")
	}
	if got := must(b.Appliance.Setting(ctx, appliance.SettingFourEyes))(t); got != `{"operations":[]}` {
		t.Errorf("four eyes: %s", got)
	}
	made, err := b.Appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"}, seed, recorded)
	if made || err != nil {
		t.Errorf("a key store of the configuration: %v %v", made, err)
	}
	b.Stop()
	for _, again := range []string{`UPDATE installation SET block_seal = NULL`, `DELETE FROM settings`} {
		edit(t, b.DB, again)
		b = restart(t, b, k, appliancetest.Options{Accept: true})
		wantCode(t, errorOf(b.Appliance.Setting(ctx, appliance.SettingFourEyes)), map[bool]fault.Code{true: "", false: fault.Tampered}[strings.HasPrefix(again, "UPDATE")])
		if _, err := k.Call(appliancetest.Encrypt("k", "x")); err == nil {
			t.Errorf("%s: it serves", again)
		}
		b.Stop()
	}
}

// TestUpgradeKeepsABlock: what was blocked before stays so.
func TestUpgradeKeepsABlock(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	must(b.Appliance.Block(ctx, everything, "a test", "alice"))(t)
	b.Stop()
	asBefore(t, b)
	b = restart(t, b, k, appliancetest.Options{})
	if _, err := k.Call(appliancetest.Encrypt("k", "x")); err == nil {
		t.Error("it serves")
	}
	if got := b.Appliance.Status(ctx).Blocked.Reason; got != "a test" {
		t.Errorf("blocked: %q", got)
	}
}

// everything is the target of a block of everything.
var everything = appliance.BlockTarget{Everything: true}

// seed is the credential of the seed's section, which KMS itself would refuse.
var seed = appliance.NewCredential{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}

func recorded(*appliance.KeyStore, *appliance.Credential) error { return nil }

// TestBootstrap: the section of the seed makes a key store once, with a secret that
// KMS would refuse.
func TestBootstrap(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	for i := range 2 {
		made, err := b.Appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"}, seed, recorded)
		if err != nil || made != (i == 0) {
			t.Fatal(made, err)
		}
	}
	k := &appliancetest.Client{T: t, Appliance: b.Appliance, AccessKeyID: seed.AccessKeyID, SecretAccessKey: seed.SecretAccessKey}
	k.OK(appliancetest.Health())
}

// TestBootstrapBringsNothingBack: what a person has removed, or made otherwise, is
// not made again, in this process or the next.
func TestBootstrapBringsNothingBack(t *testing.T) {
	boot := func(t *testing.T, b *appliancetest.Bed) (bool, error) {
		return b.Appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"}, seed, recorded)
	}
	for name, tt := range map[string]struct {
		first  bool // whether the section was there at the first start
		change func(a *appliance.Appliance) error
	}{
		"credential deleted": {true, func(a *appliance.Appliance) error { return a.DeleteCredential(ctx, "default", seed.AccessKeyID) }},
		"credential deactivated": {true, func(a *appliance.Appliance) error {
			return errorOf(a.SetCredentialActive(ctx, "default", seed.AccessKeyID, false))
		}},
		"key store deleted": {true, func(a *appliance.Appliance) error { return a.DeleteKeyStore(ctx, "default") }},
		"another key store": {false, func(a *appliance.Appliance) error {
			return errorOf(a.CreateKeyStore(ctx, appliance.KeyStore{Name: "other"}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := appliancetest.Start(t, appliancetest.Options{})
			if tt.first {
				if made, err := boot(t, b); err != nil || !made {
					t.Fatal(made, err)
				}
			}
			if err := tt.change(b.Appliance); err != nil {
				t.Fatal(err)
			}
			before := must(b.Appliance.KeyStores(ctx))(t)
			for range 2 {
				if made, err := boot(t, b); err != nil || made {
					t.Fatal(made, err)
				}
				b.Stop()
				b = appliancetest.Start(t, appliancetest.Options{Dir: b.Dir, Token: b.Device})
			}
			after := must(b.Appliance.KeyStores(ctx))(t)
			if len(after) != len(before) {
				t.Errorf("there are %d key stores, and were %d", len(after), len(before))
			}
			for _, ks := range after {
				for _, c := range must(b.Appliance.Credentials(ctx, ks.Name))(t) {
					if c.Active {
						t.Errorf("%s is active", c.AccessKeyID)
					}
				}
			}
			if name == "another key store" { // nor when the store is empty once more
				if err := b.Appliance.DeleteKeyStore(ctx, "other"); err != nil {
					t.Fatal(err)
				}
				if made, err := boot(t, b); err != nil || made {
					t.Error(made, err)
				}
			}
			// Nor when the setting that remembers it is gone from the database.
			b.Stop()
			edit(t, b.DB, `DELETE FROM settings`)
			b = appliancetest.Start(t, appliancetest.Options{Dir: b.Dir, Token: b.Device, Accept: true})
			if made, err := boot(t, b); err != nil || made {
				t.Error(made, err)
			}
		})
	}
}

// TestBootstrapGoesOn: if it could not be recorded, or the process ended half-way,
// the next start goes on, and the record comes before it counts as done.
func TestBootstrapGoesOn(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	full := errors.New("the disk is full")
	if _, err := b.Appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"}, seed, func(*appliance.KeyStore, *appliance.Credential) error { return full }); !errors.Is(err, full) {
		t.Fatalf("%v", err)
	}
	b.Stop()
	b = appliancetest.Start(t, appliancetest.Options{Dir: b.Dir, Token: b.Device})
	var store, key string
	made, err := b.Appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"}, seed, func(ks *appliance.KeyStore, c *appliance.Credential) error {
		store, key = ks.Name, c.AccessKeyID
		return nil
	})
	if err != nil || !made || store != "default" || key != seed.AccessKeyID {
		t.Errorf("%v %v %q %q", made, err, store, key)
	}
}
