package keyring

import (
	"context"

	"holdfast/appliance"
	"holdfast/hsm"
)

// Prober is what the appliance watches of a PKCS#11 token: [*hsm.Token] and
// [*hsm.Member].
type Prober interface {
	Probe(ctx context.Context) error
	Info(ctx context.Context) (hsm.Info, error)
	LastEnding() *hsm.Ending
}

// Watched makes of a token what the appliance watches.
func Watched(t Prober) appliance.HSM { return watched{t} }

type watched struct{ Prober }

func (w watched) Info(ctx context.Context) (appliance.TokenInfo, error) {
	info, err := w.Prober.Info(ctx)
	var end *appliance.ModuleEnd
	if e := w.LastEnding(); e != nil {
		end = &appliance.ModuleEnd{Time: e.At.UTC(), Cause: string(e.Cause), Reason: e.Why, Do: e.Do()}
	}
	return appliance.TokenInfo{Label: info.Label, Manufacturer: info.Manufacturer, Model: info.Model, Serial: info.Serial, Firmware: info.Firmware, Hardware: info.Hardware,
		FreeSessions: info.FreeSessions, Dialect: info.Dialect, MaxSessions: info.MaxSessions,
		Process: appliance.ModuleProcess{PID: info.Process.PID, MemoryBytes: info.Process.MemoryBytes, Starts: info.Process.Starts, Confined: info.Process.Confined, LastEnd: end}}, err
}
