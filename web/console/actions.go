package console

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// action is an operation as a form posts it.
type action struct {
	route *operation.Route
	// fields are those that the form must have, besides those that name things.
	fields []string
	// perform reads the form and has the operation performed. It gives the answer.
	perform func(ctx context.Context, c *operation.Caller, f *form) (any, error)
	// confirmation reads the form, and gives what a person confirms before; nil for nothing.
	confirmation func(ctx context.Context, c *operation.Caller, f *form) (*operation.Confirmation, error)
	// words are those of the operation, as far as the hidden fields of the form say.
	words func(hidden url.Values) string
	// secrets are the fields that no page shows again.
	secrets []string
	// show, if it is not nil, makes a page of an answer; decode reads one that a browser has kept.
	show   func(p *page, answer any) (*view, error)
	decode func(text []byte) (any, error)
	then
}

// then is what comes after an operation.
type then struct {
	// done says what was done, on the page where the form stood; tell, if it is not nil,
	// says it of the answer.
	done string
	tell func(answer any) string
	// to is where to go on; the form's page if empty. Parameters in braces are fields
	// of the form.
	to string
}

// post is an operation after which a page says what was done.
func post[In, Out any](o *operation.Operation[In, Out], read func(f *form) In, t then) action {
	empty := &form{values: url.Values{}}
	read(empty)
	return action{route: o.Entry(), then: t, fields: empty.read, secrets: empty.secrets,
		decode: decoded[Out], confirmation: confirmation(o, read),
		words: func(hidden url.Values) string { return o.WordsOf(read(&form{values: hidden})) },
		perform: func(ctx context.Context, c *operation.Caller, f *form) (any, error) {
			in := read(f)
			if f.err != nil {
				operation.Wipe(in)
				return nil, f.err
			}
			done, err := o.Do(ctx, c, in)
			f.effect = done.Effect.String()
			return done.Out, err
		}}
}

// ask is an operation whose answer is shown.
func ask[In, Out any](o *operation.Operation[In, Out], read func(f *form) In, show func(p *page, out Out) (*view, error)) action {
	a := post(o, read, then{})
	a.show = func(p *page, answer any) (*view, error) { return show(p, answer.(Out)) }
	return a
}

// actions are the operations that have a form in the console, by their IDs.
var actions = map[string]action{}

func init() { // for their pages have forms of them
	for _, a := range slices.Concat(keyStoreActions(), keyActions(), grantActions(), fileActions(), credentialActions(), proofActions(), userActions(), accountActions(), approvalActions(), settingsActions(), stateActions(), fleetActions()) {
		actions[a.route.ID] = a
	}
}

func nothing(*form) operation.Nothing { return operation.Nothing{} }

func keyStoreName(f *form) operation.KeyStoreName {
	return operation.KeyStoreName{KeyStore: f.hidden("keystore")}
}

func keyStoreActions() []action {
	return []action{
		post(operation.CreateKeyStore, func(f *form) operation.NewKeyStore {
			want := operation.NewKeyStore{Name: f.text("name"), URIPathPrefix: f.text("uri_path_prefix")}
			if f.trimmed("requests_per_second") != "" {
				want.RequestsPerSecond = f.whole("requests_per_second")
			}
			return want
		}, then{done: "The key store was created. Next: a SigV4 credential for KMS.", to: "/keystores/{name}"}),
		post(operation.SetQuota, func(f *form) operation.Quota {
			return operation.Quota{KeyStoreName: keyStoreName(f), RequestsPerSecond: f.whole("requests_per_second")}
		}, then{done: "The quota is set."}),
		post(operation.DeleteKeyStore, keyStoreName, then{done: "The key store is deleted.", to: "/keystores"}),
		post(operation.Block, func(f *form) operation.NewBlock {
			return operation.NewBlock{BlockTarget: f.target(), Reason: f.text("reason")}
		}, then{done: "Blocked. Requests that start from now on are refused, and the keys are wiped."}),
		post(operation.Unblock, (*form).target, then{done: "Unblocked."}),
	}
}

func keyName(f *form) operation.KeyName {
	return operation.KeyName{KeyStoreName: keyStoreName(f), Key: f.hidden("key")}
}

