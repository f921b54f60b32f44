package operation

import (
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance"
)

// insistedOn are inputs by which a caller says that what would be refused is meant, each with what is overridden.
var insistedOn = map[string]struct {
	in   any
	says string
}{
	"createGrant":        {NewGrant{Principal: "new-service.amazonaws.com", Operations: []appliance.Operation{appliance.OpEncrypt}, Force: true}, "new-service"},
	"setPolicy":          {NewPolicy{Cedar: `permit (principal == Principal::"new-service.amazonaws.com", action, resource);`, Force: true}, "new-service"},
	"installCertificate": {CertificateChain{OwnAuthority: true}, "own_authority"},
	"shareCertificate":   {SharedCertificate{OtherName: true}, "other_name"},
}

// TestInsistedStandsOnRecord: each operation by which a caller can insist says on record what was overridden.
func TestInsistedStandsOnRecord(t *testing.T) {
	for _, r := range Table() {
		if r.ReadOnly || !r.Mutates() {
			continue
		}
		insists := false
		for _, m := range members(r.input) {
			f := r.input.FieldByIndex(m.index)
			insists = insists || f.Type.Kind() == reflect.Bool && strings.Contains(f.Tag.Get("jsonschema"), " although ")
		}
		row, has := insistedOn[r.ID]
		if insists != has {
			t.Errorf("%s takes a word by which a caller insists: %v; it is among those tried here: %v", r.ID, insists, has)
		}
		if !has {
			continue
		}
		if got := insisted(reflect.Zero(r.input).Interface()); got != nil {
			t.Errorf("%s: %q is overridden where nobody insists", r.ID, got)
		}
		p := &performance{Caller: &Caller{}, route: r, path: r.fields.of(row.in), in: row.in}
		rec := p.changed(nil, nil, nil)
		if !strings.HasPrefix(rec.Detail, "insisted on, though: ") || !strings.Contains(rec.Detail, row.says) || len(rec.Asked) == 0 {
			t.Errorf("%s: the record says %q, %s", r.ID, rec.Detail, rec.Asked)
		}
	}
	if got := insisted(NewGrant{Principal: "123456789012", Force: true}); got != nil {
		t.Errorf("%q is overridden where nothing is in doubt", got)
	}
}
