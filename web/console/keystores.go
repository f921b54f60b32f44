package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

func (p *page) param(name string) string {
	v := chi.URLParam(p.Request, name)
	if plain, err := url.PathUnescape(v); err == nil {
		return plain
	}
	return v
}

type keyStoresData struct {
	stores  []*appliance.KeyStore
	now     time.Time
	create  ui.Form
	manages bool
}

func keyStores(p *page) (*view, error) {
	stores, err := read(p, operation.ListKeyStores, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &keyStoresData{stores: stores, now: p.now, manages: p.may(identity.ManageKeys)}
	d.create = p.form(operation.CreateKeyStore, "", ui.Form{Folded: "Make a key store", Submit: "Make it", Label: "New key store", Fields: []ui.Field{
		{Name: "name", Label: "Name", Required: true, Autocomplete: "off", Hint: "letters, digits, '.', '_' and '-'"},
		{Name: "uri_path_prefix", Label: "URI path prefix", Mono: true, Placeholder: "/bank/prod", Autocomplete: "off", Hint: "comes before " + appliance.XKSPath + "; leave it empty for one key store alone"},
		{Name: "requests_per_second", Label: "Quota", Type: "number", Min: "0", Hint: "authenticated requests a second; empty or 0 for no limit. KMS needs up to 1,800"},
	}})
	return &view{title: "Key stores", body: keyStoresPage(d)}, nil
}

// storeData is what the pages of a key store have in common.
type storeData struct {
	*appliance.KeyStoreDetail
	now     time.Time
	manages bool
	tabs    []ui.NavEntry
}

func (p *page) store(tab string) (*storeData, error) {
	detail, err := read(p, operation.ShowKeyStore, operation.KeyStoreName{KeyStore: p.param("keystore")})
	if err != nil {
		return nil, err
	}
	d := &storeData{KeyStoreDetail: detail, now: p.now, manages: p.may(identity.ManageKeys)}
	base := "/keystores/" + url.PathEscape(d.Name)
	d.tabs = []ui.NavEntry{{Text: "Key store", URL: base}, {Text: "Keys", URL: base + "/keys", Count: d.Keys}, {Text: "Grants and policy", URL: base + "/grants"},
		{Text: "SigV4 credentials", URL: base + "/credentials", Count: len(d.Credentials)}}
	for i := range d.tabs {
		d.tabs[i].Current = d.tabs[i].Text == tab
	}
	return d, nil
}

func (d *storeData) crumbs(more ...ui.Link) []ui.Link {
	list := []ui.Link{{Text: "Key stores", URL: "/keystores"}}
	if len(more) > 0 {
		list = append(list, ui.Link{Text: d.Name, URL: "/keystores/" + d.Name})
	}
	return append(list, more[:max(0, len(more)-1)]...)
}

type keyStoreData struct {
	*storeData
	health                        *operation.KeyStoreHealth
	quota, block, unblock, remove ui.Form
}

func keyStore(p *page) (*view, error) {
	s, err := p.store("Key store")
	if err != nil {
		return nil, err
	}
	health, err := read(p, operation.ShowKeyStoreHealth, operation.KeyStoreName{KeyStore: s.Name})
	if err != nil {
		return nil, err
	}
	d := &keyStoreData{storeData: s, health: health}
	revision := operation.Revision(s.KeyStore)
	d.quota = p.form(operation.SetQuota, revision, ui.Form{Folded: "Change the quota", Submit: "Set the quota", Kind: "quiet", Fields: []ui.Field{
		{Name: "requests_per_second", Label: "Requests a second", Type: "number", Min: "0", Value: strconv.Itoa(s.RequestsPerSecond), Required: true, Hint: "0 for no limit"}}}, "keystore", s.Name)
	d.block = p.form(operation.Block, "", ui.Form{Folded: "Block", Submit: "Block the key store", Kind: "danger", Note: "No key of it is used by requests that start from then on, until somebody unblocks.",
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Required: true}}}, "keystore", s.Name)
	d.unblock = p.form(operation.Unblock, "", ui.Form{Submit: "Unblock", Kind: "quiet"}, "keystore", s.Name)
	d.remove = p.form(operation.DeleteKeyStore, revision, ui.Form{Folded: "Remove", Submit: "Remove the key store", Kind: "danger", Note: "With its credentials and grants. A key store with keys cannot be removed."}, "keystore", s.Name)
	return &view{title: s.Name, crumbs: s.crumbs(), body: keyStorePage(d)}, nil
}