func newKey(f *form) operation.NewKey {
	uses := f.choices("usage")
	return operation.NewKey{KeyStoreName: keyStoreName(f), ID: f.text("id"), Usage: appliance.Usage{Encrypt: slices.Contains(uses, "encrypt"), Decrypt: slices.Contains(uses, "decrypt")},
		Custody: appliance.Custody(f.text("custody")), Material: f.material(), Framing: appliance.Framing(f.text("framing")), Reversible: f.text("reversible") == reversible}
}

func keyActions() []action {
	return []action{
		post(operation.CreateKey, newKey, then{done: "The key was created.", to: "/keystores/{keystore}/keys/{id}"}),
		post(operation.EnableKey, keyName, then{done: "The key is enabled."}),
		post(operation.DisableKey, keyName, then{done: "The key is disabled."}),
		post(operation.RotateKey, func(f *form) operation.Rotation {
			return operation.Rotation{KeyName: keyName(f), Material: f.material()}
		}, then{done: "The key is rotated: a new version encrypts from now on, all versions decrypt."}),
		post(operation.ScheduleKeyDeletion, func(f *form) operation.Deletion {
			return operation.Deletion{KeyName: keyName(f), Days: f.whole("days")}
		}, then{done: "Key deletion is scheduled: the key is out of service, and is destroyed when its waiting period is over."}),
		post(operation.CancelKeyDeletion, keyName, then{done: "Key deletion is canceled. The key is disabled."}),
	}
}

func newGrant(f *form) operation.NewGrant {
	g := operation.NewGrant{KeyStoreName: keyStoreName(f), KeyID: f.trimmed("key_id"), Effect: appliance.Effect(f.text("effect")), Principal: f.trimmed("principal"), Operations: []appliance.Operation{}}
	for _, op := range f.choices("operations") {
		g.Operations = append(g.Operations, appliance.Operation(op))
	}
	g.Conditions = appliance.Conditions{CallingAccounts: f.words("calling_accounts"), ViaServices: f.words("via_services"),
		SourceVPCs: f.words("source_vpcs"), SourceVPCEs: f.words("source_vpces"), KMSKeyARNs: f.words("kms_key_arns"),
		KMSKeyRegions: f.words("kms_key_regions"), KMSKeyAccounts: f.words("kms_key_accounts"), KMSOperations: f.words("kms_operations")}
	g.NotAfter = f.endOfDay("not_after")
	g.Force = f.checked("force")
	return g
}

func grantActions() []action {
	return []action{
		post(operation.CreateGrant, newGrant, then{done: "The grant was created."}),
		ask(operation.RenderGrant, newGrant, renderedGrant),
		post(operation.RemoveGrant, func(f *form) operation.GrantName {
			return operation.GrantName{KeyStoreName: keyStoreName(f), Grant: f.hidden("grant")}
		}, then{done: "The grant was removed."}),
		post(operation.SetPolicy, func(f *form) operation.NewPolicy {
			return operation.NewPolicy{KeyStoreName: keyStoreName(f), Cedar: f.text("cedar"), Force: f.checked("force")}
		}, then{done: "The Cedar policies are set, and hold from now on."}),
	}
}

func credentialName(f *form) operation.CredentialName {
	return operation.CredentialName{KeyStoreName: keyStoreName(f), Credential: f.hidden("credential")}
}

func newCredential(f *form) operation.NewCredential {
	want := operation.NewCredential{KeyStoreName: keyStoreName(f)}
	if f.values.Get("generate") == "true" {
		return want
	}
	want.AccessKeyID, want.SecretAccessKey = f.trimmed("access_key_id"), strings.TrimSpace(f.secret("secret_access_key"))
	if want.AccessKeyID == "" || want.SecretAccessKey == "" {
		f.fail("access_key_id", "give both the access key ID and the secret access key to import")
	}
	return want
}

func credentialActions() []action {
	return []action{
		ask(operation.CreateCredential, newCredential, createdCredential),
		post(operation.ActivateCredential, credentialName, then{done: "The credential is activated."}),
		post(operation.DeactivateCredential, credentialName, then{done: "The credential is deactivated: its signatures are refused."}),
		post(operation.DeleteCredential, credentialName, then{done: "The credential is deleted."}),
	}
}

