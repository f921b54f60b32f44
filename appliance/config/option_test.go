package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestOptionsInForce: an option has the value in force and its source; a zero that stands
// for a default is not shown.
func TestOptionsInForce(t *testing.T) {
	c, _, err := Parse("x.toml", []byte("[hsm]\nmodule = '/m.so'\ntoken_label = 't'\nlease = '5m'\n[xks]\ncertificate = '/c.pem'\nkey = '/k.pem'\n[attestation]\npolicy = '/p'\npolicy_key = '/q'\n[release]\nauthorizations = '/a'\nseal_key = '/s'\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.Admin.Address = ":1234" // as a flag sets it
	got := map[string]Option{}
	for _, o := range c.Options() {
		got[o.Name] = o
	}
	for _, want := range []Option{
		{"hsm.lease", "5m0s", FromFile}, {"hsm.max_sessions", "16", FromDefault}, {"hsm.master_key_label", "holdfast-master", FromDefault}, {"attestation.every", "1h", FromDefault},
		{"state.dir", "/var/lib/holdfast", FromDefault}, {"admin.address", ":1234", FromFlag}, {"xks.certificate", "/c.pem", FromFile}, {"xks.client_ca", "not set", FromDefault}, {"audit.retain_mib", "everything is kept", FromDefault},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, and not %+v", got[want.Name], want)
		}
	}
	for name, o := range got {
		if o.Value == "" || o.Value == "0" || o.Value == "0s" {
			t.Errorf("%s shows %q", name, o.Value)
		}
	}
}

// TestNumbersHaveDefaults: each number and time span says what holds where it is not set.
func TestNumbersHaveDefaults(t *testing.T) {
	var look func(reflect.Type, string)
	look = func(typ reflect.Type, table string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := table + f.Tag.Get("toml")
			switch {
			case f.Type.Kind() == reflect.Struct:
				look(f.Type, name+".")
			case f.Type == reflect.TypeFor[Duration]():
				if d, err := time.ParseDuration(f.Tag.Get("default")); (err != nil || d <= 0) && !strings.Contains(f.Tag.Get("default"), " ") {
					t.Errorf("%s: the default %q is no time span", name, f.Tag.Get("default"))
				}
			case f.Type.Kind() >= reflect.Int && f.Type.Kind() <= reflect.Float64 && f.Tag.Get("default") == "":
				t.Errorf("%s has no default", name)
			}
		}
	}
	look(reflect.TypeFor[Config](), "")
}
