package hsm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/wire"
)

// behaviour is how a vendor's module or HSM behaves, by its documents or its users' reports: see the
// methods of [hsmtest.Shim] for which. None was tried on hardware.
type behaviour struct {
	name string
	// before is set up before the token is opened, then while it serves.
	before, then func(*hsmtest.Shim)
	// ends ends what does not end by itself.
	ends func(*hsmtest.Shim)
	// dialect is the setting.
	dialect string
	// sessions is the setting, if not the default.
	sessions int
	// refused are words of the error with which the token does not open.
	refused string
	// words are of the errors that requests may get, once then has been called: the token is lost,
	// and opened again by itself. None may fail without.
	words string
	// seldom says that it may be that no request fails.
	seldom bool
	// noKeys are words of the error with which the token makes no other keys.
	noKeys string
	// noImport are words of the error with which it takes no key, if it makes keys; imports says that
	// it takes keys, if it makes none.
	noImport string
	imports  bool
	// prepared says that the token has the master key and the probe key already.
	prepared bool
	// beside is the label of a key that the token has besides.
	beside string
	// noData are words of the error with which it makes no data objects.
	noData string
	// keyThere says that it is served nevertheless where the master key is there already.
	keyThere bool
	// all says that the second member of a cluster is of the same vendor.
	all bool
	// pin says that the PIN is tried once in all.
	pin bool
	// hangs says that it is met by a deadline alone, which is a short one then.
	hangs bool
}

// The deadlines of the suite. What is refused is refused within the first.
const (
	vendorOpen = 15 * time.Second
	vendorBack = 20 * time.Second // on a busy machine
)

func vendorConfig(cfg hsm.Config, b *behaviour) hsm.Config {
	cfg.Dialect, cfg.MaxSessions = b.dialect, b.sessions
	if b.hangs { // otherwise they are as in service, and a busy machine is well
		cfg.CallTimeout, cfg.OpenTimeout = time.Second, 3*time.Second
	}
	cfg.Pause = func(int) time.Duration { return 10 * time.Millisecond }
	return cfg
}

func fail(function string, code uint, n int) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.Fail(function, code, n) }
}

func speaks(d hsmtest.Dialect) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.SetDialect(d) }
}

func wrapsKeys(mechanism uint, encrypts bool) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.WithoutGCM(hsmtest.KeyWrap{Mechanism: mechanism, Encrypts: encrypts}) }
}

func allows(l hsmtest.Sessions, delay time.Duration) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) {
		s.LimitSessions(l)
		s.SetDelay(delay)
	}
}

func names(label, id int, silently bool) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.LimitNames(label, id, silently) }
}

func refuses(attribute, code uint) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.Refuse(attribute, code) }
}

func protected(s *hsmtest.Shim) {
	s.Fail("C_GenerateKey", pkcs11.CKR_TOKEN_WRITE_PROTECTED, hsmtest.Always)
	s.Fail("C_CreateObject", pkcs11.CKR_TOKEN_WRITE_PROTECTED, hsmtest.Always)
}

func neighbours(code uint) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.AddNeighbours(2, 1, code) }
}

func stale(s hsmtest.Stale) func(*hsmtest.Shim) {
	return func(shim *hsmtest.Shim) { shim.MakeStale(s) }
}

func away(code uint) func(*hsmtest.Shim) { return func(s *hsmtest.Shim) { s.Away(code) } }

func hangs(function string) func(*hsmtest.Shim) { return func(s *hsmtest.Shim) { s.Hang(function) } }

func does(function string, h hsmtest.Harm) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) { s.Do(function, h, 1) }
}

// also loses the token with a failing call, so that the next opening meets what is given.
func also(then func(*hsmtest.Shim)) func(*hsmtest.Shim) {
	return func(s *hsmtest.Shim) {
		then(s)
		s.Restart()
	}
}

func restore(s *hsmtest.Shim) { s.Restore() }
func release(s *hsmtest.Shim) { s.Release() }

const (
	kwp      = 0x210B // CKM_AES_KEY_WRAP_KWP, PKCS#11 v3.0
	vendorCK = 0x80000384
	lost     = "the token is not available"
	noGCM    = "it lacks CKM_AES_GCM, so a key cannot be of custody hsm; create it with custody cached"
)

