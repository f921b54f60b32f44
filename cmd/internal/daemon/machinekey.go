package daemon

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/machinekey"
	"holdfast/attest"
)

// MachineKeyFile is the file, in the state's folder, of the key by which this machine
// authenticates rows while the appliance is locked.
const MachineKeyFile = "machine-key"

// machineKeyFile is where the key rests: sealed to the TPM where the TPM releases the
// PIN.
func (d *Daemon) machineKeyFile(c *attest.Collector) (*machinekey.File, error) {
	f := &machinekey.File{Path: filepath.Join(d.o.Config.State.Dir, MachineKeyFile), Write: boot.WriteFile}
	r, sealed := releaser(d.o.Config).(*boot.SealedRelease)
	if !sealed {
		return f, nil
	}
	if c == nil || c.TPM == nil {
		return nil, fault.Errorf(fault.TPMFailed, "there is no TPM that keeps the machine's key")
	}
	f.TPM, f.SealKey, f.Authorizations = c.TPM, r.ReadKey, r.ReadAuthorizations
	return f, nil
}

// openMachineKey takes the machine's key, once, before the TPM is capped; at the first
// start it makes it. Without it the boot goes on, as the unlock makes another: until then
// nobody can sign in. With it the policy's version must be one that it has sealed.
func (d *Daemon) openMachineKey(ctx context.Context, c *attest.Collector, policy attest.SignedID) error {
	now := d.appraisedBy().With(boot.Noted{Policy: policy})
	d.noted.Store(&now)
	if d.closed() || d.machineKey.ID() != "" {
		return nil
	}
	made := false
	err := func() error {
		f, err := d.machineKeyFile(c)
		if err != nil {
			return err
		}
		secret, err := f.Read()
		if made = errors.Is(err, fs.ErrNotExist); made {
			return d.makeMachineKey(ctx, f)
		}
		if err != nil {
			return err
		}
		return d.machineKey.Set(secret)
	}()
	if err != nil {
		d.o.Log.Error("nobody can sign in before the keys are unlocked: the machine's key is not there", "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
		return nil
	}
	if made {
		return d.sealPolicyVersion(ctx, now, &d.machineKey)
	}
	return d.raisePolicySeal(ctx, now)
}

// policyRaised seals a policy, or a TCB recovery file, that was noted while the appliance runs,
// and keeps it for the seals of later. In a boot the machine's key comes later.
func (d *Daemon) policyRaised(ctx context.Context, now boot.Noted) error {
	now = d.appraisedBy().With(now)
	if d.machineKey.ID() != "" {
		if err := d.raisePolicySeal(ctx, now); err != nil {
			return err
		}
	}
	d.noted.Store(&now)
	return nil
}

// appraisedBy is what the machine was appraised by; of version 0 before.
func (d *Daemon) appraisedBy() boot.Noted {
	if n := d.noted.Load(); n != nil {
		return *n
	}
	return boot.Noted{}
}

// policyBinding is what the seal is of. A former release's is of the policy's version alone.
func policyBinding(of boot.Noted) appliance.Binding {
	b := appliance.Binding{Purpose: "policy-version", Fields: []string{strconv.FormatUint(of.Policy.Version, 10)}}
	if len(of.Policy.Digest) > 0 {
		b.Fields = append(b.Fields, hex.EncodeToString(of.Policy.Digest))
	}
	if r := of.Recovery; r.Version > 0 {
		b.Fields = append(b.Fields, "tcb", strconv.FormatUint(r.Version, 10), hex.EncodeToString(r.Digest))
	}
	return b
}

func (d *Daemon) sealPolicyVersion(ctx context.Context, of boot.Noted, by ...*machinekey.Key) error {
	seal, err := machinekey.SealBy(policyBinding(of), by...)
	if err == nil {
		err = d.machine.SealPolicyVersion(ctx, of, seal)
	}
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the policy's version %d cannot be sealed", of.Policy.Version)
	}
	return nil
}

