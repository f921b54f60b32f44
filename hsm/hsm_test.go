package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

var ctx = context.Background()

// open opens a token whose reopening does not pause.
func open(t *testing.T, cfg hsm.Config) *hsm.Token {
	t.Helper()
	if cfg.Pause == nil {
		cfg.Pause = func(int) time.Duration { return time.Millisecond }
	}
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

var aes256 = pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)

// makeKey makes an AES key by hand.
func makeKey(t *testing.T, cfg hsm.Config, label string, attributes ...*pkcs11.Attribute) {
	t.Helper()
	p, s := hsmtest.ByHand(t, cfg)
	template := append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
	}, attributes...)
	if _, err := p.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrips(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 12, 16, 17, 4300} {
		for _, aadSize := range []int{0, 1, 33, 8195, 65000} {
			plaintext, aad := bytes.Repeat([]byte{7}, size), bytes.Repeat([]byte{9}, aadSize)
			iv, ct, tag, err := token.Encrypt(ctx, "k", plaintext, aad)
			if err != nil || len(iv) != 12 || len(ct) != size || len(tag) != 16 {
				t.Fatalf("%d bytes, AAD of %d: %v, IV %d, ciphertext %d, tag %d", size, aadSize, err, len(iv), len(ct), len(tag))
			}
			got, err := token.Decrypt(ctx, "k", iv, ct, tag, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Fatalf("%d bytes, AAD of %d: %v", size, aadSize, err)
			}
		}
	}
	blob, err := token.Wrap(ctx, []byte("a secret"), []byte("its place"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.Unwrap(ctx, blob, []byte("its place")); err != nil || string(got) != "a secret" {
		t.Errorf("unwrap: %q %v", got, err)
	}
	for name, b := range map[string][]byte{"another format": append([]byte{9}, blob[1:]...), "cut": blob[:20], "empty": nil,
		"changed": append(bytes.Clone(blob[:len(blob)-1]), blob[len(blob)-1]^1)} {
		if _, err := token.Unwrap(ctx, b, []byte("its place")); !errors.Is(err, hsm.ErrDecrypt) {
			t.Errorf("unwrap of what is %s: %v", name, err)
		}
	}
	if _, err := token.Unwrap(ctx, blob, []byte("another place")); !errors.Is(err, hsm.ErrDecrypt) {
		t.Errorf("unwrap in another place: %v", err)
	}
	a, err := token.Random(ctx, 32)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := token.Random(ctx, 32); err != nil || bytes.Equal(a, b) || len(b) != 32 {
		t.Errorf("random: %x %x %v", a, b, err)
	}
	if err := token.Probe(ctx); err != nil {
		t.Error(err)
	}
	info, err := token.Info(ctx)
	if err != nil || info.Label != cfg.TokenLabel || info.Manufacturer != "SoftHSM project" || info.Model != "SoftHSM v2" || info.Serial == "" || info.Firmware == "" {
		t.Errorf("info: %+v %v", info, err)
	}
}

func TestDecryptRefuses(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	iv, ct, tag, err := token.Encrypt(ctx, "k", []byte("plaintext"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
	for name, c := range map[string][4][]byte{
		"IV":             {flip(iv), ct, tag, []byte("aad")},
		"ciphertext":     {iv, flip(ct), tag, []byte("aad")},
		"tag":            {iv, ct, flip(tag), []byte("aad")},
		"AAD":            {iv, ct, tag, []byte("daa")},
		"boundary":       {iv, append(bytes.Clone(ct), tag[0]), tag[1:], []byte("aad")},
		"short tag":      {iv, ct, tag[:12], []byte("aad")},
		"IV of 13 bytes": {append(bytes.Clone(iv), 0), ct, tag, []byte("aad")},
		"no IV":          {nil, ct, tag, []byte("aad")},
	} {
		if _, err := token.Decrypt(ctx, "k", c[0], c[1], c[2], c[3]); !errors.Is(err, hsm.ErrDecrypt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What does not authenticate is no reason to give the token up.
	if got, err := token.Decrypt(ctx, "k", iv, ct, tag, []byte("aad")); err != nil || string(got) != "plaintext" {
		t.Errorf("%q %v", got, err)
	}
}

func TestKeys(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if err := token.GenerateKey(ctx, "k"); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("generate again: %v", err)
	}
	if err := token.ImportKey(ctx, "k", make([]byte, 32)); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("import over it: %v", err)
	}
	if err := token.ImportKey(ctx, "short", make([]byte, 16)); err == nil {
		t.Error("a key of 16 bytes was imported")
	}
	if err := token.ImportKey(ctx, "imported", bytes.Repeat([]byte{1}, 32)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := token.Encrypt(ctx, "imported", []byte("x"), nil); err != nil {
		t.Error(err)
	}
	if _, _, _, err := token.Encrypt(ctx, "absent", []byte("x"), nil); !errors.Is(err, hsm.ErrNotFound) || !strings.Contains(err.Error(), `"absent"`) {
		t.Errorf("an absent key: %v", err)
	}
	if err := token.DestroyKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := token.Encrypt(ctx, "k", []byte("x"), nil); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("a destroyed key: %v", err)
	}
	if err := token.DestroyKey(ctx, "k"); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("destroy again: %v", err)
	}
	// A key object that another program destroyed and made again has another
	// handle: the one that is remembered is stale.
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := token.Encrypt(ctx, "k", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	destroyByHand(t, cfg, "k")
	makeKey(t, cfg, "k", aes256)
	if _, _, _, err := token.Encrypt(ctx, "k", []byte("x"), nil); err != nil {
		t.Errorf("with a stale handle: %v", err)
	}
}

// destroyByHand destroys the key object as another program would, in the token
// that is open already.
func destroyByHand(t *testing.T, cfg hsm.Config, label string) {
	t.Helper()
	p, s := hsmtest.ByHand(t, cfg)
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := p.FindObjects(s, 2)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := errors.Join(p.FindObjectsFinal(s), p.DestroyObject(s, found[0])); err != nil {
		t.Fatal(err)
	}
}

// TestProbeUsesMasterKey: a token whose master key was deleted, or replaced by one of
// the same name, does not pass its test, though it answers.
func TestProbeUsesMasterKey(t *testing.T) {
	for name, replace := range map[string]bool{"deleted": false, "replaced": true} {
		t.Run(name, func(t *testing.T) {
			cfg := hsmtest.New(t)
			token := open(t, cfg)
			if err := token.Probe(ctx); err != nil {
				t.Fatal(err)
			}
			destroyByHand(t, cfg, "holdfast-master")
			if replace {
				other := cfg
				other.MasterKeyLabel, other.ProbeKeyLabel = "another", "holdfast-master"
				open(t, other)
			}
			if err := token.Probe(ctx); err == nil || !strings.Contains(err.Error(), `master key "holdfast-master" is gone or is another one`) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestOwnKeysStay: a token never destroys its master key or its probe key, whatever
// they are called, and not those of another member of the cluster.
func TestOwnKeysStay(t *testing.T) {
	for name, labels := range map[string][2]string{
		"default":              {"holdfast-master", "holdfast-probe"},
		"configured":           {"bank-root", "bank-test"},
		"called like key rows": {"holdfast-key-0123456789abcdef0123456789abcdef", "holdfast-key-fedcba9876543210fedcba9876543210"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := hsmtest.NewBehindShim(t)
			cfg.MasterKeyLabel, cfg.ProbeKeyLabel = labels[0], labels[1]
			token := open(t, cfg)
			for _, label := range labels {
				if err := token.DestroyKey(ctx, label); !errors.Is(err, hsm.ErrOwnKey) || errors.Is(err, hsm.ErrNotFound) {
					t.Errorf("%s: %v", label, err)
				}
				if _, _, _, err := token.Encrypt(ctx, label, []byte("x"), nil); err != nil {
					t.Errorf("%s: %v", label, err)
				}
			}
		})
	}
}

// TestAwayIsNotNotFound: what is not found while a lost token is opened again, be it
// the token or its master key, is no word about a key object; nor is what a token
// says that has lost the login.
func TestAwayIsNotNotFound(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, hsm.Config, *hsmtest.Shim){
		"master key gone": func(t *testing.T, cfg hsm.Config, shim *hsmtest.Shim) {
			destroyByHand(t, cfg, "holdfast-master")
			shim.Restart()
		},
		"token gone": func(t *testing.T, cfg hsm.Config, shim *hsmtest.Shim) {
			shim.Fail("C_GetTokenInfo", pkcs11.CKR_TOKEN_NOT_PRESENT, 1<<20)
			shim.Restart()
		},
		"login lost": func(t *testing.T, cfg hsm.Config, shim *hsmtest.Shim) {
			shim.Fail("C_GetSessionInfo", pkcs11.CKR_SESSION_HANDLE_INVALID, 1)
			shim.Fail("C_GetTokenInfo", pkcs11.CKR_TOKEN_NOT_PRESENT, 1<<20)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			cfg.Pause = func(int) time.Duration { return time.Millisecond }
			token := open(t, cfg)
			if _, _, _, err := token.Encrypt(ctx, "absent", []byte("x"), nil); !errors.Is(err, hsm.ErrNotFound) || errors.Is(err, hsm.ErrUnavailable) {
				t.Fatalf("before: %v", err)
			}
			lose(t, cfg, shim)
			check := func(err error) {
				t.Helper()
				if !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrNotFound) {
					t.Errorf("got %v", err)
				}
			}
			_, _, _, err := token.Encrypt(ctx, "absent", []byte("x"), nil)
			check(err)
			eventually(t, func() error { // it was tried to open it again
				err := token.DestroyKey(ctx, "absent")
				check(err)
				if !strings.Contains(err.Error(), "not found") {
					return err
				}
				return nil
			})
		})
	}
}

func TestAmbiguousKeys(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	makeKey(t, cfg, "twice", aes256)
	makeKey(t, cfg, "twice", aes256)
	if _, _, _, err := token.Encrypt(ctx, "twice", []byte("x"), nil); !errors.Is(err, hsm.ErrAmbiguous) {
		t.Errorf("encrypt: %v", err)
	}
	if err := token.DestroyKey(ctx, "twice"); !errors.Is(err, hsm.ErrAmbiguous) {
		t.Errorf("destroy: %v", err)
	}
	makeKey(t, cfg, "holdfast-master", aes256)
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.Open(ctx, cfg); !errors.Is(err, hsm.ErrAmbiguous) || !strings.Contains(err.Error(), "holdfast-master") {
		t.Errorf("two master keys: %v", err)
	}
}

func TestMasterKeyMustBeProtected(t *testing.T) {
	sensitive, stays := pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)
	for name, tt := range map[string]struct {
		attributes []*pkcs11.Attribute
		want       string
	}{
		"extractable":   {[]*pkcs11.Attribute{aes256, sensitive, pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)}, "CKA_EXTRACTABLE"},
		"not sensitive": {[]*pkcs11.Attribute{aes256, pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), stays}, "CKA_SENSITIVE"},
		"AES-128":       {[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16), sensitive, stays}, "CKA_VALUE_LEN"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := hsmtest.NewBehindShim(t)
			first := open(t, cfg)
			makeKey(t, cfg, "weak", tt.attributes...)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.MasterKeyLabel = "weak"
			if _, err := hsm.Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	both := cfg
	both.TokenSerial = "1"
	neither := cfg
	neither.TokenLabel = ""
	absent := cfg
	absent.TokenLabel = "absent"
	noModule := cfg
	noModule.Module = "/nonexistent.so"
	for name, tt := range map[string]struct {
		cfg  hsm.Config
		is   error
		want string
	}{
		"label and serial": {both, nil, "not by both"},
		"no name":          {neither, nil, "by its label"},
		"absent token":     {absent, hsm.ErrNotFound, `"absent"`},
		"absent module":    {noModule, hsm.ErrNotFound, "/nonexistent.so"},
	} {
		_, err := hsm.Open(ctx, tt.cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) || (tt.is != nil && !errors.Is(err, tt.is)) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	twin := cfg
	first := open(t, cfg)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// Another token of the same label. Create would keep the one there is.
	other, _ := hsmtest.NewBehindShim(t)
	relabel(t, other, cfg.TokenLabel)
	if _, err := hsm.Open(ctx, twin); !errors.Is(err, hsm.ErrAmbiguous) {
		t.Errorf("two tokens of one label: %v", err)
	}
}

// relabel gives a token, made anew, the label of another.
func relabel(t *testing.T, cfg hsm.Config, label string) {
	t.Helper()
	p := pkcs11.New(cfg.Module)
	if err := p.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Finalize() }()
	slots, err := p.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := p.GetTokenInfo(slot); err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			if err := p.InitToken(slot, "12345678", label); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no free slot")
}

func TestOpenBySerial(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	info, err := token.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	bySerial := cfg
	bySerial.TokenLabel, bySerial.TokenSerial = "", info.Serial
	again, err := open(t, bySerial).Info(ctx)
	if err != nil || again.Label != cfg.TokenLabel {
		t.Errorf("%+v %v", again, err)
	}
}

// TestWrongPIN is tried once: when opening, and when opening anew.
func TestWrongPIN(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	wrong := cfg
	wrong.PIN = []byte("not the PIN")
	before := shim.Calls("C_Login")
	_, err := hsm.Open(ctx, wrong)
	if !errors.Is(err, hsm.ErrPINRefused) || !strings.Contains(err.Error(), "CKR_PIN_INCORRECT") || strings.Contains(err.Error(), "not the PIN") {
		t.Errorf("got %v", err)
	}
	if n := shim.Calls("C_Login") - before; n != 1 {
		t.Errorf("%d logins instead of one", n)
	}

	// The PIN is changed while the token is lost.
	token := open(t, cfg)
	before = shim.Calls("C_Login")
	shim.Fail("C_Login", pkcs11.CKR_PIN_INCORRECT, 1000)
	shim.Restart()
	eventually(t, func() error {
		err := token.Probe(ctx)
		if !errors.Is(err, hsm.ErrPINRefused) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	for range 20 {
		_ = token.Probe(ctx)
	}
	if n := shim.Calls("C_Login") - before; n != 1 {
		t.Errorf("%d logins instead of one", n)
	}
}

// TestLockedPIN: SoftHSM2 itself never locks, so the shim says it.
func TestLockedPIN(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	for _, c := range []uint{pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED} {
		shim.Fail("C_Login", c, 1)
		if _, err := hsm.Open(ctx, cfg); !errors.Is(err, hsm.ErrPINRefused) {
			t.Errorf("%x: %v", c, err)
		}
	}
	open(t, cfg)
}

// eventually waits for what happens in the background, without a fixed time.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestLostSessions cost a retry each, unnoticed.
func TestLostSessions(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	logins := shim.Calls("C_Login")
	for _, function := range []string{"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"} {
		for _, c := range []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED} {
			shim.Fail(function, c, 1)
			if err := token.Probe(ctx); err != nil {
				t.Errorf("%s %x: %v", function, c, err)
			}
		}
	}
	if shim.Calls("C_Login") != logins {
		t.Error("the token was opened anew for a lost session")
	}
}

// TestRestartedToken is noticed, fails fast meanwhile, and is back by itself
// with everything that was wrapped.
func TestRestartedToken(t *testing.T) {
	for name, lose := range map[string]func(*hsmtest.Shim){
		"restart":       (*hsmtest.Shim).Restart,
		"device error":  func(s *hsmtest.Shim) { s.Fail("C_EncryptInit", pkcs11.CKR_DEVICE_ERROR, 1) },
		"not logged in": func(s *hsmtest.Shim) { s.Fail("C_EncryptInit", pkcs11.CKR_USER_NOT_LOGGED_IN, 1) },
		"general error": func(s *hsmtest.Shim) {
			s.Fail("C_EncryptInit", pkcs11.CKR_GENERAL_ERROR, 1)
			s.Fail("C_GetSessionInfo", pkcs11.CKR_GENERAL_ERROR, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			token := open(t, cfg)
			blob, err := token.Wrap(ctx, []byte("kept"), nil)
			if err != nil {
				t.Fatal(err)
			}
			lose(shim)
			err = token.Probe(ctx)
			if !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "CKR_") {
				t.Errorf("the loss: %v", err)
			}
			eventually(t, func() error { return token.Probe(ctx) })
			if got, err := token.Unwrap(ctx, blob, nil); err != nil || string(got) != "kept" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

// TestTokenAway for a while: every operation says so at once, and the attempts
// pause longer and longer.
func TestTokenAway(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	var mu sync.Mutex
	var pauses []int
	cfg.Pause = func(attempt int) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		pauses = append(pauses, attempt)
		return time.Millisecond
	}
	token := open(t, cfg)
	shim.Cut()
	eventually(t, func() error {
		if err := token.Probe(ctx); !errors.Is(err, hsm.ErrUnavailable) {
			return fmt.Errorf("got %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(pauses) < 5 {
			return errors.New("it is not tried again")
		}
		return nil
	})
	shim.Restore()
	eventually(t, func() error { return token.Probe(ctx) })
	mu.Lock()
	defer mu.Unlock()
	for i, p := range pauses {
		if p != i {
			t.Fatalf("the attempts are counted %v", pauses)
		}
	}
}

// TestAnotherMasterKey after the token was away is not accepted, and none is
// made in the place of one that is gone: it would be taken for the right one
// at the next start, or make its label ambiguous when that is back.
func TestAnotherMasterKey(t *testing.T) {
	for name, tt := range map[string]struct {
		generate bool
		want     string
	}{
		"another": {true, "not the one there was"},
		"gone":    {false, "is this the right token"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			token := open(t, cfg)
			destroyByHand(t, cfg, "holdfast-master")
			if tt.generate {
				if err := token.GenerateKey(ctx, "holdfast-master"); err != nil {
					t.Fatal(err)
				}
			}
			shim.Restart()
			eventually(t, func() error {
				if err := token.Probe(ctx); err == nil || !strings.Contains(err.Error(), tt.want) {
					return fmt.Errorf("got %w", err)
				}
				return nil
			})
			if err := token.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.MasterKeyExists = true
			again, err := hsm.Open(ctx, cfg)
			if err == nil {
				err = again.Close()
			}
			if tt.generate == errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("opened again where the master key must exist: %v", err)
			}
		})
	}
}

// TestHangingCall does not hang its caller, nor the others.
func TestHangingCall(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	cfg.MaxSessions = 2
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	iv, ct, tag, err := token.Encrypt(ctx, "k", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	shim.Hang("C_Encrypt")
	for range 2 {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, _, _, err := token.Encrypt(short, "k", []byte("x"), nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hanging call: %v", err)
		}
	}
	// Both sessions hang: who comes now waits for one, within its time.
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	_, err = token.Decrypt(short, "k", iv, ct, tag, nil)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no session is free") {
		t.Errorf("without a free session: %v", err)
	}
	shim.Release()
	if got, err := token.Decrypt(ctx, "k", iv, ct, tag, nil); err != nil || string(got) != "x" {
		t.Errorf("afterwards: %q %v", got, err)
	}
}

// TestLeftEarly: who has gone before the question is sent costs no process.
func TestLeftEarly(t *testing.T) {
	cfg := hsmtest.New(t)
	cfg.MaxSessions = 1
	cfg.CallTimeout = 500 * time.Millisecond
	token := open(t, cfg)
	gone, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	<-gone.Done()
	if _, err := token.Random(gone, 8); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if i, err := token.Info(ctx); err != nil || i.Process.Starts != 1 {
		t.Errorf("%d processes, %v", i.Process.Starts, err)
	}
}

// TestCancelled: a caller that leaves is noticed though its deadline is far, in a call and in the
// wait for a session, and the process stays.
func TestCancelled(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	cfg.MaxSessions = 1
	cfg.CallTimeout = time.Minute
	token := open(t, cfg)
	shim.Hang("C_GenerateRandom")
	for _, want := range []string{"did not answer", "no session is free"} {
		far, cancel := context.WithTimeout(ctx, 30*time.Second)
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := token.Random(far, 8); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
	shim.Release()
	if i, err := token.Info(ctx); err != nil || i.Process.Starts != 1 {
		t.Errorf("%d processes, %v", i.Process.Starts, err)
	}
}

// TestSessionsAreBounded however many come at once.
func TestSessionsAreBounded(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	cfg.MaxSessions = 4
	token := open(t, cfg)
	shim.SetDelay(2 * time.Millisecond)
	before := shim.Calls("C_OpenSession")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := token.Probe(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := shim.Calls("C_OpenSession") - before; n > 4 {
		t.Errorf("%d sessions were opened", n)
	}
}

func TestClosed(t *testing.T) {
	cfg, _ := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	if err := errors.Join(token.Close(), token.Close()); err != nil {
		t.Error(err)
	}
	if err := token.Probe(ctx); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("got %v", err)
	}
	// And while it is away.
	cfg2, shim := hsmtest.NewBehindShim(t)
	away := open(t, cfg2)
	shim.Cut()
	_ = away.Probe(ctx)
	if err := away.Close(); err != nil {
		t.Error(err)
	}
}

// TestErrorsKeepTheirName in PKCS#11's words.
func TestErrorsKeepTheirName(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	shim.Fail("C_EncryptInit", pkcs11.CKR_MECHANISM_INVALID, 1)
	err := token.Probe(ctx)
	var e *hsm.Error
	if !errors.As(err, &e) || e.Op != "C_EncryptInit" || e.Name != "CKR_MECHANISM_INVALID" || e.Code != pkcs11.CKR_MECHANISM_INVALID {
		t.Errorf("got %v", err)
	}
}

// TestLossUnderLoad: operations of all kinds while the token comes and goes.
func TestLossUnderLoad(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	token := open(t, cfg)
	if err := token.GenerateKey(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				iv, ct, tag, err := token.Encrypt(ctx, "k", []byte("plaintext"), nil)
				if err != nil {
					if !errors.Is(err, hsm.ErrUnavailable) {
						t.Error(err)
					}
					continue
				}
				got, err := token.Decrypt(ctx, "k", iv, ct, tag, nil)
				if err != nil && !errors.Is(err, hsm.ErrUnavailable) || err == nil && string(got) != "plaintext" {
					t.Errorf("%q %v", got, err)
				}
			}
		})
	}
	for range 10 {
		shim.Restart()
		eventually(t, func() error { return token.Probe(ctx) })
	}
	close(stop)
	wg.Wait()
}

func BenchmarkEncrypt(b *testing.B) {
	cfg, _ := hsmtest.NewBehindShim(b)
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer token.Close()
	if err := token.GenerateKey(ctx, "k"); err != nil {
		b.Fatal(err)
	}
	plaintext := make([]byte, 64)
	for b.Loop() {
		if _, _, _, err := token.Encrypt(ctx, "k", plaintext, nil); err != nil {
			b.Fatal(err)
		}
	}
}
