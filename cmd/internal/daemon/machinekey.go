package daemon

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

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
// nobody can sign in.
func (d *Daemon) openMachineKey(ctx context.Context, c *attest.Collector) {
	if d.closed() || d.machineKey.ID() != "" {
		return
	}
	err := func() error {
		f, err := d.machineKeyFile(c)
		if err != nil {
			return err
		}
		secret, err := f.Read()
		if errors.Is(err, fs.ErrNotExist) {
			return d.makeMachineKey(ctx, f)
		}
		if err != nil {
			return err
		}
		return d.machineKey.Set(secret)
	}()
	if err != nil {
		d.o.Log.Error("nobody can sign in before the keys are unlocked: the machine's key is not there", "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
	}
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
	if d.machineKey.ID() == "" {
		f, err := d.machineKeyFile(d.measured.Load())
		if err == nil {
			err = d.makeMachineKey(ctx, f)
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