var behaviours = []behaviour{
	// How the IV of AES-GCM goes.
	{name: "Luna in FIPS mode", before: speaks(hsmtest.Luna), dialect: "luna-fips", all: true},
	{name: "Luna in FIPS mode, not set", before: speaks(hsmtest.Luna), refused: `CKR_MECHANISM_PARAM_INVALID: the token does not take the parameters of AES-GCM in the dialect "standard"; it may have to make the IV itself, as in FIPS mode: try hsm.dialect "luna-fips",`},
	{name: "Luna 7.9.3 in FIPS mode", before: speaks(hsmtest.Luna793), dialect: "luna-fips", all: true},
	{name: "Luna 7.9.3 in FIPS mode, not set", before: speaks(hsmtest.Luna793), refused: `try hsm.dialect "luna-fips",`},
	{name: "ProtectServer 7.0 in FIPS mode", before: speaks(hsmtest.PTK70), dialect: "protectserver-7.0-fips", all: true},
	{name: "ProtectServer 7.0 in FIPS mode, not set", before: speaks(hsmtest.PTK70), refused: `the token makes the IV itself and puts it behind the tag: set hsm.dialect to "luna-fips" or "protectserver-7.0-fips"`},
	{name: "ProtectServer 7.1 in FIPS mode", before: speaks(hsmtest.PTK71), dialect: "protectserver-fips", all: true},
	{name: "ProtectServer 7.1 in FIPS mode, not set", before: speaks(hsmtest.PTK71), refused: `"protectserver-fips"`},
	{name: "CloudHSM", before: speaks(hsmtest.CloudHSM), dialect: "cloudhsm", all: true},
	{name: "CloudHSM, not set", before: speaks(hsmtest.CloudHSM), refused: `or "cloudhsm"`},
	{name: "CloudHSM, set for Luna", before: speaks(hsmtest.CloudHSM), dialect: "luna-fips", refused: `in the dialect "luna-fips"`, all: true},
	{name: "a standard token, set for CloudHSM", dialect: "cloudhsm", refused: `with hsm.dialect "cloudhsm", the token was to make the IV and did not: set hsm.dialect to "standard"`, all: true},
	{name: "a standard token, set for ProtectServer 7.0", dialect: "protectserver-7.0-fips", refused: `the token was to put its IV behind the tag and did not: set hsm.dialect to "standard", "protectserver-fips" or "cloudhsm"`, all: true},

	// Tokens without AES-GCM.
	{name: "KWP by C_WrapKey", before: wrapsKeys(kwp, false), noKeys: noGCM + ", for which CKM_AES_KEY_WRAP_KWP (0x210B) is enough", all: true},
	{name: "KWP by C_Encrypt", before: wrapsKeys(kwp, true), noKeys: noGCM, all: true},
	{name: "KEY_WRAP_PAD by C_WrapKey", before: wrapsKeys(pkcs11.CKM_AES_KEY_WRAP_PAD, false), noKeys: noGCM + ", for which CKM_AES_KEY_WRAP_PAD (0x210A) is enough", all: true},
	{name: "KEY_WRAP_PAD by C_Encrypt", before: wrapsKeys(pkcs11.CKM_AES_KEY_WRAP_PAD, true), noKeys: noGCM, all: true},
	{name: "neither AES-GCM nor key wrapping", before: wrapsKeys(0, false), refused: "the token lacks a mechanism that is needed: it has neither CKM_AES_GCM (0x1087), nor for wrapping keys CKM_AES_KEY_WRAP_KWP (0x210B) or CKM_AES_KEY_WRAP_PAD (0x210A)"},
	{name: "AES-GCM that is listed and refused", before: fail("C_EncryptInit", pkcs11.CKR_MECHANISM_INVALID, hsmtest.Always), refused: "C_EncryptInit: CKR_MECHANISM_INVALID: the HSM lists a mechanism that it does not do with this key; Holdfast needs CKM_AES_GCM (0x1087)"},
	{name: "AES-GCM that is listed and refused, set to wrap keys", before: fail("C_EncryptInit", pkcs11.CKR_MECHANISM_INVALID, hsmtest.Always), dialect: "key-wrap", noKeys: `hsm.dialect is "key-wrap", without CKM_AES_GCM, so a key cannot be of custody hsm; create it with custody cached`, all: true},
	{name: "set to wrap keys, which it does not", before: (*hsmtest.Shim).WithoutKeyWrap, dialect: "key-wrap", refused: `hsm.dialect is "key-wrap", and it does not wrap keys by CKM_AES_KEY_WRAP_KWP (0x210B)`, all: true},
	{name: "no C_GetMechanismInfo", before: fail("C_GetMechanismInfo", pkcs11.CKR_FUNCTION_NOT_SUPPORTED, hsmtest.Always)},
	{name: "no AES keys", before: fail("C_GenerateKey", pkcs11.CKR_MECHANISM_INVALID, hsmtest.Always), refused: "C_GenerateKey: CKR_MECHANISM_INVALID: the HSM does not make AES keys"},

	// Sessions.
	{name: "16 sessions, told", before: allows(hsmtest.Sessions{Max: 16, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 10*time.Millisecond), sessions: 24},
	{name: "8 sessions, not told", before: allows(hsmtest.Sessions{Max: 8, Code: pkcs11.CKR_SESSION_COUNT}, 15*time.Millisecond)},
	{name: "4 sessions, then CKR_ARGUMENTS_BAD", before: allows(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_ARGUMENTS_BAD}, time.Millisecond)},
	{name: "one session, told", before: allows(hsmtest.Sessions{Max: 1, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 0)},
	{name: "one session, not told", before: allows(hsmtest.Sessions{Max: 1, Code: pkcs11.CKR_SESSION_COUNT}, 0)},
	{name: "14 of 16 sessions are others'", before: allows(hsmtest.Sessions{Max: 16, Others: 14, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 0)},
	{name: "all sessions are others', told", before: allows(hsmtest.Sessions{Max: 16, Others: 16, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, 0), refused: "it allows 16 sessions, and all are in use: one must be free"},
	{name: "all sessions are others', not told", before: allows(hsmtest.Sessions{Max: 16, Others: 16, Code: pkcs11.CKR_SESSION_COUNT}, 0), refused: "C_OpenSession: CKR_SESSION_COUNT: all sessions of the token are in use, and one must be free"},
	{name: "4 sessions, 16 told", before: allows(hsmtest.Sessions{Max: 4, More: 12, Code: pkcs11.CKR_SESSION_COUNT, Told: true}, time.Millisecond)},
	{name: "4 sessions, then CKR_DEVICE_MEMORY", before: allows(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_DEVICE_MEMORY}, time.Millisecond)},
	{name: "others take sessions meanwhile", then: allows(hsmtest.Sessions{Max: 16, Others: 14, Code: pkcs11.CKR_SESSION_COUNT}, time.Millisecond)},
	{name: "sessions that idle out one by one", then: func(s *hsmtest.Shim) { s.EndSessionsAfter(40) }, ends: (*hsmtest.Shim).Reset, words: lost, seldom: true},
	{name: "sessions that idle out all at once", then: func(s *hsmtest.Shim) { s.EndSessionsAfter(2) }, ends: (*hsmtest.Shim).Reset, words: lost},

	// Other slots of the library.
	{name: "neighbours with CKR_DEVICE_ERROR", before: neighbours(pkcs11.CKR_DEVICE_ERROR)},
	{name: "neighbours with CKR_TOKEN_NOT_PRESENT", before: neighbours(pkcs11.CKR_TOKEN_NOT_PRESENT)},
	{name: "neighbours with CKR_TOKEN_NOT_RECOGNIZED", before: neighbours(pkcs11.CKR_TOKEN_NOT_RECOGNIZED)},
	{name: "neighbours with CKR_FUNCTION_FAILED", before: neighbours(pkcs11.CKR_FUNCTION_FAILED)},
	{name: "neighbours that hang", hangs: true, before: neighbours(hsmtest.Always)},

	// Objects.
	{name: "one object a C_FindObjects", before: func(s *hsmtest.Shim) { s.FindOne() }},
	{name: "objects that show late", before: func(s *hsmtest.Shim) { s.HideObjects(2) }},
	{name: "objects that go and come back", then: func(s *hsmtest.Shim) { s.Vanish() }, ends: restore, words: lost},
	{name: "labels of at most 32 bytes", before: names(32, 0, false)},
	{name: "labels cut to 32 bytes", before: names(32, 0, true)},
	{name: "labels of at most 31 bytes", before: names(31, 0, false)},
	{name: "labels of at most 16 bytes", before: names(16, 0, false), noKeys: "its label has 31 bytes, and this HSM may take fewer; keys of custody hsm need labels of 31 bytes: use custody cached", noData: "its label has 31 bytes, and this HSM may take fewer"},
	{name: "labels cut to 16 bytes", before: names(16, 0, true), noKeys: "the HSM has changed its label of 31 bytes to", noData: "the HSM has changed its label of 31 bytes to"},
	{name: "labels cut to 14 bytes", before: names(14, 0, true), refused: "the HSM has changed its label of 15 bytes to \"holdfast-maste\", by which it is not found again; set hsm.master_key_label to a shorter one", keyThere: true},
	{name: "labels cut to 8 bytes", before: names(8, 0, true), refused: "the HSM has changed its label of 1"},
	{name: "CKA_ID of at most 2 bytes", before: names(0, 2, false)},
	{name: "labels padded with blanks", before: func(s *hsmtest.Shim) { s.PadLabels(' ') }},
	{name: "labels with a NUL behind them", before: func(s *hsmtest.Shim) { s.PadLabels(0) }},
	{name: "a search that knows no case", before: func(s *hsmtest.Shim) { s.IgnoreCase() }, beside: "HOLDFAST-MASTER"},
	{name: "a search that finds what is destroyed", before: (*hsmtest.Shim).FindGhosts},
	{name: "objects without a label", before: (*hsmtest.Shim).FindNameless},
	{name: "handles of one session", before: (*hsmtest.Shim).OwnHandles},
	{name: "handles of one session, KWP by C_WrapKey", before: func(s *hsmtest.Shim) { s.OwnHandles(); wrapsKeys(kwp, false)(s) }, noKeys: noGCM, all: true},
	{name: "a handle that is stale", then: fail("C_DecryptInit", pkcs11.CKR_KEY_HANDLE_INVALID, 1)},
	{name: "a handle that is stale, KWP by C_WrapKey", before: wrapsKeys(kwp, false), then: fail("C_UnwrapKey", pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, 1), noKeys: noGCM, all: true},

	// Templates.
	{name: "CKA_PRIVATE in a template", before: refuses(pkcs11.CKA_PRIVATE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID), noData: "CKR_ATTRIBUTE_TYPE_INVALID"},
	{name: "CKA_CLASS in a template", before: refuses(pkcs11.CKA_CLASS, pkcs11.CKR_TEMPLATE_INCONSISTENT), noData: "CKR_TEMPLATE_INCONSISTENT", noImport: "CKR_TEMPLATE_INCONSISTENT"},
	{name: "CKA_SENSITIVE in a template, and keys are not", before: refuses(pkcs11.CKA_SENSITIVE, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID), refused: `it must have CKA_SENSITIVE true and does not`, keyThere: true},
	{name: "CKA_VALUE_LEN in a template", before: refuses(pkcs11.CKA_VALUE_LEN, pkcs11.CKR_TEMPLATE_INCONSISTENT), refused: "C_GenerateKey: CKR_TEMPLATE_INCONSISTENT", keyThere: true},
	{name: "CKA_VALUE_LEN needed to unwrap", before: func(s *hsmtest.Shim) {
		wrapsKeys(kwp, false)(s)
		s.Need(pkcs11.CKA_VALUE_LEN, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	}, noKeys: noGCM, all: true},
	{name: "session keys that can be read are refused", before: func(s *hsmtest.Shim) {
		wrapsKeys(kwp, false)(s)
		s.Fail("C_CreateObject", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, hsmtest.Always)
	}, refused: "C_CreateObject: CKR_ATTRIBUTE_VALUE_INVALID: the HSM does not let the attributes be; a key of custody cached needs a session key that can be read", all: true},
	{name: "CKR_KEY_NOT_WRAPPABLE", before: func(s *hsmtest.Shim) {
		wrapsKeys(kwp, false)(s)
		s.Fail("C_WrapKey", pkcs11.CKR_KEY_NOT_WRAPPABLE, hsmtest.Always)
	}, refused: "C_WrapKey: CKR_KEY_NOT_WRAPPABLE: the HSM does not wrap a session key that can be read", all: true},

	// What a user may not, or the HSM has not.
	{name: "read-only sessions, without the keys", before: (*hsmtest.Shim).ReadOnly, refused: "C_GenerateKey: CKR_SESSION_READ_ONLY: this user may not make keys in the token; allow it, or make the master key and the probe key with the vendor's tool"},
	{name: "read-only sessions", prepared: true, before: (*hsmtest.Shim).ReadOnly, noKeys: "CKR_SESSION_READ_ONLY: this user may not make keys", noData: "CKR_SESSION_READ_ONLY"},
	{name: "CKR_TOKEN_WRITE_PROTECTED for keys", prepared: true, before: protected, noKeys: "CKR_TOKEN_WRITE_PROTECTED", noData: "CKR_TOKEN_WRITE_PROTECTED"},
	{name: "no random numbers", before: fail("C_GenerateRandom", pkcs11.CKR_RANDOM_NO_RNG, hsmtest.Always), refused: "C_GenerateRandom: CKR_RANDOM_NO_RNG: the HSM gives this user no random numbers, of which Holdfast makes all keys"},
	{name: "no C_GenerateRandom", before: fail("C_GenerateRandom", pkcs11.CKR_FUNCTION_NOT_SUPPORTED, hsmtest.Always), refused: "C_GenerateRandom: CKR_FUNCTION_NOT_SUPPORTED: the HSM gives this user no random numbers"},
	{name: "no room for keys", prepared: true, before: fail("C_GenerateKey", pkcs11.CKR_DEVICE_MEMORY, hsmtest.Always), noKeys: "C_GenerateKey: CKR_DEVICE_MEMORY: the HSM has no room for another object", imports: true},

	// A library that must be initialized anew.
	{name: "stale, a vendor's code", then: stale(hsmtest.Stale{Code: vendorCK}), words: "CKR_VENDOR_DEFINED 0x80000384"},
	{name: "stale, CKR_FUNCTION_FAILED", then: stale(hsmtest.Stale{Code: pkcs11.CKR_FUNCTION_FAILED}), words: "CKR_FUNCTION_FAILED"},
	{name: "stale, CKR_GENERAL_ERROR", then: stale(hsmtest.Stale{Code: pkcs11.CKR_GENERAL_ERROR}), words: "CKR_GENERAL_ERROR"},
	{name: "stale, CKR_HOST_MEMORY", then: stale(hsmtest.Stale{Code: pkcs11.CKR_HOST_MEMORY}), words: "CKR_HOST_MEMORY"},
	{name: "stale, CKR_FUNCTION_CANCELED", then: stale(hsmtest.Stale{Code: pkcs11.CKR_FUNCTION_CANCELED}), words: "CKR_FUNCTION_CANCELED"},
	{name: "stale, CKR_DEVICE_ERROR in each function", then: stale(hsmtest.Stale{Code: pkcs11.CKR_DEVICE_ERROR, All: true}), words: "CKR_DEVICE_ERROR"},
	{name: "stale until a new process", then: stale(hsmtest.Stale{Code: pkcs11.CKR_GENERAL_ERROR, All: true, Process: true}), words: "CKR_GENERAL_ERROR"},

	// One code for two meanings, while the network is away.
	{name: "CKR_GENERAL_ERROR for all", then: away(pkcs11.CKR_GENERAL_ERROR), ends: restore, words: lost},
	{name: "CKR_FUNCTION_FAILED for all", then: away(pkcs11.CKR_FUNCTION_FAILED), ends: restore, words: lost},
	{name: "CKR_ENCRYPTED_DATA_INVALID for all", then: fail("C_Decrypt", pkcs11.CKR_ENCRYPTED_DATA_INVALID, hsmtest.Always), ends: (*hsmtest.Shim).Reset, words: lost},
	{name: "CKR_DATA_INVALID for all", then: fail("C_Decrypt", pkcs11.CKR_DATA_INVALID, hsmtest.Always), ends: (*hsmtest.Shim).Reset, words: lost},
	{name: "CKR_GENERAL_ERROR once", then: fail("C_Decrypt", pkcs11.CKR_GENERAL_ERROR, 1)},
	{name: "away when it is opened", before: away(pkcs11.CKR_DEVICE_ERROR), refused: "C_OpenSession: CKR_DEVICE_ERROR"},

	// Calls that do not come back.
	{name: "C_Initialize hangs", hangs: true, before: hangs("C_Initialize"), refused: "the module did not answer in time; its process is ended"},
	{name: "C_GetSlotList hangs", hangs: true, before: hangs("C_GetSlotList"), refused: "the module did not answer in time"},
	{name: "C_OpenSession hangs", hangs: true, before: hangs("C_OpenSession"), refused: "the module did not answer in time"},
	{name: "C_Initialize hangs when it is opened again", hangs: true, then: also(hangs("C_Initialize")), ends: release, words: lost},
	{name: "C_Decrypt hangs", hangs: true, then: func(s *hsmtest.Shim) { s.HangNext("C_Decrypt", 2) }, words: "Unwrap did not end in 1s; the module's process is ended"},
	{name: "C_CloseSession hangs", hangs: true, then: also(hangs("C_CloseSession")), ends: release, words: lost},
	{name: "C_Finalize hangs", hangs: true, then: also(hangs("C_Finalize")), words: lost},
	{name: "50 ms away", before: func(s *hsmtest.Shim) { s.SetDelay(50 * time.Millisecond) }},

	// Login.
	{name: "CKR_PIN_INCORRECT", before: fail("C_Login", pkcs11.CKR_PIN_INCORRECT, hsmtest.Always), refused: "the token refuses the PIN: C_Login: CKR_PIN_INCORRECT; it is not tried again", pin: true},
	{name: "CKR_PIN_LOCKED", before: fail("C_Login", pkcs11.CKR_PIN_LOCKED, hsmtest.Always), refused: "the token refuses the PIN: C_Login: CKR_PIN_LOCKED; it is not tried again", pin: true},
	{name: "CKR_USER_ALREADY_LOGGED_IN", before: fail("C_Login", pkcs11.CKR_USER_ALREADY_LOGGED_IN, hsmtest.Always)},
	{name: "CKR_USER_TOO_MANY_TYPES", before: fail("C_Login", pkcs11.CKR_USER_TOO_MANY_TYPES, hsmtest.Always), refused: "C_Login: CKR_USER_TOO_MANY_TYPES: another user, such as the security officer, is logged in to the token; log that user out"},
	{name: "few attempts are left", before: func(s *hsmtest.Shim) { s.SetTokenFlags(pkcs11.CKF_USER_PIN_COUNT_LOW) }},
	{name: "one attempt is left", before: func(s *hsmtest.Shim) { s.SetTokenFlags(pkcs11.CKF_USER_PIN_FINAL_TRY) }, refused: "the HSM would lock after one more wrong PIN, so it is not tried"},
	{name: "the PIN is locked", before: func(s *hsmtest.Shim) { s.SetTokenFlags(pkcs11.CKF_USER_PIN_LOCKED) }, refused: "it is locked; the HSM's security officer can unlock it"},
	{name: "C_Login ends the process, and counts", before: func(s *hsmtest.Shim) { s.CountLogins(3); s.Do("C_Login", hsmtest.Abort, hsmtest.Always) }, refused: "the module's process has ended", pin: true},
	{name: "C_Login hangs, and counts", hangs: true, before: func(s *hsmtest.Shim) { s.CountLogins(3); s.Hang("C_Login") }, refused: "the module did not answer in time", pin: true},

	// Harm.
	{name: "a segmentation fault", then: does("C_Decrypt", hsmtest.Segfault), words: lost},
	{name: "abort", then: does("C_Decrypt", hsmtest.Abort), words: lost},
	{name: "exit(0)", then: does("C_Decrypt", hsmtest.Exit), words: lost},
	{name: "_exit(0)", then: does("C_Decrypt", hsmtest.ExitAtOnce), words: lost},
	{name: "a segmentation fault in C_Initialize", before: does("C_Initialize", hsmtest.Segfault), refused: "the module's process has ended"},
	{name: "1 GiB is lost", then: does("C_Decrypt", hsmtest.Leak)},
	{name: "all signals are blocked, and it hangs", hangs: true, then: does("C_Decrypt", hsmtest.BlockSignals), words: lost},
	{name: "the PIN is written to stdout and stderr", then: does("C_Decrypt", hsmtest.Write)},
	{name: "a fork that stays", then: does("C_Decrypt", hsmtest.Fork)},
	{name: "a fork in a session of its own", then: does("C_Decrypt", hsmtest.ForkSession)},
	{name: "descriptors are closed", then: does("C_Decrypt", hsmtest.CloseFiles), words: lost},
	{name: "the folder is changed", then: does("C_Decrypt", hsmtest.ChangeFolder)},
	{name: "the environment is cleared", then: does("C_Decrypt", hsmtest.ClearEnvironment)},
}

// TestVendors: what each behaviour comes to with one token.
func TestVendors(t *testing.T) {
	for _, b := range behaviours {
		t.Run(b.name, func(t *testing.T) {
			cfg, shim := hsmtest.NewBehindShim(t)
			b.prepare(t, cfg)
			logins := shim.Calls("C_Login")
			if b.before != nil {
				b.before(shim)
			}
			began := time.Now()
			token, err := hsm.Open(ctx, vendorConfig(cfg, &b))
			if took := time.Since(began); took > vendorOpen {
				t.Errorf("it took %s", took)
			}
			if err == nil {
				defer closeToken(t, token)
			}
			if n := shim.Calls("C_Login") - logins; n > 1 {
				t.Errorf("the PIN was tried %d times", n)
			}
			if b.refused != "" {
				said(t, err, b.refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b.serves(t, token)
			if b.then != nil {
				b.goesOn(t, token, shim)
			}
		})
	}
}

// prepare makes the keys that the token has before the behaviour begins.
func (b *behaviour) prepare(t *testing.T, cfg hsm.Config) {
	t.Helper()
	if !b.prepared && b.beside == "" {
		return
	}
	token, err := hsm.Open(ctx, cfg)
	if err == nil && b.beside != "" {
		err = token.GenerateKey(ctx, b.beside)
	}
	if err = errors.Join(err, token.Close()); err != nil {
		t.Fatal(err)
	}
}

func closeToken(t *testing.T, token *hsm.Token) {
	began := time.Now()
	if err := token.Close(); err != nil || time.Since(began) > vendorOpen {
		t.Errorf("closed after %s: %v", time.Since(began), err)
	}
}

// said demands one line with these words.
func said(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, not %s", err, words)
	}
}

var vendorAAD = []byte("its place")

// serves has the token do all that it is for.
func (b *behaviour) serves(t *testing.T, token *hsm.Token) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, vendorOpen)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			for range 4 {
				secret := []byte{byte(i), 1, 2, 3}
				blob, err := token.Wrap(ctx, secret, vendorAAD)
				if err != nil {
					t.Errorf("wrap: %v", err)
					return
				}
				if got, err := token.Unwrap(ctx, blob, vendorAAD); err != nil || !bytes.Equal(got, secret) {
					t.Errorf("unwrap: %x, %v", got, err)
				}
			}
		})
	}
	clients.Wait()
	blob, err := token.Wrap(ctx, []byte("x"), vendorAAD)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Unwrap(ctx, blob, []byte("another place")); !errors.Is(err, hsm.ErrDecrypt) {
		t.Errorf("with another AAD: %v", err)
	}
	blob[len(blob)-1] ^= 1
	if _, err := token.Unwrap(ctx, blob, vendorAAD); !errors.Is(err, hsm.ErrDecrypt) {
		t.Errorf("a changed blob: %v", err)
	}
	if err := token.Probe(ctx); err != nil {
		t.Errorf("probe: %v", err)
	}
	b.servesKeys(t, ctx, token)
	b.servesData(t, ctx, token)
}

