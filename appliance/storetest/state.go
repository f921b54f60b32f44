package storetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Key authenticates manifests in tests. Its key is known to all.
type Key string

// Tag implements [appliance.ManifestKey].
func (k Key) Tag(row []byte) (tag appliance.Tag) {
	mac := hmac.New(sha256.New, []byte("row"+k))
	mac.Write(row)
	mac.Sum(tag[:0])
	return tag
}

// Seal implements [appliance.ManifestKey].
func (k Key) Seal(m *appliance.Manifest, sum *appliance.Sum) []byte {
	mac := hmac.New(sha256.New, []byte("manifest"+k))
	mac.Write(m.Body())
	mac.Write(sum.Bytes())
	return mac.Sum(nil)
}

// SealChange implements [appliance.ManifestKey]: what is sealed is not hidden.
func (k Key) SealChange(b appliance.Binding, body []byte) ([]byte, error) {
	return append(k.change(b, body), body...), nil
}

func (k Key) change(b appliance.Binding, body []byte) []byte {
	mac := hmac.New(sha256.New, []byte("change"+k))
	mac.Write(b.AAD())
	mac.Write(body)
	return mac.Sum(nil)
}

// OpenChange implements [appliance.ManifestKey].
func (k Key) OpenChange(b appliance.Binding, sealed []byte) ([]byte, error) {
	if len(sealed) < sha256.Size || !hmac.Equal(sealed[:sha256.Size], k.change(b, sealed[sha256.Size:])) {
		return nil, fault.Errorf(fault.Tampered, "the change does not authenticate")
	}
	return sealed[sha256.Size:], nil
}

// Again implements [appliance.ManifestKey].
func (k Key) Again() (appliance.ManifestKey, error) { return k, nil }

// Wipe implements [appliance.ManifestKey].
func (k Key) Wipe() {}

// StateOptions are those of a test.
func StateOptions() appliance.StateOptions {
	return appliance.StateOptions{Key: Key("a test"), Now: time.Now}
}

