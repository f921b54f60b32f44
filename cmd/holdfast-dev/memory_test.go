package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring/keyringtest"
	"holdfast/appliance/keyring/scrub"
	"holdfast/cmd/internal/kmsload"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// wayOut takes the key "k" of the key store, or its credential, out of service.
type wayOut struct {
	name string
	take func(ctx context.Context, c *web.Client, keyStore, credential string) error
	// credential says that the credential goes, and not the key.
	credential bool
}

// The ways of an administrator. Those of the domain alone, as Lock and the end of the
// lease, have a test in xks.
var waysOut = []wayOut{
	{name: "block of a key", take: func(ctx context.Context, c *web.Client, keyStore, _ string) error {
		_, err := operation.Block.Call(ctx, c, operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: keyStore, KeyID: "k"}, Reason: "a test"})
		return err
	}},
	{name: "block of a key store", take: func(ctx context.Context, c *web.Client, keyStore, _ string) error {
		_, err := operation.Block.Call(ctx, c, operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: keyStore}, Reason: "a test"})
		return err
	}},
	{name: "key disable", take: func(ctx context.Context, c *web.Client, keyStore, _ string) error {
		_, err := operation.DisableKey.Call(ctx, c, name(keyStore))
		return err
	}},
	{name: "key deletion", take: func(ctx context.Context, c *web.Client, keyStore, _ string) error {
		_, err := operation.ScheduleKeyDeletion.Call(ctx, c, operation.Deletion{KeyName: name(keyStore), Days: 7})
		return err
	}},
	{name: "credential deactivation", credential: true, take: func(ctx context.Context, c *web.Client, keyStore, credential string) error {
		_, err := operation.DeactivateCredential.Call(ctx, c, operation.CredentialName{KeyStoreName: operation.KeyStoreName{KeyStore: keyStore}, Credential: credential})
		return err
	}},
	{name: "credential deletion", credential: true, take: func(ctx context.Context, c *web.Client, keyStore, credential string) error {
		_, err := operation.DeleteCredential.Call(ctx, c, operation.CredentialName{KeyStoreName: operation.KeyStoreName{KeyStore: keyStore}, Credential: credential})
		return err
	}},
	{name: "block of everything", take: func(ctx context.Context, c *web.Client, _, _ string) error { // the last one
		_, err := operation.Block.Call(ctx, c, operation.NewBlock{BlockTarget: appliance.BlockTarget{Everything: true}, Reason: "a test"})
		return err
	}},
}

func name(keyStore string) operation.KeyName {
	return operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: keyStore}, Key: "k"}
}

// TestNothingStaysInMemory: a key that was imported and has encrypted 500 times is in
// locked memory while it serves, and nowhere within a second after it went out of
// service, whatever way it went. So is a credential's secret, with the signing key of
// the day. The appliance is another process, whose garbage collector is left alone.
func TestNothingStaysInMemory(t *testing.T) {
	if !scrub.Enabled {
		keyringtest.Cannot(t, "built without GOEXPERIMENT=runtimesecret")
	}
	p := start(t, t.TempDir())
	memory := keyringtest.Other(p.cmd.Process.Pid)
	client := web.NewClient(p.dev.AdminSocket)
	for i, way := range waysOut {
		t.Run(way.name, func(t *testing.T) {
			keyStore := fmt.Sprintf("store-%d", i)
			kms, roundKeys, text := imported(t, p, client, keyStore)
			memory.Gone(t, "the Base64 of the imported key", text...)
			secret := []byte(kms.SecretAccessKey)
			day := keyringtest.SigningKey(t, secret, time.Now().UTC().Format("20060102"), kmsload.Region, kmsload.Service)
			call := func(path string, body xkstest.Body) (a xkstest.Answer) {
				appliancetest.Eventually(t, path, func() bool { // on a busy machine KMS tries again as well
					a = kms.Call(path, body)
					return a.Status == http.StatusOK
				})
				return a
			}
			for range 250 {
				sealed := call("/keys/k/encrypt", xkstest.EncryptBody("a plaintext")).Body
				call("/keys/k/decrypt", xkstest.DecryptBody(sealed))
				call("/keys/k/encrypt", xkstest.EncryptBody("a plaintext").With("ciphertextDataIntegrityValueAlgorithm", "SHA_256"))
			}
			secrets := roundKeys
			if way.credential {
				secrets = slices.Insert(slices.Collect(maps.Values(day)), 0, day["the signing key"])
			}
			if f := memory.Find(t, secrets[0])[0]; f.Locked != 1 || f.Elsewhere > 1 {
				t.Errorf("while it serves it is %d times in locked memory and %d times elsewhere, want once, and at most once of a request", f.Locked, f.Elsewhere)
			}
			if err := way.take(t.Context(), client, keyStore, kms.AccessKeyID); err != nil {
				t.Fatal(err)
			}
			memory.Gone(t, "after "+way.name, secrets...)
		})
	}
}

