package appliance

import (
	"context"

	"holdfast/appliance/fault"
)

// Settings is the part that keeps what people or the appliance itself have chosen,
// and the seals of rows that other packages keep.
type Settings struct {
	ground
	seals Seals
}

// The settings: small values that people or the appliance itself have chosen. Each
// rests sealed, so that none can be changed or taken away in the database.
const (
	// SettingFourEyes has the operations that need a second person (package approval).
	SettingFourEyes = "four_eyes"
	// SettingSetup says whether the setup code still admits somebody (package identity).
	SettingSetup = "setup"
	// SettingBootstrap says whether [Administration.Bootstrap] may still make a key store.
	SettingBootstrap = "bootstrap"
)

// SettingOpen and SettingDone are the values of settings about what is done once.
const (
	SettingOpen = "open"
	SettingDone = "done"
)

// firstSettings are the values in a new installation, unless others were chosen
// before it was made. In an installation every setting has a row.
var firstSettings = map[string]string{
	SettingFourEyes:  `{"operations":[]}`,
	SettingSetup:     SettingOpen,
	SettingBootstrap: SettingOpen,
}

func settingBinding(name, value string) Binding {
	return Binding{Purpose: "setting", Fields: []string{name, value}}
}

// Setting gives a setting. Errors: fault.NotFound while there is no installation and
// nobody has set it; fault.Tampered if its row is missing or does not match its seal;
// fault.Locked, with the value as it is stored, while nobody can tell.
func (s *Settings) Setting(ctx context.Context, name string) (string, error) {
	value, seal, err := s.store.Setting(ctx, name)
	missing := fault.CodeOf(err) == fault.NotFound
	if err != nil && !missing {
		return "", err
	}
	installed, failed := s.seals.Installed(ctx)
	if failed != nil {
		return "", failed
	}
	if missing && !installed {
		return "", err
	}
	return value, s.seals.Verify(ctx, settingBinding(name, value), seal)
}

// SetSetting changes a setting. fault.Locked.
func (s *Settings) SetSetting(ctx context.Context, name, value string) error {
	defer s.seals.Writing()()
	return s.setSetting(ctx, name, value)
}

func (s *Settings) setSetting(ctx context.Context, name, value string) error {
	seal, err := s.seals.Seal(ctx, settingBinding(name, value))
	if err != nil {
		return err
	}
	return s.store.SetSetting(ctx, name, value, seal)
}

// sealSettings seals the settings as they are; the first unlock calls it.
func (s *Settings) sealSettings(ctx context.Context) error {
	for name, first := range firstSettings {
		value, _, err := s.store.Setting(ctx, name)
		if fault.CodeOf(err) == fault.NotFound {
			value, err = first, nil
		}
		if err == nil {
			err = s.setSetting(ctx, name, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
