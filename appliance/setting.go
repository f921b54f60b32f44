package appliance

import (
	"context"

	"holdfast/appliance/fault"
)

// Settings is the part that keeps what people or the appliance itself have chosen,
// and the seals of rows that other packages keep.
type Settings struct {
	ground
	store SettingRows
	seals Seals
}

// SettingRow is a setting as it is stored.
type SettingRow struct {
	Name, Value string
	Seal        []byte
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
	// SettingLog is the ID of the fleet's log of changes: 64 hexadecimal digits, drawn with its
	// first change ([StateRows.Origin]). It has no seal of its own. The manifest counts it, and
	// it is read only from rows that are open.
	SettingLog = "log"
	// SettingMoved is where the anchor of this machine stood when the rows were moved here
	// ([MovedFrom]). It is as SettingLog is.
	SettingMoved = "moved"
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

// Setting gives a setting. Errors: fault.NotFound while there is neither an installation
// nor the machine's key, and nobody has set it; fault.Tampered if its row is missing or
// does not match its seal; fault.Locked, with the value, if it has this machine's seal and
// the other cannot be looked at; fault.MachineKey.
func (s *Settings) Setting(ctx context.Context, name string) (string, error) {
	row, err := s.store.Setting(ctx, name)
	missing := fault.CodeOf(err) == fault.NotFound
	if err != nil && !missing {
		return "", err
	}
	if missing {
		row = &SettingRow{}
	}
	installed, failed := s.seals.Installed(ctx)
	if failed != nil {
		return "", failed
	}
	if missing && !installed && s.seals.machine.ID() == "" {
		return "", err
	}
	return row.Value, s.seals.Verify(ctx, settingBinding(name, row.Value), row.Seal)
}

// SetSetting changes a setting, whatever it was. fault.Locked.
func (s *Settings) SetSetting(ctx context.Context, name, value string) error {
	defer s.seals.Writing()()
	return s.setSetting(ctx, name, value)
}

func (s *Settings) setSetting(ctx context.Context, name, value string) error {
	seal, err := s.seals.Seal(ctx, settingBinding(name, value))
	if err != nil {
		return err
	}
	return retry(func() error {
		was, err := s.store.Setting(ctx, name)
		if fault.CodeOf(err) == fault.NotFound {
			was, err = nil, nil
		}
		if err != nil {
			return err
		}
		return s.store.SetSetting(ctx, &SettingRow{Name: name, Value: value, Seal: seal}, was)
	})
}

// sealSettings seals the settings that are good, or all as they are; the first unlock
// calls it. It lists them.
func (s *Settings) sealSettings(ctx context.Context, asTheyAre bool) (sealed []Admitted, err error) {
	for name, first := range firstSettings {
		var value string
		row, err := s.store.Setting(ctx, name)
		switch {
		case fault.CodeOf(err) == fault.NotFound && (asTheyAre || s.seals.machine.ID() == ""):
			value, err = first, nil
		case asTheyAre && err == nil:
			value = row.Value
		default:
			value, err = s.Setting(ctx, name)
		}
		if err == nil {
			err = s.setSetting(ctx, name, value)
		}
		if err != nil {
			return nil, err
		}
		sealed = append(sealed, Admit(AdmittedSetting, name, value, settingBinding(name, value), false))
	}
	return sealed, nil
}