func proofActions() []action {
	return []action{
		post(operation.ProbeHSMs, func(*form) operation.HSMPage { return operation.HSMPage{} }, then{done: "Each HSM was tested."}),
		post(operation.VerifyAudit, nothing, then{done: "The audit log is being verified."}),
		post(operation.Seal, func(f *form) operation.SealRequest {
			return operation.SealRequest{PIN: operation.Secret(f.secret("pin")), Admission: f.hidden("admission")}
		}, then{done: "The PIN is sealed to this machine's TPM. The boot goes on by itself."}),
		post(operation.InstallLaunch, func(f *form) operation.LaunchDocument {
			return operation.LaunchDocument{Document: f.trimmed("document")}
		}, then{done: "The launch file is installed. The machine starts with it from the next time on: restart it."}),
		post(operation.InstallPolicy, func(f *form) operation.PolicyFiles {
			return operation.PolicyFiles{Policy: f.text("policy"), Authorizations: f.text("authorizations"), Approvals: f.text("approvals")}
		}, then{done: "The policy is installed. A machine that serves is judged by it now; one that is locked, at its next start."}),
		post(operation.RevokePolicies, func(f *form) operation.Revocation {
			return operation.Revocation{Below: uint64(f.whole("below"))}
		}, then{done: "Older policies are revoked: the TPM refuses them from now on."}),
	}
}

func userName(f *form) operation.UserName { return operation.UserName{User: f.hidden("user")} }

func sessionName(f *form) operation.SessionName {
	return operation.SessionName{Session: f.hidden("session")}
}

func userActions() []action {
	return []action{
		ask(operation.CreateInvitation, func(f *form) operation.NewInvitation {
			return operation.NewInvitation{Name: f.text("name"), Role: identity.Role(f.text("role"))}
		}, createdInvitation),
		post(operation.RevokeInvitation, func(f *form) operation.InvitationName {
			return operation.InvitationName{Invitation: f.hidden("invitation")}
		}, then{done: "The invitation is revoked."}),
		post(operation.SetRole, func(f *form) operation.RoleChange {
			return operation.RoleChange{UserName: userName(f), Role: identity.Role(f.text("role"))}
		}, then{done: "The role was changed, and the user's sessions were ended."}),
		post(operation.DisableUser, userName, then{done: "The user is disabled, and their sessions have ended."}),
		post(operation.EnableUser, userName, then{done: "The user is enabled."}),
		post(operation.UnlockUser, userName, then{done: "The user is unlocked, and may try passwords again."}),
		post(operation.DeleteUser, userName, then{done: "The user is deleted.", to: "/users"}),
		post(operation.SignOutUser, userName, then{done: "The user is signed out of all sessions."}),
		post(operation.BindOIDC, func(f *form) operation.OIDCBinding {
			return operation.OIDCBinding{UserName: userName(f), Email: f.trimmed("email")}
		}, then{done: "Single sign-on is set."}),
		post(operation.SetEmail, func(f *form) operation.EmailAddress {
			return operation.EmailAddress{UserName: userName(f), Email: f.trimmed("email")}
		}, then{done: "The e-mail address is set."}),
		ask(operation.CreateToken, func(f *form) operation.NewToken {
			return operation.NewToken{Name: f.text("name"), Role: identity.Role(f.text("role")), Days: f.whole("days"),
				Scope: identity.Scope{KeyStores: f.choices("key_stores"), Operations: f.choices("operations"), Networks: f.words("networks")}}
		}, createdToken),
		post(operation.RevokeToken, func(f *form) operation.TokenName {
			return operation.TokenName{Token: f.hidden("token")}
		}, then{done: "The API token is revoked: it is refused from now on."}),
		post(operation.RevokeSession, sessionName, then{done: "The session was ended."}),
	}
}

