package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/certificate"
	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/systemd"
	"holdfast/cmd/internal/version"
	"holdfast/hsm"
)

// newBoot wires the boot to the parts that it works with.
func (d *Daemon) newBoot(cert *certificate.Certificate) error {
	cfg := d.o.Config
	measured, err := parts.OfThisProcess(cfg)
	if err != nil {
		return err
	}
	o := boot.Options{
		Log: d.o.Log, Journal: &journal{d.store, d.audit}, Software: version.Version, Parts: measured,
		Probe:     d.probe,
		Policy:    boot.PolicyFile(cfg.Attestation.Policy, cfg.Attestation.PolicyKey),
		Revoked:   revoked,
		TLSKey:    func() ([]byte, error) { return publicKey(cert) },
		Release:   releaser(cfg),
		Unlock:    d.unlock,
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
	if err := d.audit.begin(c); err != nil {
		return c, fault.Wrapf(fault.AuditLog, err, "the audit log cannot be opened")
	}
	return c, nil
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
	return &boot.SealedRelease{Blob: cfg.SealedPIN(), Authorizations: r.Authorizations, Key: r.SealKey}
}

// unlock opens the token, or several of them, once, then the key hierarchy, and
// begins the work that comes with time.
func (d *Daemon) unlock(ctx context.Context, credential []byte) error {
	// Where something is wrapped already, another master key would not help.
	_, err := d.store.Installation(ctx)
	if err != nil && fault.CodeOf(err) != fault.NotFound {
		return fault.Wrapf(fault.UnlockAway, err, "the database cannot be read")
	}
	token, hsms, err := d.openHSM(ctx, credential, err == nil)
	switch {
	case errors.Is(err, hsm.ErrPINRefused):
		return fault.Wrapf(fault.HSMPIN, err, "the HSM refuses the PIN; it is not tried again, because HSMs lock after a few wrong PINs. Release the right one and restart the machine")
	case errors.Is(err, hsm.ErrAmbiguous): // which does not mend itself
		return fault.Wrapf(fault.HSMAmbiguous, err, "the HSM's token cannot be opened, as a name fits more than one")
	case err != nil:
		return fault.Wrapf(fault.HSMToken, err, "the HSM's token cannot be opened")
	}
	if err := d.unlockKeys(ctx, token, hsms); err != nil {
		return errors.Join(err, token.Close())
	}
	d.mu.Lock()
	d.hsm = token
	d.mu.Unlock()
	d.background.Go(func() { d.appliance.Run(ctx) })
	return nil
}

// tokens is one token, or several that do as one.
type tokens interface {
	keyring.Token
	io.Closer
}

// openHSM opens what the configuration names, and gives each token for its
// health.
func (d *Daemon) openHSM(ctx context.Context, pin []byte, masterKeyExists bool) (tokens, []appliance.HSM, error) {
	h := d.o.Config.HSM
	first := hsm.Config{
		Module: h.Module, TokenLabel: h.TokenLabel, TokenSerial: h.TokenSerial, PIN: pin,
		MasterKeyLabel: h.MasterKeyLabel, MasterKeyExists: masterKeyExists, MaxSessions: h.MaxSessions, IVFromToken: h.IVFromToken, Log: d.o.Log,
		Observe: d.observeHSM,
	}
	if len(h.Members) == 0 {
		token, err := hsm.Open(ctx, first)
		if err != nil {
			return nil, nil, err
		}
		return token, []appliance.HSM{keyring.Watched(token)}, nil
	}
	configs := []hsm.Config{first}
	for _, m := range h.Members {
		c := first
		c.TokenLabel, c.TokenSerial = m.TokenLabel, m.TokenSerial
		if m.Module != "" {
			c.Module = m.Module
		}
		configs = append(configs, c)
	}
	cluster, err := hsm.OpenCluster(ctx, configs)
	if err != nil {
		return nil, nil, err
	}
	var hsms []appliance.HSM
	for _, m := range cluster.Members() {
		hsms = append(hsms, keyring.Watched(m))
	}
	return cluster, hsms, nil
}

// unlockKeys opens the key hierarchy, and makes the key store of the section
// [aws_xks_config] in a new installation.
func (d *Daemon) unlockKeys(ctx context.Context, token keyring.Token, hsms []appliance.HSM) error {
	if err := d.appliance.Unlock(ctx, keyring.New(token), hsms); err != nil {
		code := fault.Unlock
		if c := fault.CodeOf(err); c == fault.Timeout || c == fault.Internal {
			code = fault.UnlockAway
		}
		return fault.Wrapf(code, err, "the keys cannot be unlocked")
	}
	if err := d.bootstrap(ctx); err != nil {
		d.appliance.Lock()
		return fault.Wrapf(fault.Unlock, err, "the key store of [aws_xks_config] cannot be made")
	}
	if err := d.welcome.SayLater(ctx); err != nil {
		d.o.Log.Error("there is no setup code", "error", err)
	}
	return nil
}

// actorConfiguration is who has done what the configuration asks for, in the audit
// log.
const actorConfiguration = "configuration [aws_xks_config]"

// bootstrap makes the key store of the section [aws_xks_config], on record.
func (d *Daemon) bootstrap(ctx context.Context) error {
	s := d.o.Config.AWSXKS
	if s == nil || !s.Enable {
		return nil
	}
	if err := d.audit.Ready(); err != nil {
		return err
	}
	made, err := d.appliance.Bootstrap(ctx, appliance.KeyStore{Name: "default"},
		appliance.NewCredential{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey},
		func(ks *appliance.KeyStore, c *appliance.Credential) error {
			return errors.Join(d.recordMade(ctx, "POST keystores", ks.Name, ks), d.recordMade(ctx, "POST keystores/{keystore}/credentials", ks.Name, c))
		})
	if err != nil {
		return err
	}
	d.o.Log.Warn("the configuration has the section [aws_xks_config], with a secret: it makes a key store once, in a new installation, and has no further use; remove it (and name its service in xks.services, if KMS signs for that one)",
		"made now", made, "service", s.Service)
	return nil
}

// recordMade records something that the configuration has made.
func (d *Daemon) recordMade(ctx context.Context, operation, keyStore string, made any) error {
	after, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return d.audit.Record(ctx, &audit.Record{Kind: audit.KindAdmin, Operation: operation, Result: audit.Allowed, Actor: actorConfiguration, KeyStore: keyStore, After: after})
}

// recordDeletion records that a key is deleted for good, as its waiting period is
// over. What cannot be recorded is not done.
func (d *Daemon) recordDeletion(ctx context.Context, keyStore, keyID string) error {
	return d.audit.Record(ctx, &audit.Record{Kind: audit.KindAdmin, Operation: "delete key", Result: audit.Allowed, Actor: "waiting period", KeyStore: keyStore, Key: keyID})
}

// condition says how the keys serve.
func (d *Daemon) condition() (progress.State, *fault.Fault) {
	switch status, reason := d.appliance.Condition(); status {
	case appliance.HealthActive:
		return progress.Serving, nil
	case appliance.HealthDegraded:
		return progress.Degraded, fault.Errorf(fault.HSMAway, "%s", reason)
	default:
		return progress.Locked, fault.Errorf(fault.HSMLease, "%s", reason)
	}
}

// lock wipes all keys and ends the use of the token.
func (d *Daemon) lock() {
	d.appliance.Lock()
	d.mu.Lock()
	token := d.hsm
	d.hsm = nil
	d.mu.Unlock()
	if token == nil {
		return
	}
	if err := token.Close(); err != nil {
		d.o.Log.Warn("the token did not close cleanly", "error", err)
	}
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
