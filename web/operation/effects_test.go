package operation_test

import (
	"testing"

	"holdfast/appliance"
	"holdfast/web/operation"
)

// TestWhatRestrictsSaysSo: an operation that takes something out of service, or a right away, with
// some input or with each, states an effect of that, so that its guards fit.
func TestWhatRestrictsSaysSo(t *testing.T) {
	apart := map[string]string{
		"approve":           "what is approved has effects of its own, and was confirmed by who asked for it",
		"performApproved":   "what is approved has effects of its own, and was confirmed by who asked for it",
		"reject":            "a request ends, and nobody loses what they had",
		"signOutEverywhere": "it ends one's own sessions",
		"revokeOwnSession":  "it ends one's own session",
	}
	n := 0
	for _, r := range operation.Table() {
		if !r.MayRestrict() {
			continue
		}
		n++
		if states := r.Can().Can(operation.StopsService | operation.TakesAccess); states == (apart[r.ID] != "") {
			t.Errorf("%s restricts, and states %q; apart: %q", r.ID, r.Can(), apart[r.ID])
		}
	}
	if n < 15 {
		t.Errorf("only %d operations restrict", n)
	}
	// What does many of another operation is confirmed where that is.
	for _, r := range operation.Table() {
		if r.Many != nil && r.Many.Guards().Confirmed && !r.Guards().Confirmed {
			t.Errorf("%s does many of %s, and nothing is typed", r.ID, r.Many.ID)
		}
	}
	if !operation.RemoveGrant.Can().Can(operation.GivesAccess) {
		t.Error("without a grant that forbids, what others allow is allowed")
	}
}

// TestProhibitionsAreConfirmed: what forbids is confirmed by the name of what it stops, in a form as
// in a file, whatever the file's form; what allows is not.
func TestProhibitionsAreConfirmed(t *testing.T) {
	ks := operation.KeyStoreName{KeyStore: "bank"}
	for want, c := range map[string]*operation.Confirmation{
		"bank": operation.CreateGrant.ToConfirm(operation.NewGrant{KeyStoreName: ks, Effect: appliance.EffectForbid}),
		"k":    operation.CreateGrant.ToConfirm(operation.NewGrant{KeyStoreName: ks, KeyID: "k", Effect: appliance.EffectForbid}),
	} {
		if c == nil || c.Name != want || c.Of == nil {
			t.Errorf("%s: %+v", want, c)
		}
	}
	if c := operation.CreateGrant.ToConfirm(operation.NewGrant{KeyStoreName: ks, Effect: appliance.EffectAllow}); c != nil {
		t.Errorf("what allows: %+v", c)
	}
	for file, want := range map[string]bool{
		"principal,operations,effect\n*,Encrypt,forbid\n":                                           true,
		"\ufeffeffect,principal,operations\r\n\" forbid \",*,Encrypt\r\n":                           true,
		"{\"principal\":\"*\",\"operations\":[\"Encrypt\"],\"effect\":\"\\u0066orbid\"}\n":          true,
		"principal,operations,effect\n*,Encrypt,allow\narn:aws:iam::123456789012:role/a,Encrypt,\n": false,
		"principal,operations\narn:aws:iam::123456789012:role/forbid,Encrypt\n":                     false,
		"principal,operations,effect\n*,Encrypt,allow\n123456789012,Encrypt Decrypt,forbid\n":       true,
	} {
		c := operation.CreateGrants.ToConfirm(operation.FileImport{KeyStoreName: ks, File: file})
		if (c != nil) != want || c != nil && (c.Name != "bank" || c.Of == nil) {
			t.Errorf("%q: %+v", file, c)
		}
	}
	for _, c := range []*operation.Confirmation{operation.InstallCertificate.ToConfirm(operation.CertificateChain{}), operation.RestoreCertificate.ToConfirm(operation.Nothing{}), operation.ShareCertificate.ToConfirm(operation.SharedCertificate{}), operation.UnshareCertificate.ToConfirm(operation.Nothing{})} {
		if c == nil || c.Name == "" || c.Of == nil || *c.Of != (operation.DependentsOf{}) {
			t.Errorf("another certificate can stop all key stores: %+v", c)
		}
	}
}
