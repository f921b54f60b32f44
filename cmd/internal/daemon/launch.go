package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/ownership"
	"holdfast/hsm"
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

// lookTime bounds how long somebody waits for a look at tokens.
const lookTime = 10 * time.Second

// LookAtTokens is for a machine without a launch file, whose boot has ended without an HSM: a
// module that hangs keeps nothing else from its work, and is ended.
func (l launches) LookAtTokens(ctx context.Context, file string) ([]operation.LookedToken, error) {
	if l.d.launch == nil || l.d.whose.Launch != nil {
		return nil, fault.Errorf(fault.Conflict, "the machine has a launch file: see its HSMs")
	}
	c, err := l.d.ownership.Preview([]byte(file))
	if err != nil {
		return nil, err
	}
	if !l.d.looking.TryLock() {
		return nil, fault.Errorf(fault.Conflict, "another trial of the HSM has not ended: try again in %s", lookTime)
	}
	defer l.d.looking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	members := Tokens(c.HSM, l.d.o.Modules, hsm.Config{})
	list := make([]operation.LookedToken, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { list[i] = lookAt(ctx, m) })
	}
	all.Wait()
	return list, nil
}

// lookAt looks for one token.
func lookAt(ctx context.Context, m hsm.Config) operation.LookedToken {
	t := operation.LookedToken{Module: filepath.Base(m.Module), Selected: fmt.Sprintf("token %q", m.TokenLabel)}
	if m.TokenLabel == "" {
		t.Selected = fmt.Sprintf("the token with serial number %q", m.TokenSerial)
	}
	i, err := hsm.Look(ctx, m)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Wrong = fmt.Sprintf("the PKCS#11 module has not answered within %s: check the network between this machine and the HSM, and the name of the module", lookTime)
		return t
	}
	if err != nil {
		t.Wrong = strings.TrimPrefix(err.Error(), "hsm: ")
		var said *hsm.Error
		if errors.As(err, &said) {
			t.Wrong += "; look the code up in the HSM vendor's manual, and check that the HSM is on and that this machine reaches it"
		}
		return t
	}
	t.Label, t.Serial, t.Manufacturer, t.Model, t.Firmware = i.Label, i.Serial, i.Manufacturer, i.Model, i.Firmware
	return t
}
