//go:build unix

package privatefile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestMode: a permission of the group or of others, any of them, is refused.
func TestMode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode := range os.FileMode(0o1000) {
		if mode&0o400 == 0 {
			continue // who runs the test could not open it, if not root
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if mode&0o077 == 0 {
			read(t, file)
			continue
		}
		refused(t, file, fmt.Sprintf("mode %04o", mode), "chmod 600 it")
	}
}
