package attest_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/tpm"
)

// TestLaunchExpected: whoever has a launch file and its owner's key knows whether a machine
// runs by them; and a machine that names another than it has measured is found without.
func TestLaunchExpected(t *testing.T) {
	file, owner, other := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32), bytes.Repeat([]byte{9}, 32)
	p, plain := machine(t)
	none := collect(t, plain)
	c := plain
	if err := c.MeasureLaunch(file, owner); err != nil {
		t.Fatal(err)
	}
	if err := c.MeasureLaunch(other, owner); !errors.Is(err, tpm.ErrExtended) {
		t.Errorf("a second launch file: %v", err)
	}
	named := collect(t, c)
	c.LaunchDigest = other
	liar := collect(t, c) // signed by the hardware, as all that the program says
	c.LaunchDigest = nil
	silent := collect(t, c)
	c.LaunchDigest, c.OwnerDigest = file, nil
	ownerless := collect(t, c)
	policy := p.Policy()
	for name, tt := range map[string]struct {
		e           *attest.Evidence
		file, owner []byte // that are expected
		codes       []string
	}{
		"as expected":                 {named, file, owner, nil},
		"nothing expected":            {named, nil, nil, nil},
		"another file":                {named, other, owner, []string{"E_LAUNCH_DIGEST"}},
		"another owner":               {named, file, other, []string{"E_OWNER"}},
		"no launch file":              {none, nil, nil, nil},
		"no launch file, as expected": {none, file, owner, []string{"E_LAUNCH_DIGEST", "E_OWNER"}},
		"another than measured":       {liar, nil, nil, []string{"E_LAUNCH_DIGEST"}},
		"what it names, not measured": {liar, other, owner, []string{"E_LAUNCH_DIGEST"}},
		"measured and not named":      {silent, nil, nil, []string{"E_LAUNCH_DIGEST"}},
		"without its owner":           {ownerless, file, nil, []string{"E_LAUNCH_DIGEST"}},
	} {
		x := attest.Expectation{Nonce: nonce, TLSKey: tlsKey, At: time.Now(), PolicyDigest: c.PolicyDigest, Roots: p.Roots(), LaunchDigest: tt.file, OwnerDigest: tt.owner}
		if got := attest.Verify(copyOf(t, tt.e), &policy, x).Failed(); !slices.Equal(got, tt.codes) {
			t.Errorf("%s: failed %v, not %v", name, got, tt.codes)
		}
	}
}