// servesData has the token make data objects, list and remove them, or refuse that and leave nothing.
func (b *behaviour) servesData(t *testing.T, ctx context.Context, token *hsm.Token) {
	t.Helper()
	first := hsm.DataObject{Label: newLabel("holdfast-installation-"), Value: []byte("{}")}
	second := hsm.DataObject{Label: newLabel("holdfast-installation-"), Value: []byte("{}")}
	for _, o := range []hsm.DataObject{first, second} {
		err := token.CreateDataObject(ctx, o, hsm.ReachAny)
		if b.noData != "" {
			if said(t, err, b.noData); !errors.Is(err, hsm.ErrNoDataObjects) {
				t.Errorf("a data object: %v", err)
			}
		} else if err != nil {
			t.Errorf("a data object: %v", err)
		}
	}
	list, err := token.DataObjects(ctx, hsm.ReachAny)
	want := []string{first.Label, second.Label}
	slices.Sort(want)
	if b.noData != "" {
		want = nil
	}
	var got []string
	for _, o := range list {
		got = append(got, o.Label)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("data objects %q: %v, want %q", got, err, want)
	}
	for _, o := range list {
		if err := token.DestroyDataObject(ctx, o); err != nil {
			t.Errorf("remove a data object: %v", err)
		}
	}
}

