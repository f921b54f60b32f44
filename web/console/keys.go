package console

import (
	"strconv"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type keysData struct {
	*storeData
	keys   listed[*appliance.ExternalKey]
	create ui.Form
	file   ui.Form
	act    map[string]ui.Form // by ID: what is next for the key
}

// pageSize is how many rows pages show.
const pageSize = 50

func keys(p *page) (*view, error) {
	s, err := p.store("Keys")
	if err != nil {
		return nil, err
	}
	d := &keysData{storeData: s, act: map[string]ui.Form{}}
	if d.keys, err = listOf(p, "", operation.ListKeys); err != nil {
		return nil, err
	}
	d.create = p.form(operation.CreateKey, "", ui.Form{Folded: true, Label: "New key", Fields: []ui.Field{
		{Name: "id", Label: "Key ID", Required: true, Mono: true, Autocomplete: "off", Hint: "the external key ID for KMS: letters, digits, '.', '_' and '-'"},
		{Name: "usage", Label: "May be used to", Type: "checkboxes", Values: []string{"encrypt", "decrypt"}, Options: []ui.Option{{Value: "encrypt", Text: "encrypt"}, {Value: "decrypt", Text: "decrypt"}}},
		{Name: "custody", Label: "Custody", Type: "select", Value: "cached", Options: []ui.Option{{Value: "cached", Text: "cached: used in the appliance's memory, fast"}, {Value: "hsm", Text: "hsm: never leaves the HSM, each use crosses to it"}}},
		{Name: "material", Label: "Key material to import", Type: "password", Autocomplete: "off", Hint: "leave it empty to generate a key; otherwise 32 bytes in hexadecimal or Base64"},
		{Name: "framing", Label: "AAD framing of the proxy it comes from", Type: "select", Options: framings(), Hint: "only for an imported key that another proxy has used; it gets a second version, which encrypts"},
		{Name: "reversible", Label: "Going back to that proxy", Type: "select", Options: []ui.Option{{Text: "not wanted: a second version encrypts"}, {Value: reversible, Text: "kept open: the imported key encrypts, though less is authenticated then"}}},
	}}, "keystore", s.Name)
	d.file = p.checkForm(operation.CheckKeyFile, "keys", keyColumns, s.Name)
	for _, k := range d.keys.Items {
		revision := operation.Revision(k)
		switch {
		case leaving(k):
			d.act[k.ID] = p.form(operation.CancelKeyDeletion, revision, ui.Form{Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		case k.State == appliance.KeyEnabled:
			d.act[k.ID] = p.form(operation.DisableKey, revision, ui.Form{Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		default:
			d.act[k.ID] = p.form(operation.EnableKey, revision, ui.Form{Kind: "quiet", Inline: true, Label: k.ID}, "keystore", s.Name, "key", k.ID)
		}
	}
	return &view{title: "Keys of " + s.Name, crumbs: s.crumbs(ui.Link{Text: "Keys"}), body: keysPage(d)}, nil
}

// shownGrants is how many grants the page of a key shows; the page of grants has all.
const shownGrants = 20

func firstGrants(all []*appliance.Grant) []*appliance.Grant {
	return all[:min(len(all), shownGrants)]
}

// reversible is the choice to be able to go back to the proxy that a key came from.
const reversible = "reversible"

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
	life    life
	used    time.Time // when KMS used it last, as far as the audit log tells
	audits  bool
	actions []ui.Form
	test    *allowedData
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
		filter := operation.AuditFilter{KeyStore: s.Name, Key: id}
		if d.life, err = p.lifeOf(filter); err != nil {
			return nil, err
		}
		filter.Kind, filter.Result = audit.KindXKS, audit.Allowed
		used, err := read(p, operation.SearchAudit, operation.AuditSearch{AuditFilter: filter, Limit: 1})
		if err != nil {
			return nil, err
		}
		for _, r := range used.Records {
			d.used = r.Time
		}
	}
	if s.manages {
		d.forms(p, operation.Revision(d.key))
	}
	d.test = p.allowed(s.Name, id)
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
		add(operation.DisableKey, ui.Form{Kind: "quiet"})
	case appliance.KeyDisabled:
		add(operation.EnableKey, ui.Form{Kind: "quiet"})
	case appliance.KeyPendingDeletion, appliance.KeyDeletionSuspended:
		add(operation.CancelKeyDeletion, ui.Form{})
	}
	if d.key.Blocked.IsZero() {
		add(operation.Block, ui.Form{Folded: true, Kind: "danger", Note: "Takes the key out of service at once and wipes it from memory.", Fields: []ui.Field{{Name: "reason", Label: "Reason", Required: true}}})
	} else {
		add(operation.Unblock, ui.Form{Kind: "quiet"})
	}
	if !leaving(&d.key.ExternalKey) {
		add(operation.RotateKey, ui.Form{Folded: true, Kind: "quiet", Note: "A new version encrypts from then on; all versions decrypt. KMS needs to know nothing of it.",
			Fields: []ui.Field{{Name: "material", Label: "Material to import", Type: "password", Autocomplete: "off", Hint: "leave it empty to generate it"}}})
	}
	if d.key.State != appliance.KeyPendingDeletion {
		add(operation.ScheduleKeyDeletion, ui.Form{Folded: true, Kind: "danger",
			Note:   "What KMS has encrypted under this key can never be decrypted again, by nobody, once it is destroyed. Disable it first, and see what breaks.",
			Fields: []ui.Field{{Name: "days", Label: "Waiting period in days", Type: "number", Min: "7", Max: "30", Value: strconv.Itoa(appliance.DefaultDeletionDays), Required: true}}})
	}
}

// leaving says whether the key's deletion is pending or suspended.
func leaving(k *appliance.ExternalKey) bool {
	return k.State == appliance.KeyPendingDeletion || k.State == appliance.KeyDeletionSuspended
}
