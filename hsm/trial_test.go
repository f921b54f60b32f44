package hsm_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// trial is a token, and what a trial of it finds.
type trial struct {
	name   string
	before func(*hsmtest.Shim)
	// pin is another PIN than the token's.
	pin string
	// cannot are words of why it cannot serve. Empty if it can.
	cannot string
	// asked says that the PIN is not tried.
	notAsked bool
	// dialect, wrapping and sessions are what is found.
	dialect, wrapping string
	sessions          int
	// Words of what cannot be had; empty if it can.
	noCustody, noID, noData, oneProcess, noForeign string
}

var trialsOfTokens = []trial{
	{name: "SoftHSM2", dialect: "standard", sessions: 16},
	{name: "Luna in FIPS mode", before: speaks(hsmtest.Luna), dialect: "luna-fips", sessions: 16},
	{name: "Luna 7.9.3 in FIPS mode", before: speaks(hsmtest.Luna793), dialect: "luna-fips", sessions: 16},
	{name: "ProtectServer 7.0 in FIPS mode", before: speaks(hsmtest.PTK70), dialect: "protectserver-7.0-fips", sessions: 16},
	{name: "ProtectServer 7.1 in FIPS mode", before: speaks(hsmtest.PTK71), dialect: "protectserver-fips", sessions: 16, noForeign: "does not give back the IV"},
	{name: "CloudHSM", before: speaks(hsmtest.CloudHSM), dialect: "protectserver-fips", sessions: 16, noForeign: "does not give back the IV"},
	{name: "neither AES-GCM nor key wrapping", before: wrapsKeys(0, false), notAsked: true, cannot: "it has neither CKM_AES_GCM (0x1087), nor for wrapping keys CKM_AES_KEY_WRAP_KWP (0x210B)"},
	{name: "key wrapping alone", before: wrapsKeys(kwp, false), wrapping: "CKM_AES_KEY_WRAP_KWP", sessions: 16, noCustody: "lacks CKM_AES_GCM", noForeign: "needs CKM_AES_GCM"},
	{name: "key wrapping for encryption", before: wrapsKeys(pkcs11.CKM_AES_KEY_WRAP_PAD, true), wrapping: "CKM_AES_KEY_WRAP_PAD", sessions: 16, noCustody: "lacks CKM_AES_GCM", noForeign: "needs CKM_AES_GCM"},
	{name: "AES-GCM that it lists and refuses, with key wrapping", before: fail("C_EncryptInit", pkcs11.CKR_MECHANISM_INVALID, hsmtest.Always), dialect: "key-wrap", wrapping: "CKM_AES_KEY_WRAP_PAD", sessions: 16, noCustody: "lacks CKM_AES_GCM, or refuses it", noForeign: "needs CKM_AES_GCM"},
	{name: "AES-GCM that it lists and refuses", before: func(s *hsmtest.Shim) {
		fail("C_EncryptInit", pkcs11.CKR_MECHANISM_INVALID, hsmtest.Always)(s)
		s.WithoutKeyWrap()
	}, cannot: `none of the dialects works: with "standard", C_EncryptInit: CKR_MECHANISM_INVALID: the HSM lists a mechanism`},
	{name: "4 sessions, told", before: allows(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 0), dialect: "standard", sessions: 4},
	{name: "4 sessions, not told", before: allows(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_SESSION_COUNT}, 0), dialect: "standard", sessions: 4},
	{name: "one session", before: allows(hsmtest.Sessions{Max: 1, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 0), dialect: "standard", sessions: 1, noForeign: "it panics"},
	{name: "no session is free", before: allows(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_SESSION_COUNT, Told: true, Others: 4}, 0), notAsked: true, cannot: "it allows 4 sessions, and all are in use"},
	{name: "read-only", before: fail("C_GenerateKey", pkcs11.CKR_TOKEN_WRITE_PROTECTED, hsmtest.Always), cannot: "CKR_TOKEN_WRITE_PROTECTED: this user may not make keys in the token"},
	{name: "labels of 32 bytes", before: names(32, 0, false), dialect: "standard", sessions: 16},
	{name: "labels are cut to 32 bytes", before: names(32, 0, true), dialect: "standard", sessions: 16},
	{name: "labels of 16 bytes", before: names(16, 0, false), dialect: "standard", sessions: 16, noCustody: "CKR_ATTRIBUTE_VALUE_INVALID: its label has 31 bytes", noData: "its label has 31 bytes"},
	{name: "labels are cut to 16 bytes", before: names(16, 0, true), dialect: "standard", sessions: 16, noCustody: "the HSM has changed its label of 31 bytes", noData: "the HSM has changed its label of 31 bytes"},
	{name: "CKA_ID of 2 bytes", before: names(0, 2, false), dialect: "standard", sessions: 16, noID: "CKR_ATTRIBUTE_VALUE_INVALID"},
	{name: "CKA_ID is cut", before: names(0, 2, true), dialect: "standard", sessions: 16, noID: "the HSM makes 2 bytes of it"},
	{name: "no data objects", before: fail("C_CreateObject", pkcs11.CKR_FUNCTION_NOT_SUPPORTED, hsmtest.Always), dialect: "standard", sessions: 16, noData: "the token does not take data objects"},
	{name: "a neighbour fails", before: neighbours(pkcs11.CKR_DEVICE_ERROR), dialect: "standard", sessions: 16, noForeign: "it does not open the token: pkcs11: 0x30: CKR_DEVICE_ERROR"},
	{name: "one object a call", before: (*hsmtest.Shim).FindOne, dialect: "standard", sessions: 16},
	{name: "another PIN", pin: "wrong", cannot: "the token refuses the PIN: C_Login: CKR_PIN_INCORRECT; it is not tried again"},
	{name: "the PIN is nearly locked", before: func(s *hsmtest.Shim) { s.SetTokenFlags(pkcs11.CKF_USER_PIN_FINAL_TRY) }, notAsked: true, cannot: "the HSM would lock after one more wrong PIN"},
	{name: "it crashes", before: does("C_Encrypt", hsmtest.Segfault), cannot: "the module's process has ended"},
	{name: "it hangs", before: hangs("C_Encrypt"), cannot: "the module did not answer in time"},
	{name: "its network goes", before: fail("C_Encrypt", pkcs11.CKR_DEVICE_REMOVED, 1), cannot: "CKR_DEVICE_REMOVED"},
}

