package appliance_test

import (
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance"
)

// TestValidExternalKeyID: for each character, alone and among others, and each length.
func TestValidExternalKeyID(t *testing.T) {
	spec := regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`) // spec, API operations
	texts := []string{"", "k\n", "\xff", "ä", "k k"}
	for c := range 0x100 {
		texts = append(texts, string(rune(c)), "k"+string(rune(c)), string([]byte{'k', byte(c), 'k'}))
	}
	for n := range 131 {
		texts = append(texts, strings.Repeat("k", n))
	}
	for _, s := range texts {
		if got := appliance.ValidExternalKeyID(s); got != spec.MatchString(s) {
			t.Errorf("%q: %v", s, got)
		}
	}
}
