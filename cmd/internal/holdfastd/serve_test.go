package holdfastd

import (
	"strings"
	"testing"
)

// TestWelcome: a code that is known elsewhere is not made up here.
func TestWelcome(t *testing.T) {
	if got := welcome("", "/state/setup-code", "https://console.test"); !strings.Contains(got, "the one whose hash was given at launch") || strings.Contains(got, "/state") || !strings.HasSuffix(got, "https://console.test") {
		t.Error(got)
	}
	if got := welcome("AAAAAA-BBBBBB", "/state/setup-code", "https://console.test"); !strings.Contains(got, "\n    AAAAAA-BBBBBB\n") || !strings.Contains(got, "/state/setup-code") {
		t.Error(got)
	}
}