// newLabel gives a label as long as those that Holdfast makes.
func newLabel(begins string) string {
	return begins + strings.ToLower(rand.Text())[:wire.LongLabel-len(begins)]
}

// servesKeys has the token make a key and use it, or refuse that.
func (b *behaviour) servesKeys(t *testing.T, ctx context.Context, token *hsm.Token) {
	t.Helper()
	label := newLabel("holdfast-01234567-") // as those of external keys are
	err := token.GenerateKey(ctx, label)
	if b.noKeys != "" {
		said(t, err, b.noKeys)
		if err := token.ImportKey(ctx, label, make([]byte, 32)); !b.imports {
			said(t, err, b.noKeys)
		} else if err != nil {
			t.Errorf("import a key: %v", err)
		}
		return
	}
	if imported := newLabel("holdfast-76543210-"); b.noImport != "" {
		said(t, token.ImportKey(ctx, imported, make([]byte, 32)), b.noImport)
	} else if err := token.ImportKey(ctx, imported, make([]byte, 32)); err != nil {
		t.Errorf("import a key: %v", err)
	}
	if err != nil {
		t.Errorf("make a key: %v", err)
		return
	}
	iv, ciphertext, tag, err := token.Encrypt(ctx, label, []byte("plaintext"), vendorAAD)
	if err != nil {
		t.Errorf("encrypt: %v", err)
		return
	}
	if got, err := token.Decrypt(ctx, label, iv, ciphertext, tag, vendorAAD); err != nil || string(got) != "plaintext" {
		t.Errorf("decrypt: %q, %v", got, err)
	}
	if err := token.DestroyKey(ctx, label); err != nil {
		t.Errorf("destroy: %v", err)
	}
}

