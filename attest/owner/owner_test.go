package owner_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/attest"
	"holdfast/attest/owner"
)

func newKey(t testing.TB, seed byte) ed25519.PrivateKey {
	t.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func sign(t testing.TB, file []byte, version uint64, key, before ed25519.PrivateKey) []byte {
	t.Helper()
	envelope, err := owner.Sign(file, version, key, before)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

var file = []byte("format = \"holdfast-launch/v1\"\n")

// TestSigned: what is signed is the digest of the exact bytes, the version, and the
// owner's key, and nothing of the file is parsed.
func TestSigned(t *testing.T) {
	key := newKey(t, 1)
	for _, text := range [][]byte{file, []byte("no TOML at all: \x00\xff"), bytes.Repeat([]byte("x"), owner.MaxFile)} {
		l, err := owner.Open(text, sign(t, text, 7, key, nil))
		if err != nil {
			t.Fatal(err)
		}
		der, _ := x509.MarshalPKIXPublicKey(key.Public())
		want, of := sha256.Sum256(text), sha256.Sum256(der)
		if !bytes.Equal(l.Digest, want[:]) || !bytes.Equal(l.OwnerDigest, of[:]) || l.Version != 7 || !l.Owner.Equal(key.Public()) || l.KeyID() != attest.KeyID(public(key)) {
			t.Errorf("%+v", l)
		}
		if !l.SignedBy(public(key)) || l.SignedBy(public(newKey(t, 2))) {
			t.Error("who has signed it is not known")
		}
	}
	for _, text := range [][]byte{nil, bytes.Repeat([]byte("x"), owner.MaxFile+1)} {
		if _, err := owner.Sign(text, 1, key, nil); err == nil {
			t.Errorf("%d bytes are signed", len(text))
		}
	}
	if _, err := owner.Sign(file, 0, key, nil); err == nil {
		t.Error("version 0 is signed")
	}
}

// TestNotSigned: a changed file, envelope, or another's signature.
func TestNotSigned(t *testing.T) {
	key, other := newKey(t, 1), newKey(t, 2)
	good := sign(t, file, 1, key, nil)
	var e dsse.Envelope
	if err := json.Unmarshal(good, &e); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*dsse.Envelope)) []byte {
		c := e
		c.Signatures = append([]dsse.Signature(nil), e.Signatures...)
		f(&c)
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, c := range map[string]struct {
		file, envelope []byte
		want           error
	}{
		"another file":        {append([]byte{'#'}, file...), good, owner.ErrDigest},
		"a byte at the end":   {append(bytes.Clone(file), '\n'), good, owner.ErrDigest},
		"no file":             {nil, good, nil},
		"a large file":        {bytes.Repeat([]byte("x"), owner.MaxFile+1), good, nil},
		"no envelope":         {file, nil, nil},
		"a large envelope":    {file, append(bytes.Repeat([]byte(" "), owner.MaxSignature), good...), nil},
		"another purpose":     {file, change(func(c *dsse.Envelope) { c.PayloadType = "application/vnd.holdfast.policy.v1+json" }), nil},
		"no signature":        {file, change(func(c *dsse.Envelope) { c.Signatures = nil }), nil},
		"three signatures":    {file, change(func(c *dsse.Envelope) { c.Signatures = append(c.Signatures, c.Signatures[0], c.Signatures[0]) }), nil},
		"a stranger's":        {file, change(func(c *dsse.Envelope) { c.Signatures[0] = resigned(t, c, other) }), owner.ErrSignature},
		"another version":     {file, restated(t, e, `"version":1`, `"version":2`, nil), owner.ErrSignature},
		"version 0, signed":   {file, restated(t, e, `"version":1`, `"version":0`, key), nil},
		"version 2^53":        {file, restated(t, e, `"version":1`, `"version":9007199254740992`, key), nil},
		"no version, signed":  {file, restated(t, e, `"version":1,`, ``, key), nil},
		"a member, signed":    {file, restated(t, e, `"version":1`, `"version":1,"more":1`, key), nil},
		"twice, signed":       {file, restated(t, e, `"version":1`, `"version":1,"version":2`, key), nil},
		"format v2, signed":   {file, restated(t, e, `signature/v1`, `signature/v2`, key), nil},
		"another key, signed": {file, restated(t, e, base64.StdEncoding.EncodeToString(mustDER(t, key)), base64.StdEncoding.EncodeToString(mustDER(t, other)), key), owner.ErrSignature},
	} {
		l, err := owner.Open(c.file, c.envelope)
		if err == nil || l != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := owner.Open(file, good); err != nil {
		t.Error(err)
	}
}

func mustDER(t *testing.T, key ed25519.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// resigned is a signature by a key over the envelope's payload.
func resigned(t *testing.T, e *dsse.Envelope, key ed25519.PrivateKey) dsse.Signature {
	t.Helper()
	payload, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	return dsse.Signature{Sig: base64.StdEncoding.EncodeToString(ed25519.Sign(key, dsse.PAE(e.PayloadType, payload)))}
}

// restated is an envelope with another statement, signed by a key if one is given.
func restated(t *testing.T, e dsse.Envelope, from, to string, key ed25519.PrivateKey) []byte {
	t.Helper()
	payload, err := e.DecodeB64Payload()
	if err != nil || !strings.Contains(string(payload), from) {
		t.Fatalf("%s is not in %s: %v", from, payload, err)
	}
	e.Payload = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(payload), from, to, 1)))
	if key != nil {
		e.Signatures = []dsse.Signature{resigned(t, &e, key)}
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestPurposes: a signed policy is no launch signature and the other way round, though
// one key has signed both.
func TestPurposes(t *testing.T) {
	key := newKey(t, 1)
	p := attest.DefaultPolicy()
	p.Unproven = "a test"
	signed, err := attest.SignPolicy(&p, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Open(file, signed); err == nil || !strings.Contains(err.Error(), "the envelope holds") {
		t.Errorf("a policy's signature: %v", err)
	}
	launch := sign(t, file, 1, key, nil)
	if _, err := attest.OpenPolicy(launch, public(key)); err == nil {
		t.Error("a launch signature is taken for a policy")
	}
	// The type is signed: with the other one's name the signature does not verify.
	renamed := bytes.Replace(launch, []byte("vnd.holdfast.launch.v1"), []byte("vnd.holdfast.policy.v1"), 1)
	if _, err := attest.OpenPolicy(renamed, public(key)); !errors.Is(err, attest.ErrSignature) {
		t.Errorf("a renamed launch signature as a policy: %v", err)
	}
}

// TestOwnerExchanged: the key before signs for the new one; neither stands for the other.
func TestOwnerExchanged(t *testing.T) {
	old, next, stranger := newKey(t, 1), newKey(t, 2), newKey(t, 3)
	l, err := owner.Open(file, sign(t, file, 2, next, old))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  ed25519.PrivateKey
		want bool
	}{{old, true}, {next, true}, {stranger, false}} {
		if l.SignedBy(public(c.key)) != c.want {
			t.Errorf("signed by %s: not %v", attest.KeyID(public(c.key)), c.want)
		}
	}
	if !l.Owner.Equal(next.Public()) {
		t.Error("the owner is not the new one")
	}
}

// TestDocument: what travels comes out as it went in, and nothing else is taken.
func TestDocument(t *testing.T) {
	key := newKey(t, 1)
	envelope := sign(t, file, 1, key, nil)
	code := strings.Repeat("ab", 32)
	text, err := owner.EncodeDocument(file, envelope, code)
	if err != nil {
		t.Fatal(err)
	}
	l, got, err := owner.ParseDocument(text)
	if err != nil || !bytes.Equal(l.File, file) || got != code {
		t.Fatalf("%v %q", err, got)
	}
	packed := func(content []byte, after ...byte) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(content)
		_ = w.Close()
		return base64.StdEncoding.EncodeToString(append(b.Bytes(), after...))
	}
	with := func(launch string) string {
		return fmt.Sprintf(`{"holdfast":2,"launch":%q,"signature":%s}`, launch, envelope)
	}
	bomb := packed(make([]byte, 10<<20))
	for name, wrong := range map[string]string{
		"version 1": strings.Replace(string(text), `"holdfast":2`, `"holdfast":1`, 1), "version 3": strings.Replace(string(text), `"holdfast":2`, `"holdfast":3`, 1),
		"a member": strings.Replace(string(text), `"holdfast":2`, `"holdfast":2,"more":1`, 1), "twice": strings.Replace(string(text), `"holdfast":2`, `"holdfast":2,"holdfast":2`, 1),
		"something after": string(text) + "{}", "nothing": "", "no JSON": "#!/bin/sh", "a large one": strings.Repeat(" ", owner.MaxDocument) + string(text),
		"no signature": fmt.Sprintf(`{"holdfast":2,"launch":%q}`, packed(file)), "null": fmt.Sprintf(`{"holdfast":2,"launch":%q,"signature":null}`, packed(file)),
		"a code that is none": strings.Replace(string(text), code, code[1:], 1),
		"not compressed":      with(base64.StdEncoding.EncodeToString(file)), "cut": with(base64.StdEncoding.EncodeToString([]byte{0x1f, 0x8b, 8, 0})), "no Base64": with("..."),
		"a bomb": with(bomb), "bytes after": with(packed(file, 'x')), "two in one": with(packed(file, mustUnbase64(t, packed(file))...)),
		"another file": with(packed(append([]byte("#"), file...))), "empty": with(packed(nil)),
	} {
		if l, _, err := owner.ParseDocument([]byte(wrong)); err == nil || l != nil {
			t.Errorf("%s is taken", name)
		}
	}
	if len(bomb) > owner.MaxDocument {
		t.Errorf("the bomb has %d bytes and is refused for its size", len(bomb))
	}
	if _, _, err := owner.ParseDocument([]byte(with(packed(file)))); err != nil {
		t.Errorf("without a code: %v", err)
	}
}

func mustUnbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDocumentTooLarge: what EC2 would not take is refused where it is made.
func TestDocumentTooLarge(t *testing.T) {
	random := make([]byte, owner.MaxFile)
	state := sha256.Sum256(nil)
	for i := range random {
		if i%len(state) == 0 {
			state = sha256.Sum256(state[:])
		}
		random[i] = state[i%len(state)]
	}
	if _, err := owner.EncodeDocument(random, sign(t, random, 1, newKey(t, 1), nil), ""); err == nil || !strings.Contains(err.Error(), "shorten the launch file") {
		t.Errorf("got %v", err)
	}
}

// TestDisk: a document at the beginning, and zeros.
func TestDisk(t *testing.T) {
	text, err := owner.EncodeDocument(file, sign(t, file, 1, newKey(t, 1), nil), "")
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 64<<10)
	for name, c := range map[string]struct {
		disk []byte
		want []byte
		bad  bool
	}{
		"the document":    {text, text, false},
		"a disk":          {append(bytes.Clone(text), zeros...), text, false},
		"an empty disk":   {zeros, nil, false},
		"no disk":         {nil, nil, false},
		"a file system":   {append([]byte("\xeb\x3c\x90mkfs\x00\x02"), zeros...), []byte("\xeb\x3c\x90mkfs\x00\x02"), true},
		"something later": {append(append(bytes.Clone(text), 0, 0), 'x'), nil, true},
	} {
		got, err := owner.ReadDisk(bytes.NewReader(c.disk))
		if (err != nil) != c.bad || !c.bad && !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

// FuzzParseDocument: any bytes end, and what is taken is signed by the owner it names.
func FuzzParseDocument(f *testing.F) {
	key := newKey(f, 1)
	envelope := sign(f, file, 1, key, nil)
	text, err := owner.EncodeDocument(file, envelope, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"holdfast":2,"launch":"H4sIAAAAAAAA/w==","signature":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, _, err := owner.ParseDocument(text)
		if (l == nil) == (err == nil) {
			t.Fatal("neither a launch file nor an error")
		}
		if l != nil && (len(l.File) > owner.MaxFile || !l.SignedBy(l.Owner)) {
			t.Fatal("what is not signed is taken")
		}
	})
}

// FuzzOpen: any envelope ends, and none but the owner's is taken.
func FuzzOpen(f *testing.F) {
	key := newKey(f, 1)
	f.Add(sign(f, file, 1, key, nil))
	f.Add([]byte(`{"payloadType":"application/vnd.holdfast.launch.v1+json","payload":"e30=","signatures":[{"sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if l, err := owner.Open(file, envelope); err == nil && !l.SignedBy(l.Owner) {
			t.Fatal("what is not signed is taken")
		}
	})
}
