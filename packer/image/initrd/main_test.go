package main

import "testing"

// TestParseVerity: what is not whole is refused; a kernel without a root hash
// starts nothing.
func TestParseVerity(t *testing.T) {
	const hash = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	v, err := parseVerity("console=ttyS0 holdfast.verity=17:ab01:" + hash + " panic=1\n")
	if err != nil || v.blocks != 17 || v.salt != "ab01" || v.hash != hash {
		t.Errorf("%+v, %v", v, err)
	}
	for _, bad := range []string{"", "console=ttyS0", "holdfast.verity=", "holdfast.verity=17:ab:" + hash[1:], "holdfast.verity=0:ab:" + hash, "holdfast.verity=x:ab:" + hash,
		"holdfast.verity=17:AB:" + hash, "holdfast.verity=17:ab:" + hash + ":1", "holdfast.verity=17:a b:" + hash, "xholdfast.verity=17:ab:" + hash} {
		if v, err := parseVerity(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, v)
		}
	}
}

// TestTarget: the structure is aligned and ends with a zero, whatever the length.
func TestTarget(t *testing.T) {
	for _, p := range []string{"", "1234567", "12345678", "123456789"} {
		b := target(8, "verity", p)
		if len(b)%8 != 0 || b[len(b)-1] != 0 || string(b[24:30]) != "verity" || string(b[40:40+len(p)]) != p || fromU64(b[8:]) != 8 {
			t.Errorf("%q: % x", p, b)
		}
	}
}
