package attest_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"holdfast/attest"
)

// TestWritten: what decides is written in a policy, and an error names what is not.
func TestWritten(t *testing.T) {
	good := string(must(json.Marshal(proving())))
	const milan = `"Milan":{"bootloader":4,"tee":0,"snp":29,"microcode":222}`
	for _, tt := range []struct{ old, new, says string }{
		{milan, `"Milan":{}`, "snp"},
		{milan, `"Milan":null`, "sev_snp"},
		{milan, `"Milan":{"snp":29}`, "microcode"},
		{milan, `"Milan":{"bootloader":4,"tee":0,"snp":null,"microcode":222}`, "snp"},
		{milan, `"Milan":{"bootloader":4,"tee":0,"snp":29}`, "microcode"},
		{`"version":1,`, ``, "version is missing"},
		{`"version":1,`, `"version":null,`, "version is null"},
		{`"version":1,`, `"version":0,`, "version: 0 is not"},
		{`"name":"default",`, ``, "name is missing"},
		{`"max_age_seconds":300,"tpm"`, `"tpm"`, "max_age_seconds is missing"},
		{`"allow_vcek":false,`, ``, "sev_snp.allow_vcek is missing"},
		{`"require_crl":false`, `"require_crl":null`, "sev_snp.require_crl is null"},
		{`"minimum_report_version":3,`, ``, "sev_snp.minimum_report_version is missing"},
		{`"required_pcrs":[4,7,11,12,13,14],`, ``, "tpm.required_pcrs is missing"},
		{`"required_pcrs":[4,7,11,12,13,14],`, `"required_pcrs":null,`, "tpm.required_pcrs is null"},
		{`"required_pcrs":[4,7`, `"required_pcrs":[null,7`, "tpm.required_pcrs[0] is null"},
		{`"name":"release 1",`, ``, "tpm.references[0].name is missing"},
		{`"14":"0e`, `"014":"0e`, "014"},
		{`"14":"0e`, `"12":"0e`, "duplicate"},
		{`"nitrotpm":{`, `"nitrotpm":{"x":1,`, "unknown"},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Errorf("nothing was replaced: %s in %s", tt.old, good)
			continue
		}
		if _, err := attest.ParsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: want %q, got %v", tt.new, tt.says, err)
		}
	}
	if _, err := attest.ParsePolicy([]byte(good + "{}")); err == nil {
		t.Error("what follows the policy is passed over")
	}
	if _, err := attest.ParsePolicy([]byte(good)); err != nil {
		t.Error(err)
	}
}
