package auditlog_test

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// code gives the code of an error of the package; "" if it is none.
func code(err error) fault.Code {
	var e *fault.Fault
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// childKey hands the key to a child.
func childKey(t *testing.T) string {
	t.Helper()
	return base64.StdEncoding.EncodeToString(got(x509.MarshalECPrivateKey(key))(t))
}

func childSigner() *audit.ECDSASigner {
	der, err := base64.StdEncoding.DecodeString(os.Getenv("AUDIT_TEST_KEY"))
	if err != nil {
		panic(err)
	}
	k, err := x509.ParseECPrivateKey(der)
	if err != nil {
		panic(err)
	}
	s, err := audit.NewECDSASigner("test.example/audit", k)
	if err != nil {
		panic(err)
	}
	return s
}
