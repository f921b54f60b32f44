package console

import (
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// stateData is what the page of the state as a whole shows, with what a person can decide
// about it.
type stateData struct {
	status    operation.Status
	now       time.Time
	copy      appliance.InstallationState
	admission *operation.AdmissionDetail // nil while nobody can tell
	// verified is the outcome of a verification; nil if none was asked for.
	verified *appliance.StateStatus
	waiting  *operation.StateAcceptance // the word of the first of two people; nil if there is none
	// held is why nothing is served, where a person decides; nil if it is not so.
	held    *fault.Entry
	reason  string
	forms   []ui.Form // what can be decided
	confirm *ui.Form
	discard []ui.Form
}

// decisions are the codes of an appliance that is locked until a person decides, with the
// operation by which they do.
var decisions = map[fault.Code]operation.Entry{
	fault.StateChanged: operation.AcceptState, fault.StateUnsealed: operation.AcceptState, fault.StateRolledBack: operation.AcceptState,
	fault.StateAnchor: operation.AcceptState, fault.StateLoss: operation.AcceptState,
	fault.StateMissing: operation.BeginInstallation, fault.StateSuperseded: operation.TakeOverInstallation,
	fault.AdmissionUnconfirmed: operation.ConfirmAdmission,
}

// decides says whether a person can decide about an appliance in the state of the code.
func decides(code string) bool { return decisions[fault.Code(code)] != nil }

func state(p *page) (*view, error) {
	d := &stateData{now: p.now}
	var err error
	if d.status, err = read(p, operation.ShowStatus, operation.Nothing{}); err != nil {
		return nil, err
	}
	if d.copy, err = read(p, operation.ShowInstallation, operation.Nothing{}); err != nil {
		return nil, err
	}
	if d.admission, err = admission(p); err != nil {
		return nil, err
	}
	if p.URL.Query().Has("verify") || d.status.Locked {
		if d.verified, err = read(p, operation.VerifyState, operation.Nothing{}); err != nil && fault.CodeOf(err) != fault.Locked {
			return nil, err
		}
	}
	d.waiting = p.c.Performer.FirstAcceptance()
	if code := fault.Code(d.status.Boot.Code); decides(string(code)) {
		e := code.Entry()
		d.held, d.reason = &e, d.status.Boot.Reason
	}
	d.decide(p)
	return &view{title: "State", body: statePage(d)}, nil
}

// admission gives who can act and what decides, for administrators; nil for others, and while
// the appliance is locked and there is an installation, as nobody can tell then.
func admission(p *page) (*operation.AdmissionDetail, error) {
	if !p.may(identity.Administer) {
		return nil, nil //nolint:nilnil // it is as the comment says
	}
	a, err := read(p, operation.ShowAdmission, operation.Nothing{})
	if code := fault.CodeOf(err); code == fault.Locked || code == fault.MachineKey {
		return nil, nil //nolint:nilnil // it is as the comment says
	}
	return &a, err
}

// seen gives the hidden field with the digest of those who are shown, if somebody has to
// confirm them.
func seen(a *operation.AdmissionDetail) []string {
	if a == nil || !a.Unconfirmed {
		return []string{"admission", ""}
	}
	return []string{"admission", a.Digest}
}

// decide makes the forms of what can be decided now.
func (d *stateData) decide(p *page) {
	if p.may(identity.ManageKeys) && !d.status.Locked {
		d.discard = discardForms(p)
	}
	if !p.may(identity.Administer) {
		return
	}
	reason := []ui.Field{{Name: "reason", Label: "Reason", Required: true, Hint: "the audit log has it"}}
	var by operation.Entry
	if d.held != nil {
		by = decisions[d.held.Code]
	}
	if by == operation.AcceptState || d.held == nil && d.verified != nil && len(d.verified.Damaged) > 0 {
		d.forms = append(d.forms, p.form(operation.AcceptState, "", ui.Form{Kind: "danger", Fields: reason,
			Note: "Only if this state is the right one, as after you have put an older snapshot back on purpose. What somebody has changed counts from then on. Where two administrators can approve, another administrator must accept it as well within an hour."}))
	}
	if by == operation.BeginInstallation {
		d.forms = append(d.forms, p.form(operation.BeginInstallation, "", ui.Form{Kind: "danger", Fields: reason,
			Note: "Only if the installation of before is lost, or another one is wanted in the same HSM. What the HSM has stays as it is. Otherwise restore a backup: holdfast restore FILE. Those who are listed below can act from then on."}, seen(d.admission)...))
	}
	if by == operation.TakeOverInstallation || d.held == nil && !d.status.Locked && d.copy.Ownership == appliance.OwnershipCopy {
		d.forms = append(d.forms, p.form(operation.TakeOverInstallation, "", ui.Form{Kind: "danger", Fields: reason,
			Note: "This copy of the installation is then the one that counts. Every other copy destroys nothing in the HSM any more, and is locked when it starts next. Stop the other copies before."}))
	}
	if d.status.Clock.Waits != "" && !d.status.Locked {
		at := ui.Field{Name: "time", Label: "Time that has passed (UTC)", Type: "datetime-local", Value: d.now.UTC().Format(fieldTime), Required: true, Hint: "compare it with a clock that you trust"}
		d.forms = append(d.forms, p.form(operation.ConfirmTime, "", ui.Form{Kind: "danger", Fields: append([]ui.Field{at}, reason...),
			Note: "Keys that are due and audit records past their age wait: " + d.status.Clock.Waits + ". Those that are due by the time that you confirm are destroyed and removed within a minute."}))
	}
	if d.admission != nil && d.admission.Unconfirmed {
		if by != operation.BeginInstallation { // that form confirms them too
			f := p.form(operation.ConfirmAdmission, "", ui.Form{}, seen(d.admission)...)
			d.confirm = &f
		}
	}
}

// discardForms are the forms that remove rows which do not match their seals.
func discardForms(p *page) []ui.Form {
	store := ui.Field{Name: "keystore", Label: "Key store", Required: true, Mono: true, Autocomplete: "off"}
	form := func(o operation.Entry, fields ...ui.Field) ui.Form {
		return p.form(o, "", ui.Form{Folded: true, Label: o.Entry().Words, Kind: "danger", Fields: fields})
	}
	return []ui.Form{
		form(operation.DiscardKey, store, ui.Field{Name: "key", Label: "Key ID", Required: true, Mono: true, Autocomplete: "off"},
			ui.Field{Name: "key_version", Label: "Version", Type: "number", Min: "0", Value: "0", Required: true, Hint: "0 for the key with all its versions"}),
		form(operation.DiscardCredential, store, ui.Field{Name: "credential", Label: "Access key ID", Required: true, Mono: true, Autocomplete: "off"}),
		form(operation.DiscardGrant, store, ui.Field{Name: "grant", Label: "Grant's ID", Required: true, Mono: true, Autocomplete: "off"}),
		form(operation.DiscardKeyStore, store, ui.Field{Name: "keys", Label: "Keys that are lost with it", Type: "number", Min: "0", Required: true}),
		form(operation.DiscardSetting, ui.Field{Name: "setting", Label: "Setting", Required: true, Mono: true, Autocomplete: "off"}),
	}
}

func reasonOf(f *form) operation.Decision { return operation.Decision{Reason: f.text("reason")} }

func stateActions() []action {
	discarded := then{done: "The damaged row was discarded. The audit log has what was lost with it.", to: "/state"}
	return []action{
		post(operation.AcceptState, func(f *form) operation.AcceptedState {
			return operation.AcceptedState{Reason: f.text("reason")}
		}, then{tell: toldAcceptance, to: "/state"}),
		post(operation.ConfirmTime, func(f *form) operation.PassedTime {
			return operation.PassedTime{Time: f.utc("time"), Reason: f.text("reason")}
		}, then{done: "The time is confirmed, and the audit log has it.", to: "/state"}),
		post(operation.ConfirmAdmission, func(f *form) operation.ConfirmedAdmission {
			return operation.ConfirmedAdmission{Digest: f.hidden("admission")}
		}, then{done: "They are confirmed, and the audit log has it.", to: "/state"}),
		post(operation.BeginInstallation, func(f *form) operation.Beginning {
			return operation.Beginning{Reason: f.text("reason"), Admission: f.hidden("admission")}
		}, then{done: "A new installation was begun.", to: "/state"}),
		post(operation.TakeOverInstallation, reasonOf, then{done: "This copy has taken over the installation.", to: "/state"}),
		post(operation.DiscardKey, func(f *form) operation.DiscardedKey {
			return operation.DiscardedKey{KeyName: operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: f.trimmed("keystore")}, Key: f.trimmed("key")}, Version: uint32(f.whole("key_version"))} //nolint:gosec // none has so many
		}, discarded),
		post(operation.DiscardCredential, func(f *form) operation.CredentialName {
			return operation.CredentialName{KeyStoreName: operation.KeyStoreName{KeyStore: f.trimmed("keystore")}, Credential: f.trimmed("credential")}
		}, discarded),
		post(operation.DiscardGrant, func(f *form) operation.GrantName {
			return operation.GrantName{KeyStoreName: operation.KeyStoreName{KeyStore: f.trimmed("keystore")}, Grant: f.trimmed("grant")}
		}, discarded),
		post(operation.DiscardKeyStore, func(f *form) operation.DiscardedKeyStore {
			return operation.DiscardedKeyStore{KeyStoreName: operation.KeyStoreName{KeyStore: f.trimmed("keystore")}, Keys: f.whole("keys")}
		}, discarded),
		post(operation.DiscardSetting, func(f *form) operation.SettingName {
			return operation.SettingName{Setting: f.trimmed("setting")}
		}, discarded),
	}
}

// toldAcceptance says whether the state is accepted, or waits for another person.
func toldAcceptance(answer any) string {
	a, ok := answer.(*operation.StateAcceptance)
	if !ok || a.Accepted {
		return "The state is accepted as it is."
	}
	return fmt.Sprintf("Noted. Another administrator must accept it as well, until %s.", ui.Stamp(a.Until))
}
