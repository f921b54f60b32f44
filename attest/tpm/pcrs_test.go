package tpm_test

import (
	"strings"
	"testing"

	"holdfast/attest/tpm"
)

// TestParsePCRs reads values in one way alone.
func TestParsePCRs(t *testing.T) {
	zeros := strings.Repeat("0", 96)
	good := `{"sha384": {"4": "` + zeros + `", "14": "` + zeros + `"}}`
	if p, err := tpm.ParsePCRs([]byte(good)); err != nil || len(p["sha384"]) != 2 {
		t.Errorf("%v, %v", p, err)
	}
	for _, key := range []string{`"04"`, `" 4"`, `"+4"`, `"-0"`, `"4.0"`, `"4e0"`, `"-4"`, `"24"`, `"14"`, `""`, `"18446744073709551620"`, `"1\u0034"`} {
		if p, err := tpm.ParsePCRs([]byte(strings.Replace(good, `"4"`, key, 1))); err == nil {
			t.Errorf("the name %s is read: %v", key, p)
		}
	}
	for _, bad := range []string{``, `null`, `{}`, `[]`, `{"sha384": null}`, `{"sha384": {}}`, `{"sha384": {"4": null}}`, `{"sha384": {"4": "00"}}`, `{"sha384": {"4": ""}}`,
		`{"SHA384": {"4": "` + zeros + `"}}`, `{"sha512": {"4": "` + zeros + `"}}`, good + good, good + "x", strings.Replace(good, `{"sha384"`, `{"sha384": {"4": "`+zeros+`"}, "sha384"`, 1)} {
		if p, err := tpm.ParsePCRs([]byte(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s is read: %v, %v", bad, p, err)
		}
	}
}
