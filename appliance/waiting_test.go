package appliance_test

import (
	"context"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// pause stops what passes it, once it is armed, until the test has done something.
type pause struct{ during atomic.Pointer[func()] }

// arm has the next one that passes call f.
func (p *pause) arm(f func()) { p.during.Store(&f) }

func (p *pause) pass() {
	if f := p.during.Swap(nil); f != nil {
		(*f)()
	}
}

// slowHSM is a keyring whose keys pass a pause when they have done their work.
type slowHSM struct {
	appliance.Keyring
	pause *pause
}

func (r slowHSM) Unlock(v *appliance.KeyVersion) (appliance.UnlockedKey, error) {
	u, err := r.Keyring.Unlock(v)
	if err != nil {
		return nil, err
	}
	return slowKey{u, r.pause}, nil
}

type slowKey struct {
	appliance.UnlockedKey
	pause *pause
}

func (k slowKey) Encrypt(ctx context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	defer k.pause.pass()
	return k.UnlockedKey.Encrypt(ctx, plaintext, aad)
}

func (k slowKey) Decrypt(ctx context.Context, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	defer k.pause.pass()
	return k.UnlockedKey.Decrypt(ctx, iv, ciphertext, tag, aad)
}

// slowLog is a recorder that passes a pause when a record is durable.
type slowLog struct {
	pause *pause
	codes []fault.Code
}

func (l *slowLog) RecordOutcome(_ context.Context, o *appliance.Outcome) error {
	l.codes = append(l.codes, fault.CodeOf(o.Err))
	l.pause.pass()
	return nil
}

func (l *slowLog) Ready() error { return nil }

// TestWaiting: a request that waits in the HSM, or in the audit log, while a change
// returns is refused, and the last record of it says so.
func TestWaiting(t *testing.T) {
	everything := appliance.BlockTarget{Everything: true}
	key, keyStore := appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}, appliance.BlockTarget{KeyStore: "demo"}
	changes := map[string]struct {
		make func(a *appliance.Appliance, grant, credential string) error
		want fault.Code
	}{
		"block key":        {func(a *appliance.Appliance, _, _ string) error { return second(a.Block(ctx, key, "x", "alice")) }, fault.Conflict},
		"block key store":  {func(a *appliance.Appliance, _, _ string) error { return second(a.Block(ctx, keyStore, "x", "alice")) }, fault.Conflict},
		"block everything": {func(a *appliance.Appliance, _, _ string) error { return second(a.Block(ctx, everything, "x", "alice")) }, fault.Conflict},
		"key disable": {func(a *appliance.Appliance, _, _ string) error {
			return second(a.SetKeyEnabled(ctx, "demo", "k", false))
		}, fault.Conflict},
		"grant remove": {func(a *appliance.Appliance, grant, _ string) error { return a.RemoveGrant(ctx, "demo", grant) }, fault.Denied},
		"policy": {func(a *appliance.Appliance, _, _ string) error {
			return a.SetPolicy(ctx, "demo", appliance.Policies{Cedar: "forbid (principal, action, resource);"})
		}, fault.Denied},
		"credential disable": {func(a *appliance.Appliance, _, id string) error {
			return second(a.SetCredentialActive(ctx, "demo", id, false))
		}, fault.Unauthenticated},
		"credential delete": {func(a *appliance.Appliance, _, id string) error { return a.DeleteCredential(ctx, "demo", id) }, fault.Unauthenticated},
		"lock":              {func(a *appliance.Appliance, _, _ string) error { a.Lock(); return nil }, fault.Locked},
		"a change of no concern": {func(a *appliance.Appliance, _, _ string) error {
			return second(a.CreateKeyStore(ctx, appliance.KeyStore{Name: "other", URIPathPrefix: "/other"}))
		}, ""},
		"a rotation": {func(a *appliance.Appliance, _, _ string) error { return second(a.RotateKey(ctx, "demo", "k", nil)) }, ""},
	}
	for name, change := range changes {
		for _, where := range []string{"HSM", "log"} {
			for _, op := range []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt} {
				t.Run(name+"/"+where+"/"+string(op), func(t *testing.T) {
					inHSM, log := &pause{}, &slowLog{pause: &pause{}}
					b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Recorder: log},
						Keyring: func(r appliance.Keyring) appliance.Keyring { return slowHSM{r, inHSM} }})
					k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
					b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
					request := appliancetest.Encrypt("k", "x")
					if sealed := k.OK(request).Ciphertext; op == appliance.OpDecrypt {
						request = appliancetest.Decrypt("k", sealed)
					}
					grant := must(b.Appliance.Grants(ctx, "demo"))(t)[0].ID
					p := map[string]*pause{"HSM": inHSM, "log": log.pause}[where]
					p.arm(func() {
						if err := change.make(b.Appliance, grant, k.AccessKeyID); err != nil {
							t.Error(err)
						}
					})
					if _, err := k.Call(request); fault.CodeOf(err) != change.want {
						t.Errorf("got %v, want %s", err, change.want)
					}
					if last := log.codes[len(log.codes)-1]; last != change.want {
						t.Errorf("the last record says %q, want %q", last, change.want)
					}
				})
			}
		}
	}
}
