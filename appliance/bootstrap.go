package appliance

import (
	"context"

	"holdfast/appliance/fault"
)

// Bootstrap makes the key store with the credential that the section
// [aws_xks_config] of the configuration asks for, once in the life of an
// installation, and only if it has no key store: what a person has removed does not
// come back. It takes a secret that KMS itself would refuse.
//
// Record is called when both are there; made says whether they were made now. If the
// process ends in between, or nothing could be recorded, the next call goes on.
func (a *Administration) Bootstrap(ctx context.Context, want KeyStore, credential NewCredential, record func(*KeyStore, *Credential) error) (made bool, err error) {
	const begun = "begun"
	state, err := a.settings.Setting(ctx, SettingBootstrap)
	if fault.CodeOf(err) == fault.Tampered { // it may have been made, and removed by a person
		a.log.Error("the setting that says whether the configuration may still make its key store does not match its seal: the database was changed by hand, and none is made", "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return false, err
	}
	switch {
	case state == begun:
	case state != SettingOpen:
		return false, nil
	case len(stores) > 0:
		return false, a.settings.SetSetting(ctx, SettingBootstrap, SettingDone)
	default:
		if err := a.settings.SetSetting(ctx, SettingBootstrap, begun); err != nil {
			return false, err
		}
	}
	ks, err := a.CreateKeyStore(ctx, want)
	if fault.CodeOf(err) == fault.Exists {
		var d *KeyStoreDetail
		if d, err = a.ShowKeyStore(ctx, want.Name); err == nil {
			ks = &d.KeyStore
		}
	}
	if err != nil {
		return false, err
	}
	c, err := a.addCredential(ctx, want.Name, credential)
	if fault.CodeOf(err) == fault.Exists {
		c, err = a.credential(ctx, want.Name, credential.AccessKeyID)
	}
	if err != nil {
		return false, err
	}
	if err := record(ks, c); err != nil {
		return false, err
	}
	return true, a.settings.SetSetting(ctx, SettingBootstrap, SettingDone)
}