// opened gives an engine whose state is open. When the test ends, all rows must match
// their manifests, and do so once more when the state is opened anew: so whatever a method
// changes is counted in.
func opened(open func(t *testing.T) Engine) func(t *testing.T) Engine {
	return func(t *testing.T) Engine {
		t.Helper()
		s := open(t)
		o := StateOptions()
		o.Seal = true
		if _, err := s.OpenState(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// matches says that the rows of an engine are those of its manifests.
func matches(t *testing.T, s Engine) *appliance.StateReport {
	t.Helper()
	ctx := t.Context()
	report := Got(s.CheckState(ctx))(t)
	again := Got(s.OpenState(ctx, StateOptions()))(t)
	if len(report.Damaged)+len(again.Damaged) > 0 || report.Head != again.Head || report.Rows != again.Rows {
		t.Errorf("%+v, and opened anew %+v", report, again)
	}
	return again
}

// testState: a change writes the next manifest, whose digest is kept; another key opens
// nothing; and while the state is closed nothing that it covers is changed.
//
// Unsealed is the code of an opening that finds no manifest: a node of a fleet whose log has
// no change waits for it.
func testState(t *testing.T, s Engine, unsealed fault.Code) {
	ctx := t.Context()
	Wants(t, second(s.CheckState(ctx)), fault.Locked, "")
	Wants(t, second(s.OpenState(ctx, StateOptions())), unsealed, "")
	Must(t, s.CreateKeyStore(ctx, KeyStore(1)))
	Must(t, s.CreateCredential(ctx, Credential(KeyStore(1), 1)))
	o := StateOptions()
	o.Seal, o.Installed = true, &appliance.Installation{ID: ID(1), CreatedAt: o.Now()}
	Got(s.OpenState(ctx, o))(t)
	first := matches(t, s).Head
	Must(t, s.CreateKeys(ctx, NewKey(KeyStore(1), "k")))
	then := matches(t, s).Head
	if then.Sequence != first.Sequence+1 || then.Digest == first.Digest {
		t.Errorf("%+v after %+v", then, first)
	}
	testPast(t, s, first, then)
	other := StateOptions()
	other.Key = Key("another")
	Wants(t, second(s.OpenState(ctx, other)), fault.StateChanged, "do not match")
	Wants(t, s.CreateKeys(ctx, NewKey(KeyStore(1), "l")), fault.Locked, "manifest")
	Must(t, s.RecordCredentialUse(ctx, map[string]time.Time{Credential(KeyStore(1), 1).AccessKeyID: time.Now()}))
	Got(s.OpenState(ctx, StateOptions()))(t)
	Must(t, s.CreateKeys(ctx, NewKey(KeyStore(1), "l")))
	matches(t, s)
	s.CloseState()
	Wants(t, s.CreateKeys(ctx, NewKey(KeyStore(1), "m")), fault.Locked, "manifest")
}

// anchor notes what it is told.
type anchor struct{ count, told uint64 }

func (a *anchor) Next() (string, uint64) { return "test", a.count + 1 }

func (a *anchor) Committed(count uint64) { a.count, a.told = count, a.told+1 }

// testAnchoring: each change that decides something raises the anchor, after it is
// durable; what only counts does not.
func testAnchoring(t *testing.T, s Engine) {
	ctx := t.Context()
	a := &anchor{count: 41}
	o := StateOptions()
	o.Seal, o.Anchoring = true, a
	Got(s.OpenState(ctx, o))(t)
	steps := []struct {
		raises bool
		do     func() error
	}{
		{true, func() error { return s.CreateKeyStore(ctx, KeyStore(1)) }},
		{true, func() error { return s.CreateKeys(ctx, NewKey(KeyStore(1), "k")) }},
		{false, func() error { return second(s.ReserveEncryptions(ctx, KeyStore(1).ID, "k", 1, 64)) }},
		{true, func() error { return s.CreateCredential(ctx, Credential(KeyStore(1), 1)) }},
		{false, func() error {
			return s.RecordCredentialUse(ctx, map[string]time.Time{Credential(KeyStore(1), 1).AccessKeyID: time.Now()})
		}},
		{false, func() error {
			return s.DeleteCredential(ctx, KeyStore(1).ID, Credential(KeyStore(1), 1).AccessKeyID, []byte("another"))
		}},
	}
	for i, step := range steps {
		before := *a
		err := step.do()
		if step.raises && err != nil || a.told != before.told+map[bool]uint64{true: 1}[step.raises] {
			t.Errorf("step %d: %v, told %d times, and before %d", i, err, a.told, before.told)
		}
	}
	if head := matchesWith(t, s, a); head.Count != a.count || head.Anchor != "test" {
		t.Errorf("%+v, and the anchor is at %d", head, a.count)
	}
}

func matchesWith(t *testing.T, s Engine, a appliance.Anchoring) appliance.Head {
	t.Helper()
	o := StateOptions()
	o.Anchoring = a
	return Got(s.OpenState(t.Context(), o))(t).Head
}

func second[T any](_ T, err error) error { return err }

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// testPast: a head is of the state's past if the chain of digests says so, and not by a
// smaller number.
func testPast(t *testing.T, s Engine, first, then appliance.Head) {
	t.Helper()
	ctx := t.Context()
	other := appliance.Head{Sequence: first.Sequence, Digest: hexOf(make([]byte, 32))}
	for _, c := range []struct {
		head appliance.Head
		past bool
	}{
		{first, true}, {then, true}, {other, false}, {appliance.Head{}, false},
		{appliance.Head{Sequence: then.Sequence, Digest: first.Digest}, false},
		{appliance.Head{Sequence: first.Sequence, Digest: then.Digest}, false},
		{appliance.Head{Sequence: then.Sequence + 1, Digest: then.Digest}, false},
		{appliance.Head{Sequence: first.Sequence, Digest: "no digest"}, false},
	} {
		if past := Got(s.Past(ctx, c.head))(t); past != c.past {
			t.Errorf("%+v is in the past of %+v: %v", c.head, then, past)
		}
	}
}
