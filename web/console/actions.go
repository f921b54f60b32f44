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
	"holdfast/appliance/identity"
	"holdfast/web"
)

// actions are the operations of the API that have a form in the console.
var actions map[string]action

func init() { // for their pages have forms of them
	actions = map[string]action{
		"createKeyStore": {body: func(v url.Values) (any, error) {
			n, err := whole(v, "requests_per_second")
			return web.NewKeyStore{Name: v.Get("name"), URIPathPrefix: v.Get("uri_path_prefix"), RequestsPerSecond: n}, err
		}, done: "The key store was made. Next: a SigV4 credential for KMS.", to: "/keystores/{name}"},
		"setQuota": {body: func(v url.Values) (any, error) {
			n, err := whole(v, "requests_per_second")
			return web.Quota{RequestsPerSecond: n}, err
		}, done: "The quota was set."},
		"deleteKeyStore": {confirm: "keystore", done: "The key store was removed.", to: "/keystores"},
		"block": {body: func(v url.Values) (any, error) {
			return web.Block{BlockTarget: target(v), Reason: v.Get("reason")}, nil
		}, done: "Blocked. Requests that start from now on are refused, and the keys are wiped."},
		"unblock": {body: func(v url.Values) (any, error) { return target(v), nil }, done: "The block was taken back."},

		"createKey": {body: func(v url.Values) (any, error) {
			usage := appliance.Usage{Encrypt: has(v, "usage", "encrypt"), Decrypt: has(v, "usage", "decrypt")}
			material, err := keyMaterial(v.Get("material"))
			return web.NewKey{ID: v.Get("id"), Usage: usage, Custody: appliance.Custody(v.Get("custody")), Material: material, Framing: appliance.Framing(v.Get("framing"))}, err
		}, done: "The key was made.", to: "/keystores/{keystore}/keys/{id}"},
		"enableKey":  {done: "The key is enabled."},
		"disableKey": {done: "The key is disabled."},
		"rotateKey": {body: func(v url.Values) (any, error) {
			material, err := keyMaterial(v.Get("material"))
			return web.Rotation{Material: material}, err
		}, done: "The key was rotated: a new version encrypts from now on, all versions decrypt."},
		"scheduleKeyDeletion": {confirm: "key", body: func(v url.Values) (any, error) {
			n, err := whole(v, "days")
			return web.Deletion{Days: n}, err
		}, done: "The key is out of service, and will be destroyed when its waiting period is over."},
		"cancelKeyDeletion": {done: "The deletion was taken back. The key is disabled."},

		"createGrant": {body: newGrant, done: "The grant was made."},
		"renderGrant": {body: newGrant, show: renderedGrant},
		"removeGrant": {done: "The grant was removed."},
		"setPolicy":   {body: func(v url.Values) (any, error) { return web.Policy{Cedar: v.Get("cedar")}, nil }, done: "The policies were stored, and hold from now on."},
		"testGrants": {body: func(v url.Values) (any, error) {
			return appliance.RequestContext{Principal: v.Get("principal"), Operation: appliance.Operation(v.Get("operation_name")), ViaService: v.Get("via_service"),
				SourceVPC: v.Get("source_vpc"), SourceVPCE: v.Get("source_vpce"), KMSKeyARN: v.Get("kms_key_arn"), KMSOperation: v.Get("kms_operation")}, nil
		}, show: testedGrants},

		"createCredential": {body: func(v url.Values) (any, error) {
			return web.NewCredential{AccessKeyID: strings.TrimSpace(v.Get("access_key_id")), SecretAccessKey: strings.TrimSpace(v.Get("secret_access_key"))}, nil
		}, show: createdCredential},
		"activateCredential":   {done: "The credential is active."},
		"deactivateCredential": {done: "The credential is not accepted any more."},
		"deleteCredential":     {confirm: "credential", done: "The credential was removed."},

		"probeHSMs":   {done: "Each HSM has done its test operation."},
		"verifyAudit": {done: "The verification has begun."},
		"seal": {body: func(v url.Values) (any, error) { return web.SealRequest{PIN: []byte(v.Get("pin"))}, nil },
			done: "The PIN is sealed to this machine's TPM. The boot goes on by itself."},
		"revokePolicies": {body: func(v url.Values) (any, error) {
			n, err := whole(v, "below")
			return web.Revocation{Below: uint64(n)}, err
		}, done: "The TPM refuses older policies from now on."},

		"createInvitation": {body: func(v url.Values) (any, error) {
			return web.NewInvitation{Name: v.Get("name"), Role: identity.Role(v.Get("role"))}, nil
		}, show: createdInvitation},
		"revokeInvitation": {done: "The invitation was taken back."},
		"setRole": {body: func(v url.Values) (any, error) { return web.RoleChange{Role: identity.Role(v.Get("role"))}, nil },
			done: "The role was changed, and the user's sessions were ended."},
		"disableUser": {done: "The user is kept out, and their sessions were ended."},
		"enableUser":  {done: "The user may sign in again."},
		"unlockUser":  {done: "The user may try passwords again."},
		"deleteUser":  {confirm: "user_name", done: "The user was removed.", to: "/users"},
		"signOutUser": {done: "The user's sessions were ended."},
		"bindOIDC":    {body: func(v url.Values) (any, error) { return web.OIDCBinding{Email: strings.TrimSpace(v.Get("email"))}, nil }, done: "The address was stored."},
		"createToken": {body: func(v url.Values) (any, error) {
			n, err := whole(v, "days")
			return web.NewToken{Name: v.Get("name"), Role: identity.Role(v.Get("role")), Days: n}, err
		}, show: createdToken},
		"revokeToken":   {done: "The API token is refused from now on."},
		"revokeSession": {done: "The session was ended."},

		"revokeOwnSession":  {done: "The session was ended."},
		"signOutEverywhere": {to: "/signin"},
		"removePasskey":     {done: "The passkey was removed."},
		"newRecoveryCodes":  {show: newRecoveryCodes},
		"beginPassword":     {show: passwordPage},
		"setPassword": {body: func(v url.Values) (any, error) {
			return web.Proof{Password: v.Get("password"), Code: v.Get("code")}, nil
		}, done: "Password and authenticator app are set.", to: "/account"},

		"approve":         {show: approved},
		"performApproved": {show: approved},
		"reject":  {done: "The request was rejected."},

		"setSettings": {body: func(v url.Values) (any, error) {
			return web.Settings{FourEyes: append([]string{}, v["four_eyes"]...)}, nil
		}, done: "The settings were stored."},
		"requestCertificate": {body: func(v url.Values) (any, error) {
			return web.CertificateRequest{Names: strings.Fields(v.Get("names"))}, nil
		}, show: certificateRequested},
		"installCertificate": {body: func(v url.Values) (any, error) { return web.CertificateChain{Chain: v.Get("chain")}, nil }, done: "The certificate is in use for new connections."},
	}
}

