package instance_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
	"testing"

	"holdfast/appliance/machine/instance"
	"holdfast/attest/owner"
)

var launchFile = []byte("format = \"holdfast-launch/v1\"\n")

func launchDocument(t testing.TB, code string) []byte {
	t.Helper()
	envelope, err := owner.Sign(launchFile, 1, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := owner.EncodeDocument(launchFile, envelope, code)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestParseUserData: version 1 as before, version 2 with a launch file and, if it has one,
// the hash of a setup code; nothing in between.
func TestParseUserData(t *testing.T) {
	abc := sha256.Sum256([]byte("abc"))
	v1 := `{"holdfast":1,"setup_code_sha256":"` + digest + `"}`
	for text, want := range map[string]struct{ setup, launch bool }{
		v1: {true, false}, string(launchDocument(t, "")): {false, true}, string(launchDocument(t, digest)): {true, true},
	} {
		d, err := instance.ParseUserData([]byte(text))
		if err != nil || (d.Setup != nil) != want.setup || (d.Launch != nil) != want.launch {
			t.Errorf("%.60s: %+v %v", text, d, err)
			continue
		}
		if d.Setup != nil && *d.Setup != abc || d.Launch != nil && (!bytes.Equal(d.Launch.File, launchFile) || string(d.Document) != text) {
			t.Errorf("%.60s: %+v", text, d)
		}
	}
	two := string(launchDocument(t, ""))
	for _, text := range []string{"", "#!/bin/sh\necho secret\n", `{"holdfast":2}`, `{"holdfast":3,"setup_code_sha256":"` + digest + `"}`,
		strings.Replace(two, `"holdfast":2`, `"holdfast":1`, 1), strings.Replace(v1, `"holdfast":1`, `"holdfast":2`, 1), two + v1,
		strings.Replace(two, "{", `{"secret":1,`, 1), strings.Repeat(" ", owner.MaxDocument) + two} {
		if d, err := instance.ParseUserData([]byte(text)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.60s: %+v %v", text, d, err)
		}
	}
}

func FuzzParseUserData(f *testing.F) {
	f.Add([]byte(`{"holdfast":1,"setup_code_sha256":"` + digest + `"}`))
	f.Add(launchDocument(f, digest))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := instance.ParseUserData(text)
		if (d == nil) == (err == nil) || d != nil && d.Setup == nil && d.Launch == nil {
			t.Fatalf("%+v %v", d, err)
		}
	})
}
