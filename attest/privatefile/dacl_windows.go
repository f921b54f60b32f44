package privatefile

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// access is what an entry of the list may allow nobody else: to read the file, to
// change it, or to change who may. To see its name and its times is no secret.
const access = windows.FILE_READ_DATA | windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | windows.FILE_EXECUTE | windows.DELETE |
	windows.WRITE_DAC | windows.WRITE_OWNER | windows.GENERIC_READ | windows.GENERIC_WRITE | windows.GENERIC_EXECUTE | windows.GENERIC_ALL

func check(f *os.File) error {
	sd, err := windows.GetSecurityInfo(windows.Handle(f.Fd()), windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("its access control list cannot be read: %w", err)
	}
	exposed := func(who string) error {
		return &Exposed{Who: who, Remedy: `icacls "` + f.Name() + `" /inheritance:r /grant:r "%USERNAME%:F"`}
	}
	dacl, _, err := sd.DACL()
	if err != nil || dacl == nil {
		return exposed("it has no access control list") // which allows everybody everything
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("its owner cannot be read: %w", err)
	}
	user, err := currentUser()
	if err != nil {
		return err
	}
	for i := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, i, &ace); err != nil {
			return fmt.Errorf("its access control list cannot be read: %w", err)
		}
		switch {
		case ace.Header.AceType == windows.ACCESS_DENIED_ACE_TYPE, ace.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0:
			continue
		case ace.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE: // by object, or on conditions
			return exposed(fmt.Sprintf("its access control list has an entry of type %d, which Holdfast does not know", ace.Header.AceType))
		case ace.Mask&access == 0:
			continue
		}
		sid := (*windows.SID)(unsafe.Pointer(&ace.SidStart))
		if sid.Equals(owner) || sid.Equals(user) || sid.IsWellKnown(windows.WinLocalSystemSid) || sid.IsWellKnown(windows.WinBuiltinAdministratorsSid) ||
			sid.IsWellKnown(windows.WinCreatorOwnerRightsSid) {
			continue
		}
		return exposed(nameOf(sid))
	}
	return nil
}

// currentUser is the user of this process.
func currentUser() (*windows.SID, error) {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("the user of this process cannot be told: %w", err)
	}
	return u.User.Sid, nil
}

func nameOf(sid *windows.SID) string {
	account, domain, _, err := sid.LookupAccount("")
	switch {
	case err != nil:
		return sid.String()
	case domain == "":
		return account
	}
	return domain + `\` + account
}

// create gives the file a list of its own, without what the folder would hand down.
func create(path string) (*os.File, error) {
	user, err := currentUser()
	if err != nil {
		return nil, err
	}
	sd, err := windows.SecurityDescriptorFromString("D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;" + user.String() + ")")
	if err != nil {
		return nil, fmt.Errorf("%s: an access control list cannot be made: %w", path, err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: sd}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	handle, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, attributes,
		windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	return os.NewFile(uintptr(handle), path), nil
}

func syncDir(string) error { return nil }