// whole reads a number; empty is 0.
func whole(v url.Values, name string) (int, error) {
	text := strings.TrimSpace(v.Get(name))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, appliance.Errorf(appliance.CodeInvalid, "%s %.40q: use a whole number", strings.ReplaceAll(name, "_", " "), text)
	}
	return n, nil
}

func has(v url.Values, name, value string) bool {
	for _, x := range v[name] {
		if x == value {
			return true
		}
	}
	return false
}

func target(v url.Values) appliance.BlockTarget {
	return appliance.BlockTarget{KeyStore: v.Get("keystore"), KeyID: v.Get("key")}
}

// keyMaterial reads a key of 32 bytes in hexadecimal or Base64; nil if there is
// none.
func keyMaterial(text string) ([]byte, error) {
	if text = strings.TrimSpace(text); text == "" {
		return nil, nil
	}
	if b, err := hex.DecodeString(text); err == nil && len(b) == appliance.KeyBytes {
		return b, nil
	}
	if b, err := base64.StdEncoding.DecodeString(text); err == nil && len(b) == appliance.KeyBytes {
		return b, nil
	}
	return nil, appliance.Errorf(appliance.CodeInvalid, "key material: give %d bytes, as 64 hexadecimal digits or 44 characters of Base64", appliance.KeyBytes)
}

func newGrant(v url.Values) (any, error) {
	g := web.NewGrant{KeyID: strings.TrimSpace(v.Get("key_id")), Effect: appliance.Effect(v.Get("effect")), Principal: strings.TrimSpace(v.Get("principal"))}
	for _, op := range v["operations"] {
		g.Operations = append(g.Operations, appliance.Operation(op))
	}
	g.Conditions = appliance.Conditions{CallingAccounts: strings.Fields(v.Get("calling_accounts")), ViaServices: strings.Fields(v.Get("via_services")),
		SourceVPCs: strings.Fields(v.Get("source_vpcs")), SourceVPCEs: strings.Fields(v.Get("source_vpces")), KMSKeyARNs: strings.Fields(v.Get("kms_key_arns")),
		KMSKeyRegions: strings.Fields(v.Get("kms_key_regions")), KMSKeyAccounts: strings.Fields(v.Get("kms_key_accounts")),
		KMSOperations: strings.Fields(v.Get("kms_operations"))}
	if until := strings.TrimSpace(v.Get("not_after")); until != "" {
		t, err := time.Parse("2006-01-02", until)
		if err != nil {
			return nil, appliance.Errorf(appliance.CodeInvalid, "until %.40q: give a date such as 2027-01-31", until)
		}
		g.NotAfter = t.Add(24*time.Hour - time.Millisecond)
	}
	return g, nil
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