// raisePolicySeal holds what was noted against the seal that this machine gave it, and seals
// the next.
func (d *Daemon) raisePolicySeal(ctx context.Context, next boot.Noted) error {
	highest, sealed, seal, err := d.machine.PolicySeal(ctx)
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the database does not tell which policy there was before")
	}
	matches, err := d.machineKey.SealedBy(policyBinding(sealed), seal)
	if err != nil {
		return err
	}
	if !matches || highest.Policy.Version < sealed.Policy.Version || highest.Recovery.Version < sealed.Recovery.Version {
		return fault.Errorf(fault.PolicyVersion, "the noted version of the policy, %d, or that of the TCB recovery file, %d, does not match the seal of this machine: the database was changed by hand; restore a backup into a fresh appliance", highest.Policy.Version, highest.Recovery.Version)
	}
	if err := sealed.Policy.CheckNext(next.Policy); err != nil {
		return fault.Errorf(fault.PolicyVersion, "the policy is refused: %s", err)
	}
	if err := sealed.Recovery.CheckNext(next.Recovery); err != nil {
		return fault.Errorf(fault.RecoveryFile, "the TCB recovery file is refused: %s", err)
	}
	if sealed.Is(next) {
		return nil
	}
	return d.sealPolicyVersion(ctx, next, &d.machineKey)
}

// sealPolicyAgain has policy and TCB recovery file sealed by these keys and no others. They
// are never lower ones than those that one of them has sealed.
func (d *Daemon) sealPolicyAgain(ctx context.Context, by ...*machinekey.Key) error {
	_, sealed, seal, err := d.machine.PolicySeal(ctx)
	if err != nil {
		return fault.Wrapf(fault.PolicyVersion, err, "the database does not tell which policy there was before")
	}
	now := d.appraisedBy()
	for _, k := range by {
		matches, err := k.SealedBy(policyBinding(sealed), seal)
		if err != nil {
			return err
		}
		if matches && sealed.Policy.CheckNext(now.Policy) != nil {
			now.Policy = sealed.Policy
		}
		if matches && sealed.Recovery.CheckNext(now.Recovery) != nil {
			now.Recovery = sealed.Recovery
		}
	}
	want, err := machinekey.SealBy(policyBinding(now), by...)
	if err != nil {
		return err
	}
	if sealed.Is(now) && hmac.Equal(want, seal) {
		return nil
	}
	return d.sealPolicyVersion(ctx, now, by...)
}

// makeMachineKey makes the key, and in a database without an installation the first
// settings, which it seals.
func (d *Daemon) makeMachineKey(ctx context.Context, f *machinekey.File) error {
	secret, save, err := f.New()
	if err != nil {
		return err
	}
	if err := d.machineKey.Set(secret); err != nil {
		return err
	}
	err = d.appliance.Found(ctx)
	if err == nil {
		err = save()
	}
	if err != nil {
		d.machineKey.Wipe()
		return err
	}
	d.o.Log.Info("the machine's key was made; rows that it has not sealed are refused while the appliance is locked", "file", f.Path, "id", d.machineKey.ID())
	return nil
}

// renewSeals has this machine seal what the state key has sealed: after an upgrade, after
// a restore, and where the machine's key was lost.
func (d *Daemon) renewSeals(ctx context.Context) error {
	if d.closed() {
		return nil
	}
	if err := d.joinMachineKey(ctx); err != nil {
		return err
	}
	if d.machineKey.ID() == "" {
		f, err := d.machineKeyFile(d.measured.Load())
		if err == nil {
			err = d.makeMachineKey(ctx, f)
		}
		if err == nil {
			err = d.sealPolicyVersion(ctx, d.appraisedBy(), &d.machineKey)
		}
		if err == nil {
			err = d.joinMachineKey(ctx)
		}
		if err != nil {
			return err
		}
	}
	return d.appliance.RenewSeals(ctx, func() error {
		d.o.Log.Info("users, API tokens, invitations, requests for approval and settings get the seal of this machine", "id", d.machineKey.ID())
		return errors.Join(d.users.RenewSeals(ctx), approval.RenewSeals(ctx, d.store, d.appliance.Seals()))
	})
}

// joinMachineKey has this machine take over the key of its fleet, or leaves its own to it: the
// rows that all nodes share have the seal of one key.
func (d *Daemon) joinMachineKey(ctx context.Context) error {
	if d.changes == nil {
		return nil
	}
	f, err := d.machineKeyFile(d.measured.Load())
	if err != nil {
		return err
	}
	taken, err := machinekey.Join(ctx, &d.machineKey, f, d.appliance, d.sealPolicyAgain)
	if fault.CodeOf(err) == fault.MachineKey { // it has none yet, and neither has the fleet
		return nil
	}
	if taken {
		d.o.Log.Info("the machine key of the fleet was taken over", "file", f.Path, "id", d.machineKey.ID())
	}
	return err
}
