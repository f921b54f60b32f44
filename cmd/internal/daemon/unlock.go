package daemon

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/hsm"
	"holdfast/web/operation"
)

// unlock opens the token, or several of them, once, then the key hierarchy, and
// begins the work that comes with time.
func (d *Daemon) unlock(ctx context.Context, credential []byte) error {
	// Where something is wrapped already, another master key would not help.
	installed, err := d.installed(ctx)
	if code := fault.CodeOf(err); code == fault.FleetFounding || code == fault.DatabaseRefused {
		return err
	}
	if err != nil {
		return fault.Wrapf(fault.UnlockAway, err, "the database cannot be read")
	}
	token, hsms, err := keyring.Open(ctx, Tokens(d.o.Config.HSM, d.o.Modules, hsm.Config{PIN: credential, MasterKeyExists: installed, MakingMasterKey: func() error { return d.appliance.NoteMasterKey(ctx) }, Log: d.o.Log, Observe: d.observeHSM, Ended: d.moduleEnded})...)
	if err != nil {
		return err
	}
	d.setHSM(token)
	if err := d.unlockKeys(ctx, token, hsms); err != nil {
		d.setHSM(nil)
		return errors.Join(err, token.Close())
	}
	d.background.Go(func() { d.appliance.Run(ctx) })
	if d.broker != nil {
		d.background.Go(func() { d.broker.Run(ctx) })
	}
	return nil
}

// setHSM sets the token that is in use, and gives the one before.
func (d *Daemon) setHSM(token keyring.Tokens) keyring.Tokens {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.hsm
	d.hsm = token
	return before
}

// renewAfter is how long after all keys were unwrapped the modules' processes are replaced.
// KMS's requests come first: they have waited for the boot.
const renewAfter = time.Minute

// renewModules replaces the processes in which all keys were unwrapped: what the vendors'
// libraries have kept of them goes.
func (d *Daemon) renewModules(ctx context.Context) {
	wait := time.NewTimer(cmp.Or(d.o.RenewAfter, renewAfter))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return
	}
	d.mu.Lock()
	token := d.hsm
	d.mu.Unlock()
	if token == nil {
		return
	}
	if err := token.Renew(ctx); err != nil && ctx.Err() == nil {
		d.o.Log.Warn("a PKCS#11 module's process was not replaced after the keys were unwrapped, so its library may keep copies of them; restart the machine if that matters", "error", err)
	}
}

// recordTimeout is how long the record of a process that ended may take.
const recordTimeout = 10 * time.Second

// moduleEnds are the last ends of module processes that are on record.
type moduleEnds struct {
	mu   sync.Mutex
	last map[string]*hsm.Ending // by token
}

// recordAgain is after how long an end is recorded that is like the one before.
const recordAgain = time.Hour

// new says whether an end is to be recorded: one while the token is opened comes with each attempt.
func (m *moduleEnds) new(token string, e *hsm.Ending) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.last[token]
	if e.Opening && before != nil && before.Opening && before.Cause == e.Cause && e.At.Sub(before.At) < recordAgain {
		return false
	}
	if m.last == nil {
		m.last = map[string]*hsm.Ending{}
	}
	m.last[token] = e
	return true
}

