package daemon_test

import (
	"fmt"
	"testing"
	"time"
)

// TestModulesAreRenewed: once all keys were unwrapped, another process of the module comes in
// the place of the one that has unwrapped them, and the first logs out.
func TestModulesAreRenewed(t *testing.T) {
	s := newSite(t)
	s.renewAfter = time.Millisecond
	logins, ended := s.shim.Calls("C_Login"), s.shim.Calls("C_Finalize")
	s.start()
	eventually(t, func() error {
		if in, out := s.shim.Calls("C_Login")-logins, s.shim.Calls("C_Finalize")-ended; in != 2 || out != 1 {
			return fmt.Errorf("%d processes have logged in, and %d have ended", in, out)
		}
		return nil
	})
}
