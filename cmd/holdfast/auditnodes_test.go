//go:build unix

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
)

// fleetLogs makes, in a new folder, the logs a, b and c of three nodes and their keys
// a.pub, b.pub and c.pub. Each has countersigned the others' heads, and has one record after.
func fleetLogs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var logs []*auditlog.Log
	var signers []*audit.ECDSASigner
	names := []string{"a", "b", "c"}
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		signer, err := audit.NewECDSASigner(auditKeyName, key)
		check(err)
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		check(err)
		check(os.WriteFile(filepath.Join(dir, name+".pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
		l, err := auditlog.Open(filepath.Join(dir, name), auditlog.Options{LogID: "node-" + name, Signer: signer})
		check(err)
		t.Cleanup(func() { _ = l.Close() })
		logs, signers = append(logs, l), append(signers, signer)
	}
	act := func() {
		for i, l := range logs {
			check(l.Append(t.Context(), &audit.Record{Kind: audit.KindAdmin, Operation: "operation of " + names[i], Result: audit.Allowed, Actor: "alice"}))
			_, err := l.Checkpoint()
			check(err)
		}
	}
	act()
	for i, by := range logs {
		for j, of := range logs {
			if i == j {
				continue
			}
			signed, err := of.Newest()
			check(err)
			head := &audit.SignedHead{Checkpoint: string(signed), Key: signers[j].VerifierKey()}
			c, err := head.Open("node-" + names[j])
			check(err)
			_, _, err = by.Countersign(t.Context(), nil, c, head)
			check(err)
		}
	}
	act()
	for _, l := range logs {
		check(l.Close())
	}
	return dir
}

// TestLogsOfNodes: verify, search, tail and export over the folders of several nodes, and
// what they say and exit with where one is missing, damaged, cut or there twice.
func TestLogsOfNodes(t *testing.T) {
	dir := fleetLogs(t)
	copied := func(name string, change func(text string) string) {
		t.Helper()
		to := filepath.Join(dir, name)
		if err := os.CopyFS(to, os.DirFS(filepath.Join(dir, "b"))); err != nil {
			t.Fatal(err)
		}
		segments, err := filepath.Glob(filepath.Join(to, "*.jsonl"))
		if err != nil || len(segments) != 1 {
			t.Fatal(segments, err)
		}
		text, err := os.ReadFile(segments[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segments[0], []byte(change(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied("b-copy", func(text string) string { return text })
	copied("b-damaged", func(text string) string { return strings.Replace(text, "alice", "mallo", 1) })
	const keys = "--key a.pub --key b.pub --key c.pub"
	for call, want := range map[string]struct {
		exit int
		says []string
	}{
		"verify a b c " + keys:                              {0, []string{`(?m)^folder +a$`, `(?m)^countersigned +2 heads by other nodes$`, `(?m)^verdict +whole$`}},
		"verify a b " + keys:                                {3, []string{`(?m)^missing +the log node-c, which the log node-a names in its record 2 of \S+Z; give its folder too$`, `(?m)^verdict +incomplete$`}},
		"verify a " + keys:                                  {3, []string{`(?m)^missing +the log node-b,`, `(?m)^missing +the log node-c,`, `(?m)^verdict +incomplete$`}},
		"verify a b-damaged c " + keys:                      {1, []string{`(?m)^folder +b-damaged\n(.+\n)*broken +E_AUDIT_EDITED: .*\nwhere .* line 1, record 0\nlog is +broken$`, `(?m)^folder +c\n(.+\n)*log is +whole$`, `(?m)^verdict +broken$`}},
		"verify a b b-copy c " + keys:                       {2, []string{`b and b-copy have the same log, node-b; give one of them`}},
		"verify a b c b " + keys:                            {2, []string{`b and b are the same folder; give it once`}},
		"verify a b nothing " + keys:                        {3, []string{`(?m)^folder +nothing\nerror .*cannot be read`, `(?m)^verdict +incomplete$`}},
		"verify nothing " + keys:                            {2, []string{`nothing: .*cannot be read`}},
		"verify a b c --key a.pub --key b.pub":              {1, []string{`E_AUDIT_CHECKPOINT_FORGED`}},
		"verify a b c --log-id node-a " + keys:              {2, []string{`asked of one folder`}},
		"verify a b c --until noon " + keys:                 {2, []string{`--until "noon" is not a time`}},
		"verify a b c --until 2001-01-01T00:00:00Z " + keys: {0, []string{`(?m)^verdict +whole$`}},
		"search a b c --kind admin":                         {0, []string{`(?m)^node-[abc] +3 .*operation of`, `(?m)^node-a +0 `}},
		"search a b --limit 1":                              {0, []string{`(?m)^More: --after node-a:\d+,node-b:\d+$`, `(?m)^missing: the log node-c,`}},
		"search a b b-copy":                                 {2, []string{`have the same log, node-b`}},
		"search a nothing":                                  {2, []string{`nothing: `}},
		"search a b --node node-a":                          {2, []string{`--node, which is for an appliance`}},
		"search a b --after 3":                              {2, []string{`no cursor of a search in the logs of several nodes`}},
		"tail a b c -n 2":                                   {0, []string{`^node-[abc] +\d+ .*\nnode-[abc] +\d+ .*\n$`}},
		"export a b":                                        {0, []string{`(?m)^\{"node":"node-b","seq":3,`, `(?m)^missing: the log node-c,`}},
		"export a b c --format csv":                         {0, []string{`^node,seq,time,`, `(?m)^node-c,0,`}},
		"search a --kind fleet":                             {0, []string{`(?m)^2 +\S+ \S+ +fleet +CountersignHead +allowed .*log node-c *$`}},
	} {
		cmd := program(t, append([]string{"audit"}, strings.Fields(call)...)...)
		cmd.Dir = dir
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run() // the exit code says it
		if got := cmd.ProcessState.ExitCode(); got != want.exit {
			t.Errorf("%s: exit %d, want %d: %s", call, got, want.exit, &out)
		}
		for _, says := range want.says {
			if !regexp.MustCompile(says).Match(out.Bytes()) {
				t.Errorf("%s does not say %s:\n%s", call, says, &out)
			}
		}
	}
}

// TestLogsOfNodesInJSON: what scripts read.
func TestLogsOfNodesInJSON(t *testing.T) {
	dir := fleetLogs(t)
	run := func(exit int, call string, into any) {
		t.Helper()
		cmd := program(t, append([]string{"audit"}, strings.Fields(call)...)...)
		cmd.Dir = dir
		out, _ := cmd.Output()
		if got := cmd.ProcessState.ExitCode(); got != exit {
			t.Errorf("%s: exit %d, want %d", call, got, exit)
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("%s: %v: %s", call, err, out)
		}
	}
	const keys = " --json --key a.pub --key b.pub --key c.pub"
	var fleet audit.FleetReport
	run(3, "verify a b"+keys, &fleet)
	if fleet.Verdict != audit.VerdictIncomplete || len(fleet.Logs) != 2 || fleet.Logs[1].LogID != "node-b" || len(fleet.Missing) != 1 || fleet.Missing[0].LogID != "node-c" {
		t.Errorf("%+v", fleet)
	}
	var kept, warned struct{ Missing []audit.MissingLog }
	run(0, "export a b --json --out export.jsonl", &kept)
	cmd := program(t, "audit", "export", "a", "b", "--json") // its output is the export
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("export: %v: %s", err, &stderr)
	}
	if err := json.Unmarshal(stderr.Bytes(), &warned); err != nil {
		t.Errorf("export says of the missing log: %v: %s", err, &stderr)
	}
	for _, missing := range [][]audit.MissingLog{kept.Missing, warned.Missing} {
		if len(missing) != 1 || missing[0].LogID != "node-c" {
			t.Errorf("missing from the export: %+v", missing)
		}
	}
	var one struct {
		LogID   string `json:"log_id"`
		Missing []audit.MissingLog
	}
	run(3, "verify a"+keys, &one)
	if one.LogID != "node-a" || len(one.Missing) != 2 {
		t.Errorf("%+v", one)
	}
	// Page by page, all records come once.
	seen := map[string]bool{}
	for cursor := ""; ; {
		var page struct {
			Records []audit.NodeRecord `json:"items"`
			Next    string
			Missing []audit.MissingLog
		}
		run(0, "search a b c --limit 4 --json"+cursor, &page)
		for _, r := range page.Records {
			if key := fmt.Sprint(r.Node, " ", r.Seq); seen[key] {
				t.Fatalf("%s comes twice", key)
			} else {
				seen[key] = true
			}
		}
		if cursor = " --after " + page.Next; page.Next == "" {
			break
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d records come, of 12", len(seen))
	}
}
