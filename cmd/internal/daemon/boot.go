package daemon

import (
	"context"
	"time"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/certificate"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/volume"
	"holdfast/appliance/witness"
	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/systemd"
	"holdfast/cmd/internal/version"
)

// newBoot wires the boot to the parts that it works with.
func (d *Daemon) newBoot(cert *certificate.Certificate) error {
	cfg := d.o.Config
	d.policies = d.newPolicies()
	measured, err := parts.OfThisProcess(d.image)
	if err != nil {
		return err
	}
	o := boot.Options{
		Log: d.o.Log, Journal: &journal{d.machine, d.audit, d.policyRaised}, Software: version.Version, Launch: d.launch, Parts: measured,
		Probe:     d.probe,
		Policy:    d.policies.Policy,
		Ignored:   d.policies.Ignored,
		Revoked:   revoked,
		TLSKey:    func() ([]byte, error) { return publicKey(cert) },
		Measured:  d.openMachineKey,
		Release:   d.releaser(),
		Unlock:    d.unlock,
		WrongPIN:  keyring.WrongPIN,
		Unlocked:  d.awaitEntry,
		Condition: d.condition,
		Lock:      d.lock,
		Changed:   d.changed,
		Every:     time.Duration(cfg.Attestation.Every),
		Lease:     time.Duration(cfg.Attestation.Lease),
	}
	if d.volume != nil {
		o.Release = boot.NoRelease{Why: d.volume}
	}
	if d.o.Platform != nil {
		o.Roots = d.o.Platform.Roots()
	}
	a := cfg.Attestation
	o.Endorsements = boot.EndorsementFiles(a.CRL, a.TCB, a.PolicyKey, o.Roots)
	d.boot = boot.New(o)
	d.onClose(func() {
		if d.o.Platform == nil && d.collector != nil && d.collector.TPM != nil {
			_ = d.collector.TPM.Close() // nothing is lost with it
		}
	})
	return nil
}

func (d *Daemon) probe(ctx context.Context, p *attest.Policy) (c *attest.Collector, err error) {
	if d.o.Platform != nil {
		c = d.o.Platform.Collector()
	} else {
		a := d.o.Config.Attestation
		c, err = (device.Hardware{TPM: a.TPM, EventLog: a.EventLog, CRL: a.CRL}).Probe(ctx, p)
		if d.collector = c; err != nil {
			return c, err
		}
	}
	if err := openAudit(d.audit, c); err != nil {
		return c, fault.Wrapf(fault.AuditLog, err, "the audit log cannot be opened")
	}
	if d.volumeIdentity != nil {
		c.Measurements = []tpm.Measurement{tpm.StateVolume(d.volumeIdentity)}
	}
	c.State = d.attestedState
	if d.image.Instance.Metadata {
		c.Instance = instance.NewMetadata(d.o.Metadata).SignedIdentity(d.o.Log)
	}
	d.measured.Store(c)
	if c.TPM != nil {
		d.clock.Add(witness.Source{Name: "the TPM", Elapsed: c.TPM.Time})
	}
	d.anchor, err = findAnchor(c)
	return c, err
}

// revoked asks the TPM's counter.
func revoked(c *attest.Collector) (uint64, error) {
	if c.TPM == nil {
		return 0, nil
	}
	return seal.Counter(c.TPM)
}

func publicKey(cert *certificate.Certificate) ([]byte, error) {
	c, err := cert.Get(nil)
	if err != nil {
		return nil, err
	}
	return c.Leaf.RawSubjectPublicKeyInfo, nil
}

func releaser(cfg *config.Config) boot.Releaser {
	r := cfg.Release
	if r.Method == config.Broker {
		return &boot.BrokerRelease{URL: r.BrokerURL, Pin: r.BrokerPin, Machine: r.Machine}
	}
	return &boot.SealedRelease{Blob: cfg.SealedPIN(), Authorizations: r.Authorizations, Installed: cfg.Policies(), Key: r.SealKey}
}

// releaser is [releaser] with what the machine's owner and the state volume give to it.
func (d *Daemon) releaser() boot.Releaser {
	r := releaser(d.o.Config)
	s, sealed := r.(*boot.SealedRelease)
	if sealed {
		s.Owned = d.owned
	}
	if d.o.Config.State.Volume == "" {
		return r
	}
	key := d.takeVolumeKey() // also where nobody needs it, so that it does not lie there
	if sealed {
		s.VolumeKey = key
	}
	return r
}

// takeVolumeKey takes the key that the opener of the state volume has handed on, and gives
// it as often as it is asked for.
func (d *Daemon) takeVolumeKey() func() ([]byte, error) {
	key, err := volume.TakePINKey(d.o.Config.State.Volume)
	d.onClose(func() { clear(key) })
	return func() ([]byte, error) { return key, err }
}

// changed tells where it serves, or that it does not.
func (d *Daemon) changed(s progress.Status) {
	systemd.Notify(d.o.Log, systemd.Status(statusLine(s)))
	a := Addresses{XKS: d.xksL.Addr(), Admin: d.adminL.Addr(), Socket: d.o.Config.Admin.Socket}
	if s.Serves() {
		d.o.Log.Info("serving", "version", version.Version, "xks", a.XKS.String(), "admin", a.Admin.String(), "socket", a.Socket)
	}
	if d.o.Changed != nil {
		d.o.Changed(s, a)
	}
}
