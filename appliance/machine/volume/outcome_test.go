package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/machine/volume"
)

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "volume.json")
	if _, err := volume.Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for text, want := range map[string]volume.Outcome{
		`{"opened":true,"authorization":"release 1.2.0"}` + "\n": {Opened: true, Authorization: "release 1.2.0"},
		`{"opened":true}`: {Opened: true},
		`{"opened":false,"code":"E_SEAL_PCRS","reason":"in no state\n that\u001b[2J"}`: {Code: "E_SEAL_PCRS", Reason: "in no state that [2J"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := volume.Read(file); err != nil || *got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "{", "null", "true", "[]", "{}", `{"opened":"true"}`, `{"opened":true,"opened":false}`, `{"Opened":true}`, `{"opened":true}{}`, `{"opened":true,"more":1}`,
		`{"opened":true,"code":"E_X"}`, `{"opened":true,"reason":"x"}`, `{"opened":false}`, `{"opened":false,"code":"E_X"}`, `{"opened":false,"reason":"x"}`,
		`{"opened":false,"code":"seal","reason":"x"}`, `{"opened":false,"code":"E_` + strings.Repeat("X", 61) + `","reason":"x"}`,
		`{"opened":true}` + strings.Repeat(" ", 16<<10),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := volume.Read(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%.100s: %+v %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"opened":true,"authorization":"release 1.2.0"}`))
	f.Add([]byte(`{"opened":false,"code":"E_SEAL_PCRS","reason":"x\ny"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := volume.Parse(text)
		if err == nil && (o.Opened == (o.Code != "") || strings.ContainsAny(o.Code+o.Reason+o.Authorization, "\n\r\x1b")) {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
