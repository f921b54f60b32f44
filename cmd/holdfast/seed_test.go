package main

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance/config"
	"holdfast/hsm/softhsm"
	"holdfast/xks/xkstest"
)

// TestSeedFileAlone: a file that holds nothing but the section
// [aws_xks_config] serves, with flags for what the section does not say.
func TestSeedFileAlone(t *testing.T) {
	s := newSite(t, t.TempDir())
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	s.config = s.write(t, "seed.toml", `[aws_xks_config]
aws_xks_enable = true
aws_xks_region = "us-east-1"
aws_xks_service = "xks-kms"
aws_xks_sigv4_access_key_id = "AKIAIOSFODNN7EXAMPLE"
aws_xks_sigv4_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
`)
	var files config.Config
	s.officer.Configure(&files)
	if err := os.MkdirAll(filepath.Join(s.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.sealedPIN(), filepath.Join(s.dir, "state", "pin.sealed")); err != nil { // where it is by default
		t.Fatal(err)
	}
	p := s.start(t, "--hsm-module", module, "--token-label", tokenLabel, "--tpm", s.tpm(), "--event-log", s.eventLog(),
		"--policy", files.Attestation.Policy, "--policy-key", files.Attestation.PolicyKey,
		"--authorizations", files.Release.Authorizations, "--seal-key", files.Release.SealKey,
		"--tls-cert", s.ca, "--tls-key", filepath.Join(s.dir, "server-key.pem"), "--state-dir", filepath.Join(s.dir, "state"),
		"--xks-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--socket", s.socket)
	k := p.kms(t)
	k.AccessKeyID, k.SecretAccessKey, k.Service = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "xks-kms"
	k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
}
