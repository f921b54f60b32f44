package appliance

import (
	"context"
	"encoding/base64"

	"holdfast/appliance/fault"
)

// A fleet secret is what all nodes have, and no node before it is unlocked: it rests as a
// setting, sealed by [Keyring.SealShared].

// settingFleetMachineKey has the key by which all nodes of a fleet authenticate rows while they
// are locked ([MachineKey]).
const settingFleetMachineKey = "fleet_machine_key"

func secretBinding(name string) Binding {
	return Binding{Purpose: "fleet-secret", Fields: []string{name}}
}

// secret gives a fleet secret; the caller zeroizes it. fault.NotFound; fault.Locked;
// fault.Tampered.
func (s *Settings) secret(ctx context.Context, name string) ([]byte, error) {
	if _, err := s.seals.shared(); err != nil {
		return nil, err
	}
	row, err := s.store.Setting(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := s.seals.Verify(ctx, settingBinding(name, row.Value), row.Seal); err != nil {
		return nil, err
	}
	sealed, err := base64.StdEncoding.DecodeString(row.Value)
	if err != nil {
		return nil, fault.Wrapf(fault.Tampered, err, "the setting %s cannot be read", name)
	}
	return s.seals.OpenShared(secretBinding(name), sealed)
}

// leaveSecret makes a fleet secret; fault.Changed if there is one.
func (s *Settings) leaveSecret(ctx context.Context, name string, secret []byte) error {
	defer s.seals.Writing()()
	sealed, err := s.seals.SealShared(secretBinding(name), secret)
	if err != nil {
		return err
	}
	value := base64.StdEncoding.EncodeToString(sealed)
	seal, err := s.seals.Seal(ctx, settingBinding(name, value))
	if err != nil {
		return err
	}
	return s.store.SetSetting(ctx, &SettingRow{Name: name, Value: value, Seal: seal}, nil)
}

// FleetMachineKey gives the machine key of the fleet; the caller zeroizes it. fault.NotFound if
// no node has left one; fault.Locked.
func (s *Settings) FleetMachineKey(ctx context.Context) ([]byte, error) {
	return s.secret(ctx, settingFleetMachineKey)
}

// LeaveMachineKey leaves the machine key of this node for all others. fault.Changed if there is
// one; fault.Locked.
func (s *Settings) LeaveMachineKey(ctx context.Context, secret []byte) error {
	return s.leaveSecret(ctx, settingFleetMachineKey, secret)
}
