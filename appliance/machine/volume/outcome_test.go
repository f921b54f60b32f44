package volume_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance/machine/volume"
)

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "volume.json")
	if _, err := volume.Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	id := strings.Repeat("9f", 32)
	for text, want := range map[string]volume.Outcome{
		`{"opened":true,"authorization":"release 1.2.0","identity":"` + id + `"}` + "\n": {Opened: true, Authorization: "release 1.2.0", Identity: bytes.Repeat([]byte{0x9f}, 32)},
		`{"opened":false,"code":"E_VOLUME_OPEN","reason":"x","identity":"` + id + `"}`:   {Code: "E_VOLUME_OPEN", Reason: "x", Identity: bytes.Repeat([]byte{0x9f}, 32)},
		`{"opened":false,"code":"E_SEAL_PCRS","reason":"in no state\n that\u001b[2J"}`:   {Code: "E_SEAL_PCRS", Reason: "in no state that [2J"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := volume.Read(file); err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "{", "null", "true", "[]", "{}", `{"opened":"true"}`, `{"opened":true,"opened":false}`, `{"Opened":true}`, `{"opened":true}{}`, `{"opened":true,"identity":"` + id + `","more":1}`,
		`{"opened":true,"code":"E_X"}`, `{"opened":true,"reason":"x"}`, `{"opened":false}`, `{"opened":false,"code":"E_X"}`, `{"opened":false,"reason":"x"}`,
		`{"opened":false,"code":"seal","reason":"x"}`, `{"opened":false,"code":"E_` + strings.Repeat("X", 61) + `","reason":"x"}`,
		`{"opened":true}`, `{"opened":true,"identity":""}`, `{"opened":true,"identity":"9f"}`, `{"opened":true,"identity":null}`, `{"opened":true,"identity":"` + id + `9f"}`,
		`{"opened":true,"identity":"` + id + `"}` + strings.Repeat(" ", 16<<10),
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
	f.Add([]byte(`{"opened":true,"authorization":"release 1.2.0","identity":"` + strings.Repeat("9f", 32) + `"}`))
	f.Add([]byte(`{"opened":false,"code":"E_SEAL_PCRS","reason":"x\ny"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := volume.Parse(text)
		if err == nil && (o.Opened == (o.Code != "") || strings.ContainsAny(o.Code+o.Reason+o.Authorization, "\n\r\x1b")) {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
