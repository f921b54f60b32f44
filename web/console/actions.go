package console

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web"
)

// actions are the operations of the API that have a form in the console.
var actions map[string]action

func init() { // for their pages have forms of them
	actions = map[string]action{
		"createKeyStore": {body: func(f *form) any {
			want := web.NewKeyStore{Name: f.text("name"), URIPathPrefix: f.text("uri_path_prefix")}
			if f.trimmed("requests_per_second") != "" {
				want.RequestsPerSecond = f.whole("requests_per_second")
			}
			return want
		}, done: "The key store was made. Next: a SigV4 credential for KMS.", to: "/keystores/{name}"},
		"setQuota":       {body: func(f *form) any { return web.Quota{RequestsPerSecond: f.whole("requests_per_second")} }, done: "The quota was set."},
		"deleteKeyStore": {confirm: "keystore", done: "The key store was removed.", to: "/keystores"},
		"block":          {body: func(f *form) any { return web.Block{BlockTarget: f.target(), Reason: f.text("reason")} }, done: "Blocked. Requests that start from now on are refused, and the keys are wiped."},
		"unblock":        {body: func(f *form) any { return f.target() }, done: "The block was taken back."},

		"createKey": {body: func(f *form) any {
			uses := f.choices("usage")
			usage := appliance.Usage{Encrypt: slices.Contains(uses, "encrypt"), Decrypt: slices.Contains(uses, "decrypt")}
			return web.NewKey{ID: f.text("id"), Usage: usage, Custody: appliance.Custody(f.text("custody")), Material: f.material(), Framing: appliance.Framing(f.text("framing"))}
		}, done: "The key was made.", to: "/keystores/{keystore}/keys/{id}"},
		"enableKey":           {done: "The key is enabled."},
		"disableKey":          {done: "The key is disabled."},
		"rotateKey":           {body: func(f *form) any { return web.Rotation{Material: f.material()} }, done: "The key was rotated: a new version encrypts from now on, all versions decrypt."},
		"scheduleKeyDeletion": {confirm: "key", body: func(f *form) any { return web.Deletion{Days: f.whole("days")} }, done: "The key is out of service, and will be destroyed when its waiting period is over."},
		"cancelKeyDeletion":   {done: "The deletion was taken back. The key is disabled."},

		"createGrant": {body: newGrant, done: "The grant was made."},
		"renderGrant": {body: newGrant, show: renderedGrant},
		"removeGrant": {done: "The grant was removed."},
		"setPolicy":   {body: func(f *form) any { return web.Policy{Cedar: f.text("cedar")} }, done: "The policies were stored, and hold from now on."},
		"testGrants": {body: func(f *form) any {
			return appliance.RequestContext{Principal: f.text("principal"), Operation: appliance.Operation(f.text("operation_name")), ViaService: f.text("via_service"),
				SourceVPC: f.text("source_vpc"), SourceVPCE: f.text("source_vpce"), KMSKeyARN: f.text("kms_key_arn"), KMSOperation: f.text("kms_operation")}
		}, show: testedGrants},

		"createCredential": {body: func(f *form) any {
			if f.values.Get("generate") == "true" {
				return web.NewCredential{}
			}
			want := web.NewCredential{AccessKeyID: f.trimmed("access_key_id"), SecretAccessKey: f.trimmed("secret_access_key")}
			if want.AccessKeyID == "" || want.SecretAccessKey == "" {
				f.fail("give both the access key ID and the secret access key to import")
			}
			return want
		}, show: createdCredential},
		"activateCredential":   {done: "The credential is active."},
		"deactivateCredential": {done: "The credential is not accepted any more."},
		"deleteCredential":     {confirm: "credential", done: "The credential was removed."},

		"probeHSMs":   {done: "Each HSM has done its test operation."},
		"verifyAudit": {done: "The verification has begun."},
		"seal": {body: func(f *form) any { return web.SealRequest{PIN: []byte(f.text("pin"))} },
			done: "The PIN is sealed to this machine's TPM. The boot goes on by itself."},
		"revokePolicies": {body: func(f *form) any { return web.Revocation{Below: uint64(f.whole("below"))} }, done: "The TPM refuses older policies from now on."},

		"createInvitation": {body: func(f *form) any {
			return web.NewInvitation{Name: f.text("name"), Role: identity.Role(f.text("role"))}
		}, show: createdInvitation},
		"revokeInvitation": {done: "The invitation was taken back."},
		"setRole": {body: func(f *form) any { return web.RoleChange{Role: identity.Role(f.text("role"))} },
			done: "The role was changed, and the user's sessions were ended."},
		"disableUser": {done: "The user is kept out, and their sessions were ended."},
		"enableUser":  {done: "The user may sign in again."},
		"unlockUser":  {done: "The user may try passwords again."},
		"deleteUser":  {confirm: "user_name", done: "The user was removed.", to: "/users"},
		"signOutUser": {done: "The user's sessions were ended."},
		"bindOIDC":    {body: func(f *form) any { return web.OIDCBinding{Email: f.trimmed("email")} }, done: "The address was stored."},
		"createToken": {body: func(f *form) any {
			return web.NewToken{Name: f.text("name"), Role: identity.Role(f.text("role")), Days: f.whole("days")}
		}, show: createdToken},
		"revokeToken":   {done: "The API token is refused from now on."},
		"revokeSession": {done: "The session was ended."},

		"revokeOwnSession":  {done: "The session was ended."},
		"signOutEverywhere": {to: "/signin"},
		"removePasskey":     {done: "The passkey was removed."},
		"newRecoveryCodes":  {show: newRecoveryCodes},
		"beginPassword":     {show: passwordPage},
		"setPassword":       {body: func(f *form) any { return web.Proof{Password: f.text("password"), Code: f.text("code")} }, done: "Password and authenticator app are set.", to: "/account"},

		"approve":         {show: approved},
		"performApproved": {show: approved},
		"reject":          {done: "The request was rejected."},

		"setSettings":        {body: func(f *form) any { return web.Settings{FourEyes: f.choices("four_eyes")} }, done: "The settings were stored."},
		"requestCertificate": {body: func(f *form) any { return web.CertificateRequest{Names: f.words("names")} }, show: certificateRequested},
		"installCertificate": {body: func(f *form) any { return web.CertificateChain{Chain: f.text("chain")} }, done: "The certificate is in use for new connections."},
	}
}