// goesOn has the behaviour begin while the token is in use. Requests fail with the words, or not at
// all; what is good is never taken for what does not authenticate; and in the end the token serves.
func (b *behaviour) goesOn(t *testing.T, token *hsm.Token, shim *hsmtest.Shim) {
	t.Helper()
	secret := []byte("kept")
	blob, err := token.Wrap(ctx, secret, vendorAAD)
	if err != nil {
		t.Fatal(err)
	}
	request := func() error {
		ctx, cancel := context.WithTimeout(ctx, vendorOpen)
		defer cancel()
		got, err := token.Unwrap(ctx, blob, vendorAAD)
		if err == nil && !bytes.Equal(got, secret) {
			t.Errorf("a request got %q", got)
		}
		return err
	}
	b.then(shim)
	var seen atomic.Bool // the words
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 10 {
				switch err := request(); {
				case err == nil:
				case b.words == "", errors.Is(err, hsm.ErrDecrypt), errors.Is(err, hsm.ErrNotFound):
					t.Errorf("a request got %v", err)
				case strings.Contains(err.Error(), b.words):
					seen.Store(true)
				}
			}
		})
	}
	clients.Wait()
	if b.words != "" && !b.seldom && !seen.Load() {
		t.Errorf("no request got the words %q", b.words)
	}
	if b.ends != nil {
		b.ends(shim)
	}
	eventuallyWithin(t, vendorBack, request)
	b.serves(t, token)
}

