package console

import (
	"maps"
	"net/url"
	"slices"
	"testing"
)

// TestReadForm reads forms as package url does, also their secret fields, and refuses
// what that refuses.
func TestReadForm(t *testing.T) {
	for _, body := range []string{
		"", "a=b", "a=b&a=c&pin=1", "pin=1234&pin=5", "pin=%41%2b%2B+x&a=%26+%3d", "pin=%C3%A4%00", "pin=", "pin", "=x", "&&pin=a&", "p%69n=4711", "pin=a=b",
		"pin=%", "pin=%4", "pin=%4g", "pin=%zz", "a=%zz", "%zz=1", "pin=%%41", "pin=41%",
	} {
		want, wantErr := url.ParseQuery(body)
		got, err := readForm([]byte(body), []string{"pin"})
		if (err != nil) != (wantErr != nil) {
			t.Errorf("%q: %v, want %v", body, err, wantErr)
		}
		if err == nil && !maps.EqualFunc(got, want, slices.Equal[[]string]) {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
	body := []byte("name=alice&pin=4711")
	v, err := readForm(body, []string{"pin"})
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	if v.Get("name") != "alice" || v.Get("pin") != "\x00\x00\x00\x00" {
		t.Errorf("with its body zeroized the form has %q", v)
	}
}
