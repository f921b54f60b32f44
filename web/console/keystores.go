package console

import (
	"cmp"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
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
	stores  listed[*appliance.KeyStore]
	now     time.Time
	create  ui.Form
	manages bool
}

func keyStores(p *page) (*view, error) {
	stores, err := listOf(p, "", operation.ListKeyStores)
	if err != nil {
		return nil, err
	}
	d := &keyStoresData{stores: stores, now: p.now, manages: p.may(identity.ManageKeys)}
	d.create = p.form(operation.CreateKeyStore, "", ui.Form{Folded: true, Label: "New key store", Fields: []ui.Field{
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
	life                          life
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
	if d.life, err = p.lifeOf(operation.AuditFilter{KeyStore: s.Name}); err != nil {
		return nil, err
	}
	revision := operation.Revision(s.KeyStore)
	d.quota = p.form(operation.SetQuota, revision, ui.Form{Folded: true, Kind: "quiet", Fields: []ui.Field{
		{Name: "requests_per_second", Label: "Requests a second", Type: "number", Min: "0", Value: strconv.Itoa(s.RequestsPerSecond), Required: true, Hint: "0 for no limit"}}}, "keystore", s.Name)
	d.block = p.form(operation.Block, "", ui.Form{Folded: true, Kind: "danger", Note: "No key of it is used by requests that start from then on, until somebody unblocks.",
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Required: true}}}, "keystore", s.Name)
	d.unblock = p.form(operation.Unblock, "", ui.Form{Kind: "quiet"}, "keystore", s.Name)
	d.remove = p.form(operation.DeleteKeyStore, revision, ui.Form{Kind: "danger"}, "keystore", s.Name)
	return &view{title: s.Name, crumbs: s.crumbs(), body: keyStorePage(d)}, nil
}

// orNoPrefix is the prefix that the KMS console asks for.
func orNoPrefix(prefix string) string { return cmp.Or(prefix, "none: leave it empty") }