func eventuallyWithin(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Since(began) > within {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		time.Sleep(5 * time.Millisecond) // a poll of what comes back by itself
	}
}

// TestVendorsWithASecondMember: of two, one of which is well, no request fails.
func TestVendorsWithASecondMember(t *testing.T) {
	for _, b := range behaviours {
		if b.all && b.refused != "" {
			continue // the setting is wrong for both
		}
		t.Run(b.name, func(t *testing.T) {
			configs, shims := hsmtest.NewPair(t)
			b.prepare(t, configs[0])
			for i := range configs {
				unwell := i == 0 || b.all
				if configs[i] = vendorConfig(configs[i], &b); !unwell {
					configs[i].CallTimeout, configs[i].OpenTimeout = 0, 0
				}
				if b.before != nil && unwell {
					b.before(shims[i])
				}
			}
			logins, began := shims[0].Calls("C_Login"), time.Now()
			c, err := hsm.OpenCluster(ctx, configs)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			if took := time.Since(began); took > vendorOpen {
				t.Errorf("it took %s", took)
			}
			b.clusterServes(t, c, shims[0])
			if b.refused != "" && !b.keyThere {
				until(t, "the first member says why it is not there", func() bool {
					err := c.Members()[0].Probe(t.Context())
					if b.pin { // also if what refuses it is that the first attempt had no answer
						return errors.Is(err, hsm.ErrPINRefused)
					}
					return err != nil && strings.Contains(err.Error(), b.refused)
				})
			}
			if n := shims[0].Calls("C_Login") - logins; b.pin && n != 1 {
				t.Errorf("the PIN was tried %d times", n)
			}
		})
	}
}

