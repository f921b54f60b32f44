package daemon

import (
	"context"
	"path/filepath"
	"time"

	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/ownership"
)

// userDataTime bounds how long user data are waited for before the appliance listens.
const userDataTime = 10 * time.Second

// findLaunch puts the launch file over the image's configuration, if the image asks for
// one.
func (d *Daemon) findLaunch(ctx context.Context) {
	d.image = d.o.Config
	if !d.image.Launch.Required {
		return
	}
	m := ownership.Machine{Image: d.image, Closed: d.closed(), Write: boot.WriteFile, Log: d.o.Log}
	if d.image.Instance.Metadata {
		m.UserData = func(ctx context.Context) *instance.UserData {
			return instance.NewMetadata(d.o.Metadata).AskUserData(ctx, userDataTime, d.o.Log)
		}
	}
	owned := m.Find(ctx)
	d.o.Config, d.whose = owned.Config, owned
	d.launch = &boot.Launch{Why: owned.Why, Ignored: owned.Ignored}
	if l := owned.Launch; l != nil {
		d.launch.Digest, d.launch.Owner = l.Digest, l.OwnerDigest
		d.owned = &boot.OwnedRelease{Key: owned.File.SealKey, PolicyKey: l.Owner, Approvals: filepath.Join(d.image.Launch.Dir, ownership.ApprovalsFile), Successions: filepath.Join(d.image.Launch.Dir, ownership.SuccessionsFile)}
	}
	if owned.Why != nil {
		d.o.Log.Error("no launch file counts: nothing will serve", "code", owned.Why.Codes(), "reason", owned.Why.Reason())
	}
}
