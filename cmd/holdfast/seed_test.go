package main

import (
	"path/filepath"
	"testing"

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
	p := s.start(t, "--hsm-module", module, "--token-label", tokenLabel, "--pin-file", filepath.Join(s.dir, "pin"),
		"--tls-cert", s.ca, "--tls-key", filepath.Join(s.dir, "server-key.pem"), "--state-dir", filepath.Join(s.dir, "state"),
		"--xks-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--socket", s.socket)
	k := p.kms(t)
	k.AccessKeyID, k.SecretAccessKey, k.Service = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "xks-kms"
	k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
}