// moduleEnded counts and records that the process of a module has ended.
func (d *Daemon) moduleEnded(token string, e *hsm.Ending) {
	d.observeEnd(token, e.Cause)
	if !d.ends.new(token, e) {
		return // the log has each attempt
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := d.audit.ModuleEnded(ctx, token, e.Why, e.Do()); err != nil {
		d.o.Log.Error("the end of a module's process is not in the audit log", "token", token, "cause", e.Cause, "error", err)
	}
}

// Tokens are those that the configuration names, each with what they have in common and what starts
// its module processes.
func Tokens(h config.HSM, modules func(number int, token config.Member) hsm.Launcher, all hsm.Config) (configs []hsm.Config) {
	all.MasterKeyLabel = h.MasterKeyLabel
	for i, m := range h.Tokens() {
		c := all
		c.Module, c.TokenLabel, c.TokenSerial = m.Module, m.TokenLabel, m.TokenSerial
		c.MaxSessions, c.Dialect = m.MaxSessions, m.Dialect
		c.Launcher = modules(i+1, m)
		configs = append(configs, c)
	}
	return configs
}

// unlockKeys opens the key hierarchy, or leaves it to a person to decide
// ([appliance.Service.Held]), and makes the key store of the section
// [aws_xks_config] in a new installation.
func (d *Daemon) unlockKeys(ctx context.Context, token keyring.Token, hsms []appliance.HSM) error {
	err := d.appliance.Unlock(ctx, keyring.New(token), hsms)
	if d.appliance.Held() != nil {
		d.awaited = ctx
		return nil // a person decides, with the HSM open; the boot's condition says so
	}
	if code := fault.CodeOf(err); code == fault.HSMObject || code == fault.AuditRewritten {
		return err
	}
	if err != nil {
		code := fault.Unlock
		if c := fault.CodeOf(err); c == fault.Timeout || c == fault.Internal || c == fault.DatabaseAway || c == fault.FleetFounding {
			code = fault.UnlockAway
		}
		return fault.Wrapf(code, err, "the keys cannot be unlocked")
	}
	return d.unlocked(ctx)
}

// unlocked does what comes once the keys are unlocked for the first time.
func (d *Daemon) unlocked(ctx context.Context) error {
	d.certificate.Look(ctx)
	if err := d.renewSeals(ctx); err != nil {
		// What is unlocked serves all the same; while it is locked, those rows are refused.
		d.o.Log.Error("rows could not be given the seal of this machine; restart the machine to try again", "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
	}
	if err := d.bootstrap(ctx); err != nil {
		d.appliance.Lock()
		return fault.Wrapf(fault.Unlock, err, "the key store of [aws_xks_config] cannot be made")
	}
	if err := d.welcome.SayLater(ctx); err != nil {
		d.o.Log.Error("there is no setup code", "error", err)
	}
	if err := d.users.Unlocked(ctx); err != nil {
		d.o.Log.Error("other nodes could not be told of the setup code of this one, or of sessions that have ended", "error", err)
	}
	d.background.Go(func() { d.renewModules(ctx) })
	return nil
}

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
			return errors.Join(d.audit.Configured(ctx, operation.CreateKeyStore.Operation(), ks.Name, ks), d.audit.Configured(ctx, operation.CreateCredential.Operation(), ks.Name, c))
		})
	if err != nil {
		return err
	}
	d.o.Log.Warn("the configuration has the section [aws_xks_config], with a secret: it makes a key store once, in a new installation, and has no further use; remove it (and name its service in xks.services, if KMS signs for that one)",
		"made now", made, "service", s.Service)
	return nil
}

// lock wipes all keys and ends the use of the token.
func (d *Daemon) lock() {
	d.appliance.Lock()
	d.certificate.Look(context.Background()) // which wipes the key that the nodes share
	token := d.setHSM(nil)
	if token == nil {
		return
	}
	if err := token.Close(); err != nil {
		d.o.Log.Warn("the token did not close cleanly", "error", err)
	}
}

// condition says whether keys serve. A state that is held is locked for its own reason.
func (d *Daemon) condition() (progress.State, *fault.Fault) {
	if why, ok := errors.AsType[*fault.Fault](d.appliance.Held()); ok {
		return progress.Locked, why
	}
	if ctx := d.awaited; ctx != nil && !d.appliance.Locked() { // a person has decided
		d.awaited = nil
		if err := d.unlocked(ctx); err != nil {
			d.o.Log.Error("the keys serve, and not all is done that comes with the first unlock; restart the machine", "error", err)
		}
	}
	return boot.ConditionOf(d.appliance.Condition())
}