func accountActions() []action {
	return []action{
		post(operation.RevokeOwnSession, sessionName, then{done: "The session was ended."}),
		post(operation.SignOutEverywhere, nothing, then{to: "/signin"}),
		post(operation.RemovePasskey, func(f *form) operation.PasskeyName {
			return operation.PasskeyName{Passkey: f.hidden("passkey")}
		}, then{done: "The passkey was removed."}),
		ask(operation.NewRecoveryCodes, nothing, newRecoveryCodes),
		post(operation.ConfirmRecoveryUses, func(f *form) operation.ConfirmedUses {
			return operation.ConfirmedUses{Until: f.moment("until")}
		}, then{done: "You have confirmed it."}),
		ask(operation.BeginPassword, nothing, passwordPage),
		post(operation.SetPassword, func(f *form) operation.Proof {
			return operation.Proof{Password: f.secret("password"), Code: f.secret("code")}
		}, then{done: "Password and authenticator app are set.", to: "/account"}),
	}
}

func approvalName(f *form) operation.ApprovalName {
	return operation.ApprovalName{Approval: f.hidden("approval")}
}

func approvalDecision(f *form) operation.ApprovalDecision {
	return operation.ApprovalDecision{ApprovalName: approvalName(f), Reason: f.trimmed("reason")}
}

func approvalActions() []action {
	return []action{
		ask(operation.Approve, approvalDecision, approved),
		ask(operation.PerformApproved, func(f *form) operation.ApprovedPerformance {
			return operation.ApprovedPerformance{ApprovalName: approvalName(f), Secret: f.secretAgain()}
		}, approved),
		post(operation.Reject, approvalDecision, then{done: "The request was rejected."}),
	}
}

func settingsActions() []action {
	return []action{
		post(operation.SetSettings, func(f *form) operation.Settings {
			return operation.Settings{FourEyes: f.choices("four_eyes"), ApprovalHours: f.whole("approval_hours")}
		}, then{done: "The settings are changed."}),
		ask(operation.TestNotices, nothing, testedNotices),
		backupAction(),
		ask(operation.RequestCertificate, func(f *form) operation.CertificateRequest {
			return operation.CertificateRequest{Names: f.words("names")}
		}, certificateRequested),
		post(operation.InstallCertificate, func(f *form) operation.CertificateChain {
			return operation.CertificateChain{Chain: f.text("chain"), OwnAuthority: f.checked("own_authority"), OtherName: f.checked("other_name")}
		}, then{done: "The certificate is installed, and in use for new connections. The one before is kept."}),
		post(operation.RestoreCertificate, nothing, then{done: "The previous certificate is restored, and in use for new connections."}),
		post(operation.ShareCertificate, func(f *form) operation.SharedCertificate {
			return operation.SharedCertificate{Chain: f.text("chain"), Key: operation.Secret(f.secret("private_key")), OwnAuthority: f.checked("own_authority"), OtherName: f.checked("other_name")}
		}, then{done: "The certificate is shared: all nodes that are unlocked serve with it."}),
		post(operation.UnshareCertificate, nothing, then{done: "Sharing has stopped: each node serves with its own certificate."}),
	}
}

// backupAction asks for the approval of a backup. What needs no approval, and what was approved,
// is a download and no form.
func backupAction() action {
	a := post(operation.Backup, func(*form) operation.BackupRequest { return operation.BackupRequest{} }, then{})
	a.perform = func(ctx context.Context, c *operation.Caller, _ *form) (any, error) {
		needs, err := c.NeedsApproval(ctx, operation.Backup.Entry())
		if err != nil {
			return nil, err
		}
		if !needs && c.Who.Role.May(operation.Backup.Entry().Capability) {
			return nil, fault.Errorf(fault.Conflict, "no other person must approve a backup any more: open the settings again, and download it there")
		}
		done, err := operation.Backup.Do(ctx, c, operation.BackupRequest{})
		if err == nil && done.Out.Close != nil {
			done.Out.Close()
		}
		return nil, err
	}
	return a
}

// Operations are the IDs of the operations that have a form in the console, sorted.
func Operations() []string { return slices.Sorted(maps.Keys(actions)) }

// Fields gives the fields that the form of each operation must have, besides those
// that name things.
func Fields() map[string][]string {
	all := map[string][]string{}
	for id, a := range actions {
		if len(a.fields) > 0 {
			all[id] = a.fields
		}
	}
	return all
}

// Done is what the console says after the operation of a form, where that is always the same.
func Done(id string) (string, bool) {
	a, ok := actions[id]
	return a.done, ok
}