// TestTry: what is found, and that nothing else in the token is touched, and nothing is left.
func TestTry(t *testing.T) {
	for _, c := range trialsOfTokens {
		t.Run(c.name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			hsmtest.PutMasterKey(t, cfg, make([]byte, 32))
			before := objects(t, cfg)
			if c.before != nil {
				c.before(shim)
			}
			if c.pin != "" {
				cfg.PIN = []byte(c.pin)
			}
			cfg.OpenTimeout = 3 * time.Second
			logins, asked := shim.Calls("C_Login"), 0
			got, err := hsm.Try(t.Context(), cfg, func(*hsm.Tried) { asked++ })
			if err != nil {
				t.Fatal(err)
			}
			has(t, "cannot serve", got.CannotServe, c.cannot)
			if n := shim.Calls("C_Login") - logins; c.notAsked && n != 0 || c.pin != "" && n != 1 || !c.notAsked && asked != 1 {
				t.Errorf("%d logins, and the caller was told %d times", n, asked)
			}
			if c.cannot == "" {
				c.check(t, got)
			}
			shim.Reset()
			if after := objects(t, cfg); !slices.Equal(after, before) || got.Left != "" {
				t.Errorf("the token had %v, and has %v (%s)", before, after, got.Left)
			}
		})
	}
}

func (c *trial) check(t *testing.T, got *hsm.Tried) {
	t.Helper()
	if got.Dialect != c.dialect || got.Wrapping != c.wrapping || got.Sessions != c.sessions {
		t.Errorf("dialect %q, wrapping %q, %d sessions (%s)", got.Dialect, got.Wrapping, got.Sessions, got.SessionsEnd)
	}
	has(t, "custody hsm", got.NoCustodyHSM, c.noCustody)
	has(t, "CKA_ID", got.NoLongID, c.noID)
	has(t, "data objects", got.NoDataObjects, c.noData)
	has(t, "a second process", got.OneProcess, c.oneProcess)
	has(t, "crypto11", got.NotForeign, c.noForeign)
	if len(got.Times) != 3 || got.Times[1].Microseconds <= 0 {
		t.Errorf("times: %v", got.Times)
	}
}

func has(t *testing.T, what, got, want string) {
	t.Helper()
	if (want == "") != (got == "") || !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestTryInterrupted: what was made is destroyed also if the caller gives up.
func TestTryInterrupted(t *testing.T) {
	for _, function := range []string{"C_Encrypt", "C_Decrypt", "C_CreateObject"} {
		t.Run(function, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			before := objects(t, cfg)
			shim.HangNext(function, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for n := shim.Calls(function); shim.Calls(function) == n && ctx.Err() == nil; {
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
			if _, err := hsm.Try(ctx, cfg, func(*hsm.Tried) {}); err == nil || strings.Contains(err.Error(), "left in the token") {
				t.Errorf("it ends with %v", err)
			}
			shim.Reset()
			if after := objects(t, cfg); !slices.Equal(after, before) {
				t.Errorf("the token had %v, and has %v", before, after)
			}
		})
	}
}

// TestTryOneProcess: a token that only one process can use at a time serves, and that is said.
func TestTryOneProcess(t *testing.T) {
	cfg, shim := hsmtest.NewBehindShim(t)
	before := objects(t, cfg)
	shim.SetDelayOf("C_GenerateRandom", 50*time.Millisecond) // so that the first process is still at work
	began := shim.Calls("C_GenerateRandom")
	go func() {
		for shim.Calls("C_GenerateRandom") == began && t.Context().Err() == nil {
			time.Sleep(time.Millisecond) // a poll
		}
		shim.Fail("C_Login", pkcs11.CKR_USER_TOO_MANY_TYPES, hsmtest.Always)
	}()
	got, err := hsm.Try(t.Context(), cfg, func(*hsm.Tried) {})
	if err != nil {
		t.Fatal(err)
	}
	has(t, "cannot serve", got.CannotServe, "")
	has(t, "a second process", got.OneProcess, "CKR_USER_TOO_MANY_TYPES")
	has(t, "crypto11", got.NotForeign, "it does not open the token")
	shim.Reset()
	if after := objects(t, cfg); !slices.Equal(after, before) || got.Left != "" {
		t.Errorf("the token had %v, and has %v (%s)", before, after, got.Left)
	}
}

// objects are the secret keys and data objects of a token, with their labels.
func objects(t *testing.T, cfg hsm.Config) (all []string) {
	t.Helper()
	// The cached objects of this process are those of when it logged in: a search has it look again.
	p, s := hsmtest.ByHand(t, cfg)
	for _, class := range []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_DATA} {
		if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}); err != nil {
			t.Fatal(err)
		}
		found, _, err := p.FindObjects(s, 100)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.FindObjectsFinal(s); err != nil {
			t.Fatal(err)
		}
		for _, o := range found {
			a, err := p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%d %s", class, a[0].Value))
		}
	}
	slices.Sort(all)
	return all
}
