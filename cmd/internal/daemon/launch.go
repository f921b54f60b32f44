package daemon

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/ownership"
	"holdfast/web/operation"
)

// userDataTime bounds how long user data are waited for before the appliance listens.
const userDataTime = 10 * time.Second

// findLaunch puts the launch file over the image's configuration, if the image asks for
// one.
func (d *Daemon) findLaunch(ctx context.Context) {
	d.image = d.o.Config
	m := ownership.Machine{Image: d.image, Closed: d.closed(), Write: boot.WriteFile, Log: d.o.Log}
	if !d.image.Launch.Required {
		d.ownership = m
		return
	}
	if d.image.Instance.Metadata {
		m.UserData = func(ctx context.Context) *instance.UserData {
			return instance.NewMetadata(d.o.Metadata).AskUserData(ctx, userDataTime, d.o.Log)
		}
	}
	d.ownership = m
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

// launches implements [operation.Launches].
type launches struct{ d *Daemon }

func (l launches) Launch(context.Context) (operation.LaunchDetail, error) {
	now := l.d.whose
	detail := operation.LaunchDetail{Required: l.d.image.Launch.Required, InForce: launchFile(now)}
	if !detail.Required {
		return detail, nil
	}
	for _, f := range []struct {
		why  *fault.Fault
		says *string
	}{{now.Why, &detail.Why}, {now.Ignored, &detail.Ignored}} {
		if f.why != nil {
			*f.says = f.why.Error()
		}
	}
	next := l.d.ownership.Next()
	if next.Launch != nil && (now.Launch == nil || !next.Launch.ID().Is(now.Launch.ID())) {
		detail.Next = launchFile(next)
	}
	if next.Why != nil {
		detail.Why = next.Why.Error()
	}
	return detail, nil
}

// launchFile says what one is; nil if there is none.
func launchFile(o ownership.Owned) *operation.LaunchFile {
	if o.Launch == nil {
		return nil
	}
	return &operation.LaunchFile{SHA256: hex.EncodeToString(o.Launch.Digest), Version: o.Launch.Version, Owner: o.Launch.KeyID(), Sets: o.File.Sentences()}
}

func (l launches) CheckLaunch(_ context.Context, document string) (operation.LaunchFile, error) {
	next, err := l.d.ownership.Check([]byte(document))
	if err != nil {
		return operation.LaunchFile{}, err
	}
	return *launchFile(next), nil
}

func (l launches) InstallLaunch(_ context.Context, document string) error {
	next, err := l.d.ownership.Install([]byte(document))
	if err != nil {
		return err
	}
	l.d.o.Log.Info("a launch file was installed, for the next start of the machine", "sha256", hex.EncodeToString(next.Launch.Digest), "version", next.Launch.Version, "owner", next.Launch.KeyID())
	return nil
}