// form reads the fields of a form. The first one that is missing, or cannot be
// read, is its error: browsers send all fields of a form, and what is absent is
// never taken for a value.
type form struct {
	values url.Values
	read   []string // the fields that were read
	err    error
}

func (f *form) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fault.Errorf(fault.Invalid, format, args...)
	}
}

// text gives a field, which may be empty.
func (f *form) text(name string) string {
	f.read = append(f.read, name)
	if len(f.values[name]) != 1 {
		f.fail("the form has the field %q %d times: open its page again", name, len(f.values[name]))
	}
	return f.values.Get(name)
}

func (f *form) trimmed(name string) string { return strings.TrimSpace(f.text(name)) }

// words gives those of a field, which spaces separate.
func (f *form) words(name string) []string {
	return append([]string{}, strings.Fields(f.text(name))...)
}

// whole gives a field that is a whole number.
func (f *form) whole(name string) int {
	text := f.trimmed(name)
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		f.fail("%s %.40q: use a whole number", strings.ReplaceAll(name, "_", " "), text)
	}
	return n
}

// choices gives the boxes that are checked. The form has an empty value beside
// them, so that none differs from a form without the field.
func (f *form) choices(name string) []string {
	f.read = append(f.read, name)
	if !f.values.Has(name) {
		f.fail("the form lacks the field %q: open its page again", name)
	}
	return slices.DeleteFunc(append([]string{}, f.values[name]...), func(v string) bool { return v == "" })
}

// target is what a form is to block or unblock; the API says if that is nothing.
func (f *form) target() appliance.BlockTarget {
	return appliance.BlockTarget{Everything: f.values.Get("everything") == "true", KeyStore: f.values.Get("keystore"), KeyID: f.values.Get("key")}
}

// material reads a key of 32 bytes in hexadecimal or Base64; nil if the field is
// empty.
func (f *form) material() []byte {
	text := f.trimmed("material")
	if text == "" {
		return nil
	}
	if b, err := hex.DecodeString(text); err == nil && len(b) == appliance.KeyBytes {
		return b
	}
	if b, err := base64.StdEncoding.DecodeString(text); err == nil && len(b) == appliance.KeyBytes {
		return b
	}
	f.fail("key material: give %d bytes, as 64 hexadecimal digits or 44 characters of Base64", appliance.KeyBytes)
	return nil
}

func newGrant(f *form) any {
	g := web.NewGrant{KeyID: f.trimmed("key_id"), Effect: appliance.Effect(f.text("effect")), Principal: f.trimmed("principal"), Operations: []appliance.Operation{}}
	for _, op := range f.choices("operations") {
		g.Operations = append(g.Operations, appliance.Operation(op))
	}
	g.Conditions = appliance.Conditions{CallingAccounts: f.words("calling_accounts"), ViaServices: f.words("via_services"),
		SourceVPCs: f.words("source_vpcs"), SourceVPCEs: f.words("source_vpces"), KMSKeyARNs: f.words("kms_key_arns"),
		KMSKeyRegions: f.words("kms_key_regions"), KMSKeyAccounts: f.words("kms_key_accounts"), KMSOperations: f.words("kms_operations")}
	if until := f.trimmed("not_after"); until != "" {
		t, err := time.Parse("2006-01-02", until)
		if err != nil {
			f.fail("until %.40q: give a date such as 2027-01-31", until)
		}
		g.NotAfter = t.Add(24*time.Hour - time.Millisecond)
	}
	return g
}

// decode reads an answer of the API.
func decode[T any](result []byte) (T, error) {
	var v T
	err := json.Unmarshal(result, &v)
	return v, err
}

// Operations are the operations of the API that have a form in the console,
// sorted.
func Operations() []string { return slices.Sorted(maps.Keys(actions)) }

// Fields gives the fields that the form of each operation must have, besides those
// of its path.
func Fields() map[string][]string {
	all := map[string][]string{}
	for name, a := range actions {
		if a.body != nil {
			f := &form{values: url.Values{}}
			a.body(f)
			all[name] = f.read
		}
	}
	return all
}
