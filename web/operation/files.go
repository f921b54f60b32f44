package operation

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// KeyRow is a key in a file. It has no material: a file of keys lies in mails, shares and
// histories of shells, where no key is safe. Each key is generated; one that is there already is
// imported by itself ([CreateKey]).
type KeyRow struct {
	ID      string            `json:"id"`
	Usage   appliance.Usage   `json:"usage"`
	Custody appliance.Custody `json:"custody"`
}

func (k KeyRow) key() appliance.NewExternalKey {
	return appliance.NewExternalKey{ID: k.ID, Usage: k.Usage, Custody: k.Custody}
}

// keyFile is how files of keys are read. Two rows are about the same key if they have its ID.
var keyFile = fileOf[KeyRow, *appliance.StoredKey]{
	columns: []column[KeyRow]{
		{"id", true, func(k *KeyRow, cell string) error { k.ID = cell; return nil }},
		{"usage", true, func(k *KeyRow, cell string) (err error) {
			k.Usage, err = appliance.ParseUsage(strings.Join(strings.Fields(cell), ","))
			return err
		}},
		{"custody", true, func(k *KeyRow, cell string) error { k.Custody = appliance.Custody(cell); return nil }},
	},
	same: func(k KeyRow) string { return k.ID },
	slow: func(k KeyRow) bool { return k.Custody == appliance.CustodyHSM },
	look: func(ctx context.Context, c *Caller, keyStore string, rows []KeyRow) ([]bool, []error, error) {
		ids := make([]string, len(rows))
		for i, k := range rows {
			ids[i] = k.ID
		}
		found, err := c.Domain.FindKeys(ctx, keyStore, ids)
		if err != nil {
			return nil, nil, err
		}
		there, wrong := make([]bool, len(rows)), make([]error, len(rows))
		for i, k := range rows {
			is := found[k.ID]
			switch {
			case is == nil:
				wrong[i] = c.Domain.CheckKey(ctx, keyStore, k.key())
			case is.Custody == k.Custody && is.Usage == k.Usage:
				there[i] = true
			default:
				wrong[i] = fault.Errorf(fault.Exists, "there is a key %q already, with the usage %s and the custody %s: remove the line, or choose another ID", k.ID, is.Usage, is.Custody)
			}
		}
		return there, wrong, nil
	},
	make: func(ctx context.Context, c *Caller, keyStore string, rows []KeyRow) ([]*appliance.StoredKey, error) {
		want := make([]appliance.NewExternalKey, len(rows))
		for i, k := range rows {
			want[i] = k.key()
		}
		return c.Domain.CreateKeys(ctx, keyStore, want)
	},
	single: CreateKey.Entry(),
	sort:   func(k KeyRow) string { return "custody " + string(k.Custody) },
	words:  func(k KeyRow) string { return fmt.Sprintf("key %s, usage %s, custody %s", k.ID, k.Usage, k.Custody) },
	input: func(keyStore string, k KeyRow) any {
		return NewKey{KeyStoreName: KeyStoreName{keyStore}, ID: k.ID, Usage: k.Usage, Custody: k.Custody}
	},
}

// listed is a column with words, which spaces separate.
func listed(name string, of func(g *NewGrant) *[]string) column[NewGrant] {
	return column[NewGrant]{name, false, func(g *NewGrant, cell string) error {
		*of(g) = strings.Fields(cell)
		return nil
	}}
}

