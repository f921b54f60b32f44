package privatefile_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"
)

// TestDACL: access for anybody but the owner, SYSTEM and Administrators is refused.
// Wine keeps of a list what it can say as a Unix mode, so the lists here are such.
func TestDACL(t *testing.T) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	mine := "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;" + user.User.Sid.String() + ")"
	dir := folder(t)
	for i, c := range []struct{ list, who string }{
		{mine, ""},
		{mine + "(A;;FR;;;WD)", "Everyone"},
		{mine + "(A;;FA;;;WD)", "Everyone"},
	} {
		file := filepath.Join(dir, fmt.Sprint("secret-", i))
		createWith(t, file, c.list)
		if c.who == "" {
			read(t, file)
			continue
		}
		refused(t, file, c.who, `icacls "`+file+`" /inheritance:r /grant:r "%USERNAME%:F"`)
	}
}

// createWith makes an empty file with an access control list (SDDL).
func createWith(t *testing.T, file, list string) {
	t.Helper()
	sd, err := windows.SecurityDescriptorFromString(list)
	if err != nil {
		t.Fatal(err)
	}
	name, err := windows.UTF16PtrFromString(file)
	if err != nil {
		t.Fatal(err)
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: sd}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	handle, err := windows.CreateFile(name, windows.GENERIC_WRITE, 0, attributes, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := windows.CloseHandle(handle); err != nil {
		t.Fatal(err)
	}
}