// clusterServes has several clients use the cluster while the behaviour begins and ends.
func (b *behaviour) clusterServes(t *testing.T, c *hsm.Cluster, shim *hsmtest.Shim) {
	t.Helper()
	secret := []byte("kept")
	var clients sync.WaitGroup
	begun := make(chan struct{})
	for i := range 6 {
		clients.Go(func() {
			for n := range 10 {
				if n == 1 {
					<-begun
				}
				if err := once(c, append(secret, byte(i))); err != nil {
					t.Errorf("request %d: %v", n, err)
				}
			}
		})
	}
	if b.then != nil {
		b.then(shim)
	}
	close(begun)
	clients.Wait()
	if b.ends != nil {
		b.ends(shim)
	}
	if err := once(c, secret); err != nil {
		t.Errorf("in the end: %v", err)
	}
}

// once is one request: it wraps and unwraps within KMS's patience, as long as a busy machine needs.
func once(c *hsm.Cluster, secret []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	blob, err := c.Wrap(ctx, secret, vendorAAD)
	if err != nil {
		return fmt.Errorf("wrap: %w", err)
	}
	got, err := c.Unwrap(ctx, blob, vendorAAD)
	if err == nil && !bytes.Equal(got, secret) {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// TestMembersOfTwoDialects: two tokens of one cluster, of other models or firmware, each with its own
// dialect and limit of sessions. What one wraps the other unwraps.
func TestMembersOfTwoDialects(t *testing.T) {
	kinds := []struct {
		speaks  hsmtest.Dialect
		dialect string
	}{{hsmtest.Luna, "luna-fips"}, {hsmtest.Luna793, "luna-fips"}, {hsmtest.Standard, "standard"}, {hsmtest.PTK70, "protectserver-7.0-fips"}, {hsmtest.PTK71, "protectserver-fips"}, {hsmtest.CloudHSM, "cloudhsm"}}
	for i, first := range kinds {
		second := kinds[(i+1)%len(kinds)]
		t.Run(fmt.Sprintf("%s and %s", first.dialect, second.dialect), func(t *testing.T) {
			configs, shims := hsmtest.NewPair(t)
			for n, kind := range []struct {
				speaks  hsmtest.Dialect
				dialect string
			}{first, second} {
				shims[n].SetDialect(kind.speaks)
				configs[n] = vendorConfig(configs[n], &behaviour{dialect: kind.dialect, sessions: 2 + n})
			}
			c, err := hsm.OpenCluster(ctx, configs)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			for n, m := range c.Members() {
				if info, err := m.Info(ctx); err != nil || info.Dialect != configs[n].Dialect || info.MaxSessions != 2+n {
					t.Errorf("member %d: dialect %q, %d sessions, %v", n, info.Dialect, info.MaxSessions, err)
				}
			}
			blob, err := c.Wrap(ctx, []byte("of the first"), vendorAAD)
			if err != nil {
				t.Fatal(err)
			}
			for n, shim := range shims { // the other one unwraps what this one has wrapped
				shim.Cut()
				unwrap := func() error {
					_, err := c.Unwrap(ctx, blob, vendorAAD)
					return err
				}
				eventuallyWithin(t, vendorBack, unwrap)
				if blob, err = c.Wrap(ctx, []byte("of the second"), vendorAAD); err != nil {
					t.Fatal(err)
				}
				shim.Restore()
				eventuallyWithin(t, vendorBack, func() error { return c.Members()[n].Probe(ctx) })
			}
		})
	}
}

// TestMembersOfTwoWays: a token that wraps keys and one that has AES-GCM are no cluster, and what to
// do is said; set to wrap keys, they are.
func TestMembersOfTwoWays(t *testing.T) {
	const words = "all tokens with one master key must have AES-GCM, or all must wrap keys"
	for _, without := range []int{0, 1} {
		t.Run(fmt.Sprint(without), func(t *testing.T) {
			configs, shims := hsmtest.NewPair(t)
			shims[without].WithoutGCM(hsmtest.KeyWrap{Mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD})
			for i := range configs {
				configs[i] = vendorConfig(configs[i], &behaviour{})
			}
			c, err := hsm.OpenCluster(ctx, configs)
			if err != nil {
				t.Fatal(err)
			}
			until(t, "one of them says why it is not there", func() bool {
				for _, m := range c.Members() {
					if err := m.Probe(t.Context()); err != nil && strings.Contains(err.Error(), words) {
						return true
					}
				}
				return false
			})
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			for i := range configs {
				configs[i].Dialect = "key-wrap"
			}
			if c, err = hsm.OpenCluster(ctx, configs); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members() {
				if err := m.Probe(ctx); err != nil {
					t.Errorf("set to wrap keys: %v", err)
				}
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