// grantFile is how files of grants are read. A grant is there if one says just the same, whatever
// its ID.
var grantFile = fileOf[NewGrant, Grant]{
	columns: []column[NewGrant]{
		{"principal", true, func(g *NewGrant, cell string) error { g.Principal = cell; return nil }},
		{"operations", true, func(g *NewGrant, cell string) (err error) {
			g.Operations, err = appliance.ParseOperations(strings.Join(strings.Fields(cell), ","))
			return err
		}},
		{"key_id", false, func(g *NewGrant, cell string) error { g.KeyID = cell; return nil }},
		{"effect", false, func(g *NewGrant, cell string) error { g.Effect = appliance.Effect(cell); return nil }},
		{"not_after", false, func(g *NewGrant, cell string) (err error) {
			if g.NotAfter, err = time.Parse(time.RFC3339, cell); err != nil {
				return invalid("%.40q is no time: write it as 2027-01-31T18:00:00Z", cell)
			}
			return nil
		}},
		{"force", false, func(g *NewGrant, cell string) error {
			if g.Force = cell == "true"; !g.Force && cell != "false" {
				return invalid("%.40q: use true or false, or leave it empty", cell)
			}
			return nil
		}},
		listed("calling_accounts", func(g *NewGrant) *[]string { return &g.Conditions.CallingAccounts }),
		listed("via_services", func(g *NewGrant) *[]string { return &g.Conditions.ViaServices }),
		listed("source_vpcs", func(g *NewGrant) *[]string { return &g.Conditions.SourceVPCs }),
		listed("source_vpces", func(g *NewGrant) *[]string { return &g.Conditions.SourceVPCEs }),
		listed("kms_key_arns", func(g *NewGrant) *[]string { return &g.Conditions.KMSKeyARNs }),
		listed("kms_key_regions", func(g *NewGrant) *[]string { return &g.Conditions.KMSKeyRegions }),
		listed("kms_key_accounts", func(g *NewGrant) *[]string { return &g.Conditions.KMSKeyAccounts }),
		listed("kms_operations", func(g *NewGrant) *[]string { return &g.Conditions.KMSOperations }),
	},
	same: func(g NewGrant) string { return saying(g.grant()) },
	look: func(ctx context.Context, c *Caller, keyStore string, rows []NewGrant) ([]bool, []error, error) {
		all, err := c.Domain.Grants(ctx, keyStore)
		if err != nil {
			return nil, nil, err
		}
		is := make(map[string][]*appliance.Grant, len(all)) // more than one may say the same
		for _, g := range all {
			is[saying(*g)] = append(is[saying(*g)], g)
		}
		there, same, missing, at := make([]bool, len(rows)), []*appliance.Grant{}, []appliance.Grant{}, []int{}
		for i, g := range rows {
			alike := is[saying(g.grant())]
			if there[i] = len(alike) > 0; !there[i] {
				missing, at = append(missing, g.grant()), append(at, i)
			}
			same = append(same, alike...)
		}
		if err := c.Domain.VerifyGrants(ctx, keyStore, same); err != nil { // a damaged one has no effect
			return nil, nil, err
		}
		found, err := c.Domain.CheckGrants(ctx, keyStore, missing)
		wrong := make([]error, len(rows))
		for i, err := range found {
			wrong[at[i]] = err
		}
		return there, wrong, err
	},
	make: func(ctx context.Context, c *Caller, keyStore string, rows []NewGrant) ([]Grant, error) {
		want := make([]appliance.Grant, len(rows))
		for i, g := range rows {
			want[i] = g.grant()
		}
		made, err := c.Domain.AddGrants(ctx, keyStore, want)
		grants := make([]Grant, len(made))
		for i, g := range made {
			grants[i] = Grant{g, g.Cedar()}
		}
		return grants, err
	},
	single: CreateGrant.Entry(),
	stops:  NewGrant.forbids,
	sort:   func(g NewGrant) string { return string(cmp.Or(g.Effect, appliance.EffectAllow)) + " " + g.Principal },
	words: func(g NewGrant) string {
		text := fmt.Sprintf("%s %s %s on %s", cmp.Or(g.Effect, appliance.EffectAllow), g.Principal, appliance.JoinOperations(g.Operations), cmp.Or(g.KeyID, "all keys"))
		if conditions := appliance.FormatConditions(g.Conditions); conditions != "" {
			text += " if " + conditions
		}
		if !g.NotAfter.IsZero() {
			text += " until " + g.NotAfter.UTC().Format(time.RFC3339)
		}
		return text
	},
	input: func(keyStore string, g NewGrant) any {
		g.KeyStoreName = KeyStoreName{keyStore}
		return g
	},
}

// saying is equal for grants that say the same.
func saying(g appliance.Grant) string {
	operations := slices.Sorted(slices.Values(g.Operations))
	if g.Effect == "" {
		g.Effect = appliance.EffectAllow
	}
	until := ""
	if !g.NotAfter.IsZero() {
		until = g.NotAfter.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano)
	}
	return strings.Join([]string{g.KeyID, string(g.Effect), g.Principal, appliance.JoinOperations(slices.Compact(operations)), appliance.FormatConditions(ordered(g.Conditions)), until}, "\x00")
}

// ordered gives the conditions with each list sorted, and nothing in it twice: the order means
// nothing.
func ordered(c appliance.Conditions) appliance.Conditions {
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() { // lists of strings all, as a condition holds for one of some
		list := v.Field(i).Addr().Interface().(*[]string)
		if *list != nil {
			*list = slices.Compact(slices.Sorted(slices.Values(*list)))
		}
	}
	return c
}

// The operations on files of keys and of grants.
var (
	CheckKeyFile = define(fileCheck(&keyFile, Route{ID: "checkKeyFile", Path: "/keystores/{keystore}/key-files/check",
		Words: "Check file of keys", Summary: "What a file of keys would do, and what is wrong in it; nothing is made"}))
	CreateKeys = define(fileImport(&keyFile, Route{ID: "createKeys", Path: "/keystores/{keystore}/key-files", Revision: "-",
		Effects: GivesAccess, // grants on the whole key store hold for the new keys
		Words:   "Create keys from file", Summary: "Make the keys of a file that are not there yet; keys are generated, a file has no material"}))
	CheckGrantFile = define(fileCheck(&grantFile, Route{ID: "checkGrantFile", Path: "/keystores/{keystore}/grant-files/check",
		Words: "Check file of grants", Summary: "What a file of grants would do, and what is wrong in it; nothing is made"}))
	CreateGrants = define(fileImport(&grantFile, Route{ID: "createGrants", Path: "/keystores/{keystore}/grant-files", Revision: "-", Effects: StopsService | GivesAccess, ConfirmedIf: "if a row forbids",
		Words: "Create grants from file", Summary: "Make the grants of a file that are not there yet"}))
)

func fileCheck[Row, Thing any](f *fileOf[Row, Thing], r Route) Operation[FileCheck, FileReport] {
	r.Method, r.Capability, r.ReadOnly, r.Urgency = http.MethodPost, identity.ManageKeys, true, Independent
	return Operation[FileCheck, FileReport]{Route: r, Subject: apart[FileCheck],
		Run: func(ctx context.Context, c *Caller, in FileCheck) (FileReport, error) {
			p, err := f.check(ctx, c, in.KeyStore, in.File)
			if err != nil {
				return FileReport{}, err
			}
			return p.FileReport, nil
		}}
}

func fileImport[Row, Thing any](f *fileOf[Row, Thing], r Route) Operation[FileImport, FileResult] {
	r.Method, r.Capability, r.Urgency, r.Many = http.MethodPost, identity.ManageKeys, Ordinary, f.single
	o := Operation[FileImport, FileResult]{Route: r, Subject: makes[FileImport], Check: f.ready, Filed: f.filed, Run: f.run}
	if f.stops != nil {
		o.Confirmed = func(_ any, in FileImport) bool { return f.stop(in.File) }
	}
	return o
}
