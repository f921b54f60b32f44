package appliance

import (
	"context"
	"crypto/hmac"

	"holdfast/appliance/fault"
)

// MachineKey authenticates rows under a key that this machine alone has, also while
// the appliance is locked. By it a row has a second seal: before the first unlock, and
// while the appliance is locked, that is the only one that can be looked at.
type MachineKey interface {
	// MAC gives the 32 bytes of the row's MAC. fault.MachineKey while the key is not
	// there, as before the machine has measured itself.
	MAC(b Binding) ([]byte, error)
	// ID names the key; empty while it is not there.
	ID() string
}

// noMachineKey is the key of a machine that has none.
type noMachineKey struct{}

func (noMachineKey) MAC(Binding) ([]byte, error) {
	return nil, fault.Errorf(fault.MachineKey, "this machine has no key to authenticate rows with")
}

func (noMachineKey) ID() string { return "" }

// A seal is that of the state key alone, which begins with 1, or both: this byte, the
// machine's MAC, and the state key's, which is empty before the first unlock.
const (
	bothSeals = 2
	macBytes  = 32
)

// joinSeals gives the seal of a row with both of its parts.
func joinSeals(mac, state []byte) []byte {
	return append(append([]byte{bothSeals}, mac...), state...)
}

// splitSeals gives the parts of a row's seal; one that is not there is empty.
func splitSeals(seal []byte) (mac, state []byte) {
	if len(seal) > macBytes && seal[0] == bothSeals {
		return seal[1 : 1+macBytes], seal[1+macBytes:]
	}
	return nil, seal
}

// machineMAC gives the machine's MAC of a row: of one that is made in an installation, or of
// one that is made before there is any. They differ, so that who takes the installation's
// row away does not have all others count as those of an appliance before its first unlock.
func (s *Seals) machineMAC(b Binding, installed bool) ([]byte, error) {
	if installed {
		b.Purpose = "installed/" + b.Purpose
	}
	return s.machine.MAC(b)
}

// verifyByMachine says whether a row has this machine's seal. In an installation that of
// before counts too: the first unlock leaves it, and [Settings.RenewSeals] replaces it.
func (s *Seals) verifyByMachine(b Binding, seal []byte, installed bool) error {
	before, err := s.machineMAC(b, false)
	if err != nil {
		return err
	}
	since, err := s.machineMAC(b, true)
	if err != nil {
		return err
	}
	mac, _ := splitSeals(seal)
	if !hmac.Equal(mac, before) && !(installed && hmac.Equal(mac, since)) {
		return &fault.Fault{Code: fault.Tampered, Also: []fault.Code{fault.Unsealed},
			Message: "a stored " + b.Purpose + " has no seal of this machine, and while the appliance is locked no other can be looked at: the row was changed by hand, or it comes from another machine; unlock the appliance"}
	}
	return nil
}

// Renew gives the seal of a row whose state key's seal is good, with this machine's
// seal as well. fault.Tampered if that is not good; fault.Locked.
func (s *Seals) Renew(ctx context.Context, b Binding, seal []byte) ([]byte, error) {
	ring, err := s.ring(ctx)
	if err != nil {
		return nil, err
	}
	if ring == nil {
		return nil, fault.Errorf(fault.Locked, "there is no installation yet")
	}
	_, state := splitSeals(seal)
	if err := ring.Verify(b, state); err != nil {
		return nil, err
	}
	mac, err := s.machineMAC(b, true)
	if err != nil {
		return nil, err
	}
	return joinSeals(mac, state), nil
}

// Found seals the first settings, in a database without an installation, for a
// machine whose key was just made: from then on a setting that is missing was removed.
func (s *Settings) Found(ctx context.Context) error {
	installed, err := s.seals.Installed(ctx)
	if err != nil || installed {
		return err
	}
	defer s.seals.Writing()()
	for name, first := range firstSettings {
		if err := s.setSetting(ctx, name, first); err != nil {
			return err
		}
	}
	return nil
}

// RenewSeals gives the settings, and by f the rows that other packages keep, the seal of
// this machine, after those of the state key were found good. It does nothing if that was
// done with this machine's key before.
func (s *Settings) RenewSeals(ctx context.Context, f func() error) error {
	id := "installed/" + s.seals.machine.ID()
	if was, err := s.Setting(ctx, settingMachine); err == nil && was == id {
		return nil
	} else if code := fault.CodeOf(err); err != nil && code != fault.Tampered {
		return err
	}
	for name := range firstSettings {
		if err := s.renewSeal(ctx, name); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	return s.SetSetting(ctx, settingMachine, id)
}

// renewSeal gives a setting the seal of this machine, as it is: what another node has set
// meanwhile stays. One that does not match its seal stays as it is: refused.
func (s *Settings) renewSeal(ctx context.Context, name string) error {
	defer s.seals.Writing()()
	return retry(func() error {
		row, err := s.store.Setting(ctx, name)
		if fault.CodeOf(err) == fault.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		seal, err := s.seals.Renew(ctx, settingBinding(name, row.Value), row.Seal)
		if fault.CodeOf(err) == fault.Tampered {
			return nil
		}
		if err != nil {
			return err
		}
		return s.store.SetSetting(ctx, &SettingRow{Name: name, Value: row.Value, Seal: seal}, row)
	})
}

// settingMachine has the ID of the machine's key by which all rows are sealed, as those of
// an installation.
const settingMachine = "machine_key"
