package main

import (
	"bytes"
	"database/sql"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"holdfast/cmd/internal/sitetest"
)

// TestReference: a command that the appliance fails to do prints a reference, which
// finds one line of the appliance's log.
func TestReference(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	p := s.Start(t)
	s.Run(t, "keystore", "create", "demo")
	s.Run(t, "key", "create", "demo", "k")
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.Dir, "state", "holdfast.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE external_keys SET can_decrypt = 1 - can_decrypt`); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := s.Command(t.Context(), "holdfast", "key", "show", "demo", "k")
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("it ended with %v: %s", err, &stderr)
	}
	m := regexp.MustCompile(`reference=([a-z2-7]{10})\b`).FindStringSubmatch(stderr.String())
	if m == nil {
		t.Fatalf("there is no reference in %q", &stderr)
	}
	var found []string
	for line := range strings.Lines(p.Log.String()) {
		if strings.Contains(line, "reference="+m[1]) {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], "tampered: ") {
		t.Errorf("the lines of %s are %q", m[1], found)
	}
}