// imported makes a key store with the imported key "k", and gives a KMS for it, and
// the patterns of the key and of its Base64.
func imported(t *testing.T, p *process, client *web.Client, keyStore string) (kms *xkstest.KMS, roundKeys, text []keyringtest.Secret) {
	t.Helper()
	if err := client.Do(t.Context(), http.MethodPost, "keystores", operation.NewKeyStore{Name: keyStore, URIPathPrefix: "/" + keyStore}, nil); err != nil {
		t.Fatal(err)
	}
	var credential operation.CreatedCredential
	if err := client.Do(t.Context(), http.MethodPost, web.Path("keystores", keyStore, "credentials"), operation.NewCredential{}, &credential); err != nil {
		t.Fatal(err)
	}
	grant := operation.NewGrant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}}
	if err := client.Do(t.Context(), http.MethodPost, web.Path("keystores", keyStore, "grants"), grant, nil); err != nil {
		t.Fatal(err)
	}
	material := make([]byte, appliance.KeyBytes)
	if _, err := rand.Read(material); err != nil {
		t.Fatal(err)
	}
	roundKeys = keyringtest.AESKey(t, material)
	base64Text := base64.StdEncoding.AppendEncode(nil, material)
	text = []keyringtest.Secret{keyringtest.Hide(base64Text[:20]), keyringtest.Hide(base64Text[20:40])}
	if err := client.Do(t.Context(), http.MethodPost, web.Path("keystores", keyStore, "keys"),
		operation.NewKey{ID: "k", Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached, Material: bytes.Clone(material)}, nil); err != nil {
		t.Fatal(err)
	}
	kms = p.kms()
	kms.T, kms.URL = t, p.dev.XKSURL+"/"+keyStore
	kms.AccessKeyID, kms.SecretAccessKey = credential.AccessKeyID, credential.SecretAccessKey
	return kms, roundKeys, text
}

// TestTextImportedInTheConsoleGoesAtOnce: the text of a key, in Base64 or hexadecimal, is nowhere
// when the import has been answered, whichever way it came.
func TestTextImportedInTheConsoleGoesAtOnce(t *testing.T) {
	if !scrub.Enabled {
		keyringtest.Cannot(t, "built without GOEXPERIMENT=runtimesecret")
	}
	p := start(t, t.TempDir())
	p.alone = "the memory of one process is searched"
	memory := keyringtest.Other(p.cmd.Process.Pid)
	socket := web.NewClient(p.dev.AdminSocket)
	var token operation.CreatedToken
	if err := socket.Do(t.Context(), http.MethodPost, "tokens", operation.NewToken{Name: "t", Role: "administrator", Days: 1, Scope: *identity.Unlimited()}, &token); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(p.dev.CACert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	remote, err := web.NewRemoteClient(p.dev.ConsoleURL, token.Secret, roots)
	if err != nil {
		t.Fatal(err)
	}
	browser := setUp(t, p)
	api := func(c *web.Client) func(id string, material []byte) {
		return func(id string, material []byte) {
			in := operation.NewKey{KeyStoreName: operation.KeyStoreName{KeyStore: "demo"}, ID: id, Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached, Material: bytes.Clone(material)}
			if _, err := operation.CreateKey.Call(t.Context(), c, in); err != nil {
				t.Fatal(err)
			}
		}
	}
	console := func(encode func([]byte) string) func(id string, material []byte) {
		return func(id string, material []byte) {
			browser.Open("/keystores/demo/keys")
			browser.Fill("Create key", "id", id, "material", encode(material))
			browser.Has(id, "Enabled", "imported")
		}
	}
	for way, importKey := range map[string]func(id string, material []byte){
		"admin socket":                 api(socket),
		"HTTPS with an API token":      api(remote),
		"console form, in Base64":      console(base64.StdEncoding.EncodeToString),
		"console form, in hexadecimal": console(hex.EncodeToString),
	} {
		t.Run(way, func(t *testing.T) {
			material := make([]byte, appliance.KeyBytes)
			if _, err := rand.Read(material); err != nil {
				t.Fatal(err)
			}
			var patterns []keyringtest.Secret
			for _, text := range []string{base64.StdEncoding.EncodeToString(material), hex.EncodeToString(material), url.QueryEscape(base64.StdEncoding.EncodeToString(material))} {
				patterns = append(patterns, keyringtest.Hide([]byte(text[:16])), keyringtest.Hide([]byte(text[16:32])))
			}
			id := "imported-" + hex.EncodeToString(material[:4])
			importKey(id, material)
			memory.Gone(t, "the text of the key", append(patterns, keyringtest.AESKey(t, material)...)...)
		})
	}
}
