package holdfastd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/sitetest"
	"holdfast/hsm/softhsm"
	"holdfast/xks/xkstest"
)

// TestMain lets the test's binary be the program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfastd": func() { os.Exit(cli.Run(New())) }})
}

// TestSeedFileAlone: a file that holds nothing but the section
// [aws_xks_config] serves, with flags for what the section does not say.
func TestSeedFileAlone(t *testing.T) {
	s := sitetest.New(t, t.TempDir())
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	s.Config = s.Write(t, "seed.toml", `[aws_xks_config]
aws_xks_enable = true
aws_xks_region = "us-east-1"
aws_xks_service = "xks-kms"
aws_xks_sigv4_access_key_id = "AKIAIOSFODNN7EXAMPLE"
aws_xks_sigv4_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
`)
	var files config.Config
	s.Officer.Configure(&files)
	if err := os.MkdirAll(filepath.Join(s.Dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.SealedPIN(), filepath.Join(s.Dir, "state", "pin.sealed")); err != nil { // where it is by default
		t.Fatal(err)
	}
	p := s.Start(t, "--hsm-module", module, "--hsm-write", filepath.Dir(s.SoftHSM), "--token-label", sitetest.TokenLabel, "--tpm", s.TPM(), "--event-log", s.EventLog(),
		"--policy", files.Attestation.Policy, "--policy-key", files.Attestation.PolicyKey,
		"--authorizations", files.Release.Authorizations, "--seal-key", files.Release.SealKey,
		"--tls-cert", s.CA, "--tls-key", filepath.Join(s.Dir, "server-key.pem"), "--state-dir", filepath.Join(s.Dir, "state"),
		"--xks-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--socket", s.Socket)
	k := p.KMS(t)
	k.AccessKeyID, k.SecretAccessKey, k.Service = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "xks-kms"
	k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
}
