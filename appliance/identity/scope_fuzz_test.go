package identity

import (
	"reflect"
	"testing"
)

// FuzzDecodeScope: what is taken for the scope of a token is valid, and is the same when it is
// written and read again; none allows anything by what it leaves out.
func FuzzDecodeScope(f *testing.F) {
	f.Add(Unlimited().Text())
	f.Add((&Scope{KeyStores: []string{"bank"}, Operations: []string{"listKeys"}, Networks: []string{"10.20.0.0/16", "2001:db8::/32"}}).Text())
	f.Add(`{"key_stores":["*"],"operations":["*"]}`)
	f.Add("null")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := DecodeScope(text)
		if err != nil {
			return
		}
		if len(s.KeyStores) == 0 || len(s.Operations) == 0 || len(s.Networks) == 0 || s.Validate() != nil {
			t.Errorf("%q is taken", text)
		}
		if again, err := DecodeScope(s.Text()); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q is read again as %+v, %v", text, again, err)
		}
		if err := s.within(s); err != nil {
			t.Errorf("%q is beyond itself: %v", text, err)
		}
		for _, address := range []string{"", "x", "10.20.0.1:80", "[2001:db8::1%eth0]:443"} {
			if s.HasAddress(address) && (address == "" || address == "x") && s.Networks[0] != Everything {
				t.Errorf("%q has the address %q", text, address)
			}
		}
		_ = s.String()
	})
}
