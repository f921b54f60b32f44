package auditlog_test

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
)

// FuzzVerify lets Verify, Open and the proofs read a log of foreign bytes.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 6)
	segment := segments(f, dir)[0]
	whole, checkpoints, tree := read(f, segment), read(f, dir+"/checkpoints"), read(f, dir+"/tree")
	f.Add(whole, checkpoints, tree)
	f.Add(whole[:len(whole)-3], checkpoints[:200], tree[:40])
	f.Add([]byte("{\"seq\":0,\"time\":\"\n"), []byte("holdfast-audit/x\n\n— \n\n"), []byte{})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		dir := t.TempDir()
		write(t, dir+"/00000000000000000000.jsonl", a)
		write(t, dir+"/checkpoints", b)
		write(t, dir+"/tree", c)
		r, err := verify(dir, audit.VerifyOptions{})
		if err == nil && r.Newest.Size == 6 && !bytes.HasPrefix(a, whole) {
			t.Fatalf("a changed log was taken for good: %+v", r)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("%q is not one line", err)
		}
		_, _ = audit.InclusionProof(dir, 2)
		_, _, _ = audit.NewReader(dir).Search(t.Context(), audit.Query{})
		if l, err := auditlog.Open(dir, options()); err == nil {
			must(t, l.Close())
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 4)
	notes := read(f, dir+"/checkpoints")
	f.Add(notes[:len(notes)-1])
	f.Add([]byte("holdfast-audit/x\n-1\nAAAA\nholdfast 0 x\n\n— a b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := audit.OpenCheckpoint(b, verifiers())
		if err == nil && (c.LogID != "test" || c.Size > 4) {
			t.Fatalf("%+v", c)
		}
	})
}

func FuzzCheckInclusion(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, options(), 0, 8)
	f.Add(got(audit.InclusionProof(dir, 5))(f))
	f.Add([]byte(`{"format":"holdfast-audit-proof/1","seq":-1,"tree_size":9223372036854775807}`))
	line := strings.Split(string(read(f, segments(f, dir)[0])), "\n")[5]
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := audit.CheckInclusion(b, verifiers())
		if err != nil {
			return
		}
		if in.Record.Seq == 5 && string(got(in.Record.AppendJSON(nil))(t)) != line {
			t.Fatalf("%s was proved", b)
		}
	})
}
