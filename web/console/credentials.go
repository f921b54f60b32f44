package console

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type credentialsData struct {
	*storeData
	credentials       listed[*appliance.Credential]
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
	d.create = p.form(operation.CreateCredential, "", ui.Form{Label: "New credential"}, "keystore", s.Name, "generate", "true")
	d.importOne = p.form(operation.CreateCredential, "", ui.Form{Folded: true, Submit: operation.CreateCredential.WordsOf(operation.NewCredential{AccessKeyID: "its own"}), Kind: "quiet", Fields: []ui.Field{
		{Name: "access_key_id", Label: "Access key ID", Mono: true, Required: true, Autocomplete: "off"},
		{Name: "secret_access_key", Label: "Secret access key", Type: "password", Required: true, Autocomplete: "off"}}}, "keystore", s.Name)
	byAge := slices.Clone(s.Credentials)
	slices.SortFunc(byAge, func(a, b *appliance.Credential) int { return b.CreatedAt.Compare(a.CreatedAt) })
	s.Credentials = byAge
	d.rotation = rotationOf(s.Credentials, p.now)
	if d.credentials, err = listBy(p, "", operation.ListCredentials, "-created"); err != nil {
		return nil, err
	}
	for _, c := range d.credentials.Items {
		revision := operation.Revision(c)
		ids := []string{"keystore", s.Name, "credential", c.AccessKeyID}
		if c.Active {
			d.act[c.AccessKeyID] = []ui.Form{p.form(operation.DeactivateCredential, revision, ui.Form{Kind: "quiet", Inline: true, Label: c.AccessKeyID}, ids...)}
		} else {
			d.act[c.AccessKeyID] = []ui.Form{p.form(operation.ActivateCredential, revision, ui.Form{Kind: "quiet", Inline: true, Label: c.AccessKeyID}, ids...),
				p.form(operation.DeleteCredential, revision, ui.Form{Kind: "danger", Inline: true, Label: c.AccessKeyID}, ids...)}
		}
	}
	if old := d.rotation.older; old != nil {
		d.rotation.deactivate = p.form(operation.DeactivateCredential, operation.Revision(old), ui.Form{Kind: "quiet", Inline: true, Label: old.AccessKeyID}, "keystore", s.Name, "credential", old.AccessKeyID)
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
	keyStore string
	file     string // the URL of the file, which has all of it: nothing is asked of the appliance
	back     string
}

func createdCredential(p *page, c operation.CreatedCredential) (*view, error) {
	var f kmsFile
	f.URIPath = c.URIPathPrefix + appliance.XKSPath
	f.Credential.AccessKeyID, f.Credential.SecretAccessKey = c.AccessKeyID, c.SecretAccessKey
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	d := createdCredentialData{c, p.values.Get("keystore"), "data:application/json;base64," + base64.StdEncoding.EncodeToString(text), p.here()}
	return &view{title: "New credential", body: createdCredentialPage(d)}, nil
}
