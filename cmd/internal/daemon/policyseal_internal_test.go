package daemon

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/machinekey"
	"holdfast/appliance/sqlite"
	"holdfast/attest"
)

// versioned is the policy of that version.
func versioned(n uint64) attest.SignedID {
	return attest.SignedID{Version: n, Digest: bytes.Repeat([]byte{byte(n)}, 32)}
}

// known has the daemon think that it was appraised by the policy of that version.
func known(d *Daemon, n uint64) {
	d.noted.Store(&boot.Noted{Policy: versioned(n)})
}

// sealedPolicy is a daemon that has noted and sealed version 1 of the policy.
func sealedPolicy(t *testing.T, key []byte) (*Daemon, *journal) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "machine.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	d := &Daemon{machine: s.Machine()}
	j := &journal{Journal: d.machine, raised: d.policyRaised}
	if _, err := j.RaisePolicyVersion(t.Context(), versioned(1)); err != nil {
		t.Fatal(err)
	}
	if err := d.machineKey.Set(key); err != nil {
		t.Fatal(err)
	}
	if err := d.sealPolicyVersion(t.Context(), boot.Noted{Policy: versioned(1)}, &d.machineKey); err != nil {
		t.Fatal(err)
	}
	return d, j
}

// TestPolicySealNeverFalls: the sealed version of the policy is at least what was noted while
// the appliance ran, whichever key of the fleet is taken over after it, and whatever version the
// process began with.
func TestPolicySealNeverFalls(t *testing.T) {
	own, other := bytes.Repeat([]byte{1}, machinekey.Bytes), bytes.Repeat([]byte{2}, machinekey.Bytes)
	next := func() *machinekey.Key {
		k := &machinekey.Key{}
		if err := k.Set(bytes.Clone(other)); err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, c := range map[string]struct {
		before func(d *Daemon) // what has come before version 2 is noted
		after  func(d *Daemon) // and after it
		by     func(d *Daemon) [][]*machinekey.Key
	}{
		"the fleet's key is the same": {by: func(d *Daemon) [][]*machinekey.Key { return [][]*machinekey.Key{{&d.machineKey}} }},
		"the fleet's key is another": {by: func(d *Daemon) [][]*machinekey.Key {
			k := next()
			return [][]*machinekey.Key{{k, &d.machineKey}, {k}}
		}},
		"the key was not there": {
			before: func(d *Daemon) { d.machineKey.Wipe() },
			by:     func(d *Daemon) [][]*machinekey.Key { return [][]*machinekey.Key{{next()}} }},
		"the process knows a lower one": {
			after: func(d *Daemon) { known(d, 1) },
			by: func(d *Daemon) [][]*machinekey.Key {
				return [][]*machinekey.Key{{&d.machineKey}, {next(), &d.machineKey}}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			d, j := sealedPolicy(t, bytes.Clone(own))
			if c.before != nil {
				c.before(d)
			}
			if _, err := j.RaisePolicyVersion(t.Context(), versioned(2)); err != nil {
				t.Fatal(err)
			}
			if c.after != nil {
				c.after(d)
			}
			for i, keys := range c.by(d) {
				if err := d.sealPolicyAgain(t.Context(), keys...); err != nil {
					t.Fatal(err)
				}
				_, sealed, seal, err := d.machine.PolicySeal(t.Context())
				if err != nil || !sealed.Policy.Is(versioned(2)) {
					t.Fatalf("time %d: %+v is sealed: %v", i, sealed, err)
				}
				for _, k := range keys {
					if is, err := k.SealedBy(policyBinding(sealed), seal); !is || err != nil {
						t.Errorf("time %d: the seal is not of the key: %v", i, err)
					}
				}
			}
		})
	}
}

// TestPolicySealOfAnother: a version that none of the keys has sealed is not kept.
func TestPolicySealOfAnother(t *testing.T) {
	d, _ := sealedPolicy(t, bytes.Repeat([]byte{1}, machinekey.Bytes))
	known(d, 1)
	if err := d.machine.SealPolicyVersion(t.Context(), boot.Noted{Policy: versioned(9)}, bytes.Repeat([]byte{7}, 32)); err != nil {
		t.Fatal(err)
	}
	if err := d.sealPolicyAgain(t.Context(), &d.machineKey); err != nil {
		t.Fatal(err)
	}
	if _, sealed, _, err := d.machine.PolicySeal(t.Context()); !sealed.Policy.Is(versioned(1)) || err != nil {
		t.Errorf("%+v is sealed: %v", sealed, err)
	}
}

// TestPoliciesOfOneVersion: of two policies of one version the first counts, also where the
// row says otherwise; what a former release sealed has no digest, and takes one.
func TestPoliciesOfOneVersion(t *testing.T) {
	d, j := sealedPolicy(t, bytes.Repeat([]byte{1}, machinekey.Bytes))
	other := attest.SignedID{Version: 1, Digest: bytes.Repeat([]byte{9}, 32)}
	if highest, err := j.RaisePolicyVersion(t.Context(), other); err != nil || !highest.Is(versioned(1)) {
		t.Errorf("noted is %+v, %v", highest, err)
	}
	if err := d.raisePolicySeal(t.Context(), boot.Noted{Policy: other}); fault.CodeOf(err) != fault.PolicyVersion || !strings.Contains(err.Error(), "raise its version") {
		t.Errorf("another policy of the sealed version: %v", err)
	}
	if err := d.sealPolicyVersion(t.Context(), boot.Noted{Policy: attest.SignedID{Version: 1}}, &d.machineKey); err != nil { // as a former release
		t.Fatal(err)
	}
	if err := d.raisePolicySeal(t.Context(), boot.Noted{Policy: versioned(1)}); err != nil {
		t.Error(err)
	}
	if err := d.raisePolicySeal(t.Context(), boot.Noted{Policy: other}); fault.CodeOf(err) != fault.PolicyVersion {
		t.Errorf("another policy after the digest was taken: %v", err)
	}
}

// TestRecoverySealed: the TCB recovery file is sealed with the policy; an older one, another
// one of the same version and none are refused, also where the row was made to say otherwise.
func TestRecoverySealed(t *testing.T) {
	d, j := sealedPolicy(t, bytes.Repeat([]byte{1}, machinekey.Bytes))
	known(d, 1)
	for _, n := range []uint64{1, 3} {
		if highest, err := j.RaiseRecovery(t.Context(), versioned(n)); err != nil || !highest.Is(versioned(n)) {
			t.Fatalf("%+v, %v", highest, err)
		}
	}
	both := boot.Noted{Policy: versioned(1), Recovery: versioned(3)}
	if _, sealed, _, err := d.machine.PolicySeal(t.Context()); err != nil || !sealed.Is(both) {
		t.Fatalf("%+v is sealed: %v", sealed, err)
	}
	for name, next := range map[string]attest.SignedID{"none": {}, "older": versioned(2), "another": {Version: 3, Digest: bytes.Repeat([]byte{9}, 32)}} {
		if err := d.raisePolicySeal(t.Context(), boot.Noted{Policy: versioned(1), Recovery: next}); fault.CodeOf(err) != fault.RecoveryFile {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A newer policy keeps it.
	if _, err := j.RaisePolicyVersion(t.Context(), versioned(2)); err != nil {
		t.Fatal(err)
	}
	both.Policy = versioned(2)
	_, sealed, seal, err := d.machine.PolicySeal(t.Context())
	if err != nil || !sealed.Is(both) {
		t.Errorf("%+v is sealed: %v", sealed, err)
	}
	// The machine's key is exchanged by a process that did not see it.
	known(d, 2)
	if err := d.sealPolicyAgain(t.Context(), &d.machineKey); err != nil {
		t.Fatal(err)
	}
	if _, sealed, _, err := d.machine.PolicySeal(t.Context()); err != nil || !sealed.Is(both) {
		t.Errorf("%+v is sealed again: %v", sealed, err)
	}
	// Somebody writes that there was none.
	if err := d.machine.SealPolicyVersion(t.Context(), boot.Noted{Policy: versioned(2)}, seal); err != nil {
		t.Fatal(err)
	}
	if err := d.raisePolicySeal(t.Context(), boot.Noted{Policy: versioned(2)}); fault.CodeOf(err) != fault.PolicyVersion {
		t.Errorf("the row was changed: %v", err)
	}
}
