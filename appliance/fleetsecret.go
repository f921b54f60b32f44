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

// settingCertificate has the TLS certificate that all nodes serve with, and its key.
const settingCertificate = "certificate"

// SharedCertificate gives what [Settings.KeepSharedCertificate] kept; the caller zeroizes it. It
// is nil if there is none, or if it is still that of the version known, which is empty for
// none. version is that of what there is. fault.Locked; fault.Tampered.
func (s *Settings) SharedCertificate(ctx context.Context, known string) (secret []byte, version string, err error) {
	row, err := s.certificateRow(ctx)
	if err != nil || row == nil || row.Value == "" || row.Value == known {
		return nil, valueOf(row), err
	}
	secret, err = s.secret(ctx, settingCertificate)
	return secret, row.Value, err
}

// certificateRow gives the row of the certificate; nil if there never was one.
func (s *Settings) certificateRow(ctx context.Context) (*SettingRow, error) {
	if _, err := s.seals.shared(); err != nil {
		return nil, err
	}
	row, err := s.store.Setting(ctx, settingCertificate)
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil
	}
	if err == nil {
		err = s.seals.Verify(ctx, settingBinding(settingCertificate, row.Value), row.Seal)
	}
	if err != nil {
		return nil, err
	}
	return row, nil
}

func valueOf(row *SettingRow) string {
	if row == nil {
		return ""
	}
	return row.Value
}

// KeepSharedCertificate keeps a certificate and its key for all nodes, in the place of that of
// the version; none if secret is empty. fault.Changed if there is another one; fault.TooLarge;
// fault.Locked.
func (s *Settings) KeepSharedCertificate(ctx context.Context, secret []byte, version string) error {
	defer s.seals.Writing()()
	was, err := s.certificateRow(ctx)
	if err != nil {
		return err
	}
	if valueOf(was) != version {
		return fault.Errorf(fault.Changed, "the shared certificate was changed by another operation at the same time; look at it and try again")
	}
	row := &SettingRow{Name: settingCertificate}
	if len(secret) > 0 {
		sealed, err := s.seals.SealShared(secretBinding(settingCertificate), secret)
		if err != nil {
			return err
		}
		row.Value = base64.StdEncoding.EncodeToString(sealed)
	}
	if row.Seal, err = s.seals.Seal(ctx, settingBinding(row.Name, row.Value)); err != nil {
		return err
	}
	return s.store.SetSetting(ctx, row, was)
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