type keysData struct {
	*storeData
	keys          []*appliance.ExternalKey
	prefix, state string
	first, next   string
	filters       []ui.Field
	create        ui.Form
	act           map[string]ui.Form // by ID: what is next for the key
}

// pageSize is how many rows pages show.
const pageSize = 50

func keys(p *page) (*view, error) {
	s, err := p.store("Keys")
	if err != nil {
		return nil, err
	}
	q := p.URL.Query()
	d := &keysData{storeData: s, prefix: q.Get("prefix"), state: q.Get("state"), act: map[string]ui.Form{}}
	d.keys, err = read(p, operation.ListKeys, operation.KeyPage{KeyStoreName: operation.KeyStoreName{KeyStore: s.Name}, Prefix: d.prefix, State: appliance.KeyState(d.state), After: q.Get("after"), Limit: pageSize})
	if err != nil {
		return nil, err
	}
	base := p.URL.Path
	if q.Get("after") != "" {
		d.first = base + query("prefix", d.prefix, "state", d.state)
	}
	if len(d.keys) == pageSize {
		d.next = base + query("prefix", d.prefix, "state", d.state, "after", d.keys[pageSize-1].ID)
	}
	d.filters = []ui.Field{{Name: "prefix", Label: "Key ID begins with", Value: d.prefix, Mono: true},
		{Name: "state", Label: "State", Type: "select", Value: d.state, Options: []ui.Option{{Text: "all"}, {Value: "enabled", Text: "enabled"}, {Value: "disabled", Text: "disabled"},
			{Value: "pending_deletion", Text: "pending deletion"}, {Value: "deletion_suspended", Text: "deletion suspended"}, {Value: "blocked", Text: "blocked"}}}}
	d.create = p.form(operation.CreateKey, "", ui.Form{Folded: "Make or import a key", Submit: "Make it", Label: "New key", Fields: []ui.Field{
		{Name: "id", Label: "Key ID", Required: true, Mono: true, Autocomplete: "off", Hint: "the external key ID for KMS: letters, digits, '.', '_' and '-'"},
		{Name: "usage", Label: "May be used to", Type: "checkboxes", Values: []string{"encrypt", "decrypt"}, Options: []ui.Option{{Value: "encrypt", Text: "encrypt"}, {Value: "decrypt", Text: "decrypt"}}},
		{Name: "custody", Label: "Custody", Type: "select", Value: "cached", Options: []ui.Option{{Value: "cached", Text: "cached: used in the appliance's memory, fast"}, {Value: "hsm", Text: "hsm: never leaves the HSM, each use crosses to it"}}},
		{Name: "material", Label: "Key material to import", Type: "password", Autocomplete: "off", Hint: "leave it empty to generate a key; otherwise 32 bytes in hexadecimal or Base64"},
		{Name: "framing", Label: "AAD framing of the proxy it comes from", Type: "select", Options: framings(), Hint: "only for an imported key that another proxy has used"},
	}}, "keystore", s.Name)
	for _, k := range d.keys {
		revision := operation.Revision(k)
		switch {
		case leaving(k):
			d.act[k.ID] = p.form(operation.CancelKeyDeletion, revision, ui.Form{Submit: "Cancel deletion", Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		case k.State == appliance.KeyEnabled:
			d.act[k.ID] = p.form(operation.DisableKey, revision, ui.Form{Submit: "Disable", Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		default:
			d.act[k.ID] = p.form(operation.EnableKey, revision, ui.Form{Submit: "Enable", Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		}
	}
	return &view{title: "Keys of " + s.Name, crumbs: s.crumbs(ui.Link{Text: "Keys"}), body: keysPage(d)}, nil
}

func framings() []ui.Option {
	options := []ui.Option{{Text: "none"}}
	for _, f := range appliance.Framings() {
		options = append(options, ui.Option{Value: string(f), Text: string(f)})
	}
	return options
}

type keyData struct {
	*storeData
	key     *appliance.StoredKey
	recent  []*audit.Record
	audits  bool
	actions []ui.Form
	test    ui.Form
}

func key(p *page) (*view, error) {
	s, err := p.store("Keys")
	if err != nil {
		return nil, err
	}
	d := &keyData{storeData: s, audits: p.may(identity.Audit)}
	id := p.param("key")
	if d.key, err = read(p, operation.ShowKey, operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: s.Name}, Key: id}); err != nil {
		return nil, err
	}
	if d.audits {
		found, err := read(p, operation.SearchAudit, operation.AuditSearch{AuditFilter: operation.AuditFilter{KeyStore: s.Name, Key: id}, Limit: 20})
		if err != nil {
			return nil, err
		}
		d.recent = found.Records
	}
	if s.manages {
		d.forms(p, operation.Revision(d.key))
	}
	d.test = p.form(operation.TestGrants, "", testForm(), "keystore", s.Name, "key", id)
	return &view{title: id, crumbs: s.crumbs(ui.Link{Text: "Keys", URL: "/keystores/" + s.Name + "/keys"}, ui.Link{Text: id}), body: keyPage(d)}, nil
}

func (d *keyData) forms(p *page, revision string) {
	add := func(o operation.Entry, f ui.Form) {
		rev := revision
		if o == operation.Block || o == operation.Unblock {
			rev = "" // blocks hold whatever else has changed
		}
		d.actions = append(d.actions, p.form(o, rev, f, "keystore", d.Name, "key", d.key.ID))
	}
	switch d.key.State {
	case appliance.KeyEnabled:
		add(operation.DisableKey, ui.Form{Submit: "Disable", Kind: "quiet"})
	case appliance.KeyDisabled:
		add(operation.EnableKey, ui.Form{Submit: "Enable", Kind: "quiet"})
	case appliance.KeyPendingDeletion, appliance.KeyDeletionSuspended:
		add(operation.CancelKeyDeletion, ui.Form{Submit: "Cancel deletion"})
	}
	if d.key.Blocked.IsZero() {
		add(operation.Block, ui.Form{Folded: "Block", Submit: "Block the key", Kind: "danger", Note: "Takes the key out of service at once and wipes it from memory.", Fields: []ui.Field{{Name: "reason", Label: "Reason", Required: true}}})
	} else {
		add(operation.Unblock, ui.Form{Submit: "Unblock", Kind: "quiet"})
	}
	if !leaving(&d.key.ExternalKey) {
		add(operation.RotateKey, ui.Form{Folded: "Rotate", Submit: "Rotate", Kind: "quiet", Note: "A new version encrypts from then on; all versions decrypt. KMS needs to know nothing of it.",
			Fields: []ui.Field{{Name: "material", Label: "Material to import", Type: "password", Autocomplete: "off", Hint: "leave it empty to generate it"}}})
	}
	if d.key.State != appliance.KeyPendingDeletion {
		add(operation.ScheduleKeyDeletion, ui.Form{Folded: "Schedule deletion", Submit: "Schedule deletion", Kind: "danger",
			Note:   "What KMS has encrypted under this key can never be decrypted again, by nobody, once it is destroyed. Disable it first, and see what breaks.",
			Fields: []ui.Field{{Name: "days", Label: "Waiting period in days", Type: "number", Min: "7", Max: "30", Value: strconv.Itoa(appliance.DefaultDeletionDays), Required: true}}})
	}
}

// leaving says whether the key's deletion is pending or suspended.
func leaving(k *appliance.ExternalKey) bool {
	return k.State == appliance.KeyPendingDeletion || k.State == appliance.KeyDeletionSuspended
}

type grantsData struct {
	*storeData
	grants         []operation.Grant
	create, render ui.Form
	remove         map[string]ui.Form
	policy         string
	setPolicy      ui.Form
	test           ui.Form
}

func grants(p *page) (*view, error) {
	s, err := p.store("Grants and policy")
	if err != nil {
		return nil, err
	}
	d := &grantsData{storeData: s, remove: map[string]ui.Form{}}
	name := operation.KeyStoreName{KeyStore: s.Name}
	if d.grants, err = read(p, operation.ListGrants, name); err != nil {
		return nil, err
	}
	policy, err := read(p, operation.ShowPolicy, name)
	if err != nil {
		return nil, err
	}
	d.policy = policy.Cedar
	for _, g := range d.grants {
		d.remove[g.ID] = p.form(operation.RemoveGrant, operation.Revision(g.Grant), ui.Form{Submit: "Remove", Kind: "quiet", Inline: true, Label: "grant to " + g.Principal}, "keystore", s.Name, "grant", g.ID)
	}
	d.create = p.form(operation.CreateGrant, "", grantForm("Make the grant"), "keystore", s.Name)
	d.create.Folded = "Make a grant"
	d.render = p.form(operation.RenderGrant, "", grantForm("Show its Cedar policy"), "keystore", s.Name)
	d.render.Folded, d.render.Kind = "See what a grant would be in Cedar", "quiet"
	d.setPolicy = p.form(operation.SetPolicy, operation.Revision(policy), ui.Form{Submit: "Check and store", Label: "Cedar policies", Fields: []ui.Field{
		{Name: "cedar", Label: "Cedar policies", Type: "textarea", Mono: true, Rows: 12, Value: policy.Cedar, Hint: "they hold besides the grants: what one forbids is denied"}}}, "keystore", s.Name)
	d.test = p.form(operation.TestGrants, "", testForm(), "keystore", s.Name)
	d.test.Fields = append([]ui.Field{{Name: "key", Label: "Key ID", Required: true, Mono: true}}, d.test.Fields...)
	return &view{title: "Grants of " + s.Name, crumbs: s.crumbs(ui.Link{Text: "Grants"}), body: grantsPage(d)}, nil
}

var operationOptions = []ui.Option{{Value: "Encrypt", Text: "Encrypt"}, {Value: "Decrypt", Text: "Decrypt"}, {Value: "GetAttributes", Text: "GetAttributes: KMS asks what the key is"}}

func grantForm(submit string) ui.Form {
	return ui.Form{Submit: submit, Fields: []ui.Field{
		{Name: "principal", Label: "Principal", Required: true, Mono: true, Placeholder: "arn:aws:iam::123456789012:role/app-*", Hint: "an ARN, with * and ? if you like; a service such as dynamodb.amazonaws.com; an account of 12 digits; or *"},
		{Name: "operations", Label: "Operations", Type: "checkboxes", Options: operationOptions, Values: []string{"Encrypt", "Decrypt", "GetAttributes"}},
		{Name: "effect", Label: "Effect", Type: "select", Value: "allow", Options: []ui.Option{{Value: "allow", Text: "allow"}, {Value: "forbid", Text: "forbid, whatever else allows"}}},
		{Name: "key_id", Label: "Only this key", Mono: true, Hint: "its ID; empty for all keys of the key store"},
		{Name: "not_after", Label: "Until the end of", Type: "date", Hint: "UTC; empty for ever"},
		{Name: "via_services", Label: "Only through these AWS services", Mono: true, Hint: "such as s3.us-east-1.amazonaws.com; several with spaces between"},
		{Name: "calling_accounts", Label: "Only principals of these accounts", Mono: true},
		{Name: "source_vpcs", Label: "Only from these VPCs", Mono: true},
		{Name: "source_vpces", Label: "Only from these VPC endpoints", Mono: true},
		{Name: "kms_key_arns", Label: "Only for these KMS keys", Mono: true, Hint: "ARNs"},
		{Name: "kms_key_regions", Label: "Only for KMS keys of these Regions", Mono: true},
		{Name: "kms_key_accounts", Label: "Only for KMS keys of these accounts", Mono: true},
		{Name: "kms_operations", Label: "Only for these KMS operations", Mono: true, Hint: "such as GenerateDataKey"},
	}}
}

func testForm() ui.Form {
	return ui.Form{Submit: "Would it be allowed?", Kind: "quiet", Label: "Test a request", Fields: []ui.Field{
		{Name: "principal", Label: "Principal", Required: true, Mono: true, Placeholder: "arn:aws:iam::123456789012:role/app"},
		{Name: "operation_name", Label: "Operation", Type: "select", Value: "Encrypt", Options: []ui.Option{{Value: "Encrypt", Text: "Encrypt"}, {Value: "Decrypt", Text: "Decrypt"}, {Value: "GetAttributes", Text: "GetAttributes"}}},
		{Name: "via_service", Label: "Through the AWS service", Mono: true},
		{Name: "kms_operation", Label: "KMS operation", Mono: true},
		{Name: "kms_key_arn", Label: "KMS key ARN", Mono: true},
		{Name: "source_vpc", Label: "Source VPC", Mono: true},
		{Name: "source_vpce", Label: "Source VPC endpoint", Mono: true},
	}}
}

func renderedGrant(p *page, policy operation.Policy) (*view, error) {
	return &view{title: "Grant in Cedar", body: renderedPage(policy.Cedar, p.here())}, nil
}

func testedGrants(p *page, decision appliance.Decision) (*view, error) {
	return &view{title: "Decision", body: decisionPage(decision, p.values, p.here())}, nil
}

type credentialsData struct {
	*storeData
	create, importOne ui.Form
	act               map[string][]ui.Form
	path              string
	rotation          rotation
}

// rotation is how far the change from one credential to a newer one is.
type rotation struct {
	newest, older *appliance.Credential // active ones; nil if there are not as many
	ended         bool                  // the old one is deactivated, and still there
	safe          bool                  // KMS signs with the new one alone
	deactivate    ui.Form               // of the old one
}

// rotationQuiet is how long the old credential has signed nothing when it is taken
// to be out of use: KMS asks for the health all the time, used or not.
const rotationQuiet = 15 * time.Minute

// rotationOf finds how far it is; the credentials are sorted, the newest first.
func rotationOf(credentials []*appliance.Credential, now time.Time) rotation {
	var r rotation
	for _, c := range credentials {
		switch {
		case !c.Active:
			r.ended = r.ended || r.newest != nil
		case r.newest == nil:
			r.newest = c
		default:
			r.older = c // of several, the oldest
		}
	}
	r.ended = r.ended && r.older == nil
	r.safe = r.older != nil && r.newest.LastUsedAt.After(r.older.LastUsedAt) && now.Sub(r.older.LastUsedAt) >= rotationQuiet
	return r
}

// command has KMS sign with the newest credential (AWS CLI, kms
// update-custom-key-store).
func (r *rotation) command() string {
	id := "NEW-ID"
	if r.older != nil {
		id = r.newest.AccessKeyID
	}
	return "aws kms update-custom-key-store --custom-key-store-id cks-EXAMPLE \\\n  --xks-proxy-authentication-credential AccessKeyId=" + id + ",RawSecretAccessKey=SECRET"
}

func credentials(p *page) (*view, error) {
	s, err := p.store("SigV4 credentials")
	if err != nil {
		return nil, err
	}
	d := &credentialsData{storeData: s, act: map[string][]ui.Form{}, path: s.URIPathPrefix + appliance.XKSPath}
	d.create = p.form(operation.CreateCredential, "", ui.Form{Submit: "Make a credential", Label: "New credential"}, "keystore", s.Name, "generate", "true")
	d.importOne = p.form(operation.CreateCredential, "", ui.Form{Folded: "Import one", Submit: "Import", Kind: "quiet", Fields: []ui.Field{
		{Name: "access_key_id", Label: "Access key ID", Mono: true, Required: true, Autocomplete: "off"},
		{Name: "secret_access_key", Label: "Secret access key", Type: "password", Required: true, Autocomplete: "off"}}}, "keystore", s.Name)
	byAge := slices.Clone(s.Credentials)
	slices.SortFunc(byAge, func(a, b *appliance.Credential) int { return b.CreatedAt.Compare(a.CreatedAt) })
	s.Credentials = byAge
	d.rotation = rotationOf(s.Credentials, p.now)
	for _, c := range s.Credentials {
		revision := operation.Revision(c)
		ids := []string{"keystore", s.Name, "credential", c.AccessKeyID}
		if c.Active {
			d.act[c.AccessKeyID] = []ui.Form{p.form(operation.DeactivateCredential, revision, ui.Form{Submit: "Deactivate", Kind: "quiet", Inline: true, Label: c.AccessKeyID}, ids...)}
		} else {
			d.act[c.AccessKeyID] = []ui.Form{p.form(operation.ActivateCredential, revision, ui.Form{Submit: "Activate", Kind: "quiet", Inline: true, Label: c.AccessKeyID}, ids...),
				p.form(operation.DeleteCredential, revision, ui.Form{Folded: "Remove", Submit: "Remove for good", Kind: "danger", Label: c.AccessKeyID}, ids...)}
		}
	}
	if old := d.rotation.older; old != nil {
		d.rotation.deactivate = p.form(operation.DeactivateCredential, operation.Revision(old), ui.Form{Submit: "Deactivate " + old.AccessKeyID, Kind: "quiet", Label: "The old credential"}, "keystore", s.Name, "credential", old.AccessKeyID)
	}
	return &view{title: "Credentials of " + s.Name, crumbs: s.crumbs(ui.Link{Text: "Credentials"}), body: credentialsPage(d)}, nil
}

// kmsFile is what the KMS console takes as a file (AWS KMS Developer Guide,
// "Create an external key store", proxy configuration file).
type kmsFile struct {
	URIPath    string `json:"XksProxyUriPath"`
	Credential struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string `json:"RawSecretAccessKey"`
	} `json:"XksProxyAuthenticationCredential"`
}

type createdCredentialData struct {
	operation.CreatedCredential
	keyStore, file, back string
}

func createdCredential(p *page, c operation.CreatedCredential) (*view, error) {
	var f kmsFile
	f.URIPath = c.URIPathPrefix + appliance.XKSPath
	f.Credential.AccessKeyID, f.Credential.SecretAccessKey = c.AccessKeyID, c.SecretAccessKey
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	d := createdCredentialData{c, p.values.Get("keystore"), string(text), p.here()}
	return &view{title: "New credential", body: createdCredentialPage(d)}, nil
}

// kmsJSON gives the text of a form back as a file to save: nothing is kept of it.
func (c *console) kmsJSON(w http.ResponseWriter, r *http.Request, who identity.Principal) {
	var f kmsFile
	if err := json.Unmarshal([]byte(r.PostFormValue("file")), &f); err != nil {
		c.failPage(w, r, who, fault.Errorf(fault.Invalid, "the form cannot be read"))
		return
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		c.failPage(w, r, who, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "kms-"+f.Credential.AccessKeyID+".json"))
	_, _ = w.Write(text) // the browser is gone if this fails
}
