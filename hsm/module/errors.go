package module

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/wire"
)

// wrap gives an error of the binding its function and its CKR_ name, with advice; other errors
// pass with the function's name.
func wrap(function string, err error) error {
	if err == nil {
		return nil
	}
	p, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", function, err)
	}
	e := valueOf(function, p)
	for _, a := range advice {
		if a.code == e.Code && slices.Contains(a.functions, function) {
			return fmt.Errorf("%w: %s", e, a.text)
		}
	}
	return e
}

// valueOf gives an error of the binding its function and its CKR_ name.
func valueOf(function string, p pkcs11.Error) *wire.Error {
	name := p.Error()
	if i := strings.LastIndex(name, ": "); i >= 0 && name[i+2:] != "" {
		name = name[i+2:]
	} else {
		name = fmt.Sprintf("CKR_VENDOR_DEFINED 0x%X", uint(p))
	}
	return &wire.Error{Op: function, Name: name, Code: uint(p)}
}

// advice is what return values mean here, and what to do.
var advice = []struct {
	code      uint
	functions []string
	text      string
}{
	{pkcs11.CKR_MECHANISM_INVALID, []string{"C_EncryptInit", "C_DecryptInit"}, "the HSM lists a mechanism that it does not do with this key; Holdfast needs CKM_AES_GCM (0x1087), or else CKM_AES_KEY_WRAP_KWP (0x210B): allow one in the HSM's policy, and set hsm.dialect to \"key-wrap\" if it is not the first"},
	{pkcs11.CKR_MECHANISM_INVALID, []string{"C_WrapKey", "C_UnwrapKey"}, "the HSM lists a mechanism that it does not do with this key; Holdfast needs CKM_AES_KEY_WRAP_KWP (0x210B) where CKM_AES_GCM is missing: allow one in the HSM's policy"},
	{pkcs11.CKR_MECHANISM_INVALID, []string{"C_GenerateKey"}, "the HSM does not make AES keys; allow CKM_AES_KEY_GEN (0x1080) in its policy"},
	{pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, []string{"C_EncryptInit", "C_DecryptInit", "C_WrapKey", "C_UnwrapKey"}, "the HSM's policy does not permit this use of the key; allow encryption and decryption, or wrapping and unwrapping, to this user"},
	{pkcs11.CKR_SESSION_COUNT, []string{"C_OpenSession"}, "all sessions of the token are in use, and one must be free; end other users of the token, or allow more sessions in the HSM"},
	{pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, []string{"C_Login"}, "another user, such as the security officer, is logged in to the token; log that user out"},
	{pkcs11.CKR_USER_TOO_MANY_TYPES, []string{"C_Login"}, "another user, such as the security officer, is logged in to the token; log that user out"},
	{pkcs11.CKR_TOKEN_WRITE_PROTECTED, []string{"C_OpenSession", "C_GenerateKey"}, mayNotMake},
	{pkcs11.CKR_SESSION_READ_ONLY, []string{"C_GenerateKey", "C_CreateObject"}, mayNotMake},
	{pkcs11.CKR_KEY_NOT_WRAPPABLE, []string{"C_WrapKey"}, "the HSM does not wrap a session key that can be read, which custody cached needs where CKM_AES_GCM is missing; allow this user to wrap keys with the master key, or allow CKM_AES_GCM"},
	{pkcs11.CKR_KEY_UNEXTRACTABLE, []string{"C_WrapKey"}, "the HSM does not wrap a session key that can be read, which custody cached needs where CKM_AES_GCM is missing; allow this user to wrap keys with the master key, or allow CKM_AES_GCM"},
	{pkcs11.CKR_DEVICE_MEMORY, []string{"C_GenerateKey", "C_CreateObject"}, "the HSM has no room for another object; destroy with the vendor's tool what nothing needs, or give the token more room"},
	{pkcs11.CKR_RANDOM_NO_RNG, []string{"C_GenerateRandom"}, noRandom},
	{pkcs11.CKR_FUNCTION_NOT_SUPPORTED, []string{"C_GenerateRandom"}, noRandom},
	{pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, []string{"C_CreateObject", "C_UnwrapKey"}, notReadable},
	{pkcs11.CKR_TEMPLATE_INCONSISTENT, []string{"C_CreateObject", "C_UnwrapKey"}, notReadable},
}

// The advice that several have.
const (
	mayNotMake  = "this user may not make keys in the token; allow it, or make the master key and the probe key with the vendor's tool: AES, 256 bits, CKA_SENSITIVE true, CKA_EXTRACTABLE false, CKA_ENCRYPT and CKA_DECRYPT true"
	noRandom    = "the HSM gives this user no random numbers, of which Holdfast makes all keys; allow C_GenerateRandom, or use another HSM"
	notReadable = "the HSM does not let the attributes be; a key of custody cached needs a session key that can be read (CKA_SENSITIVE false, CKA_EXTRACTABLE true) if the HSM lacks CKM_AES_GCM, and an imported one CKA_EXTRACTABLE false"
)

func codeIn(err error, codes ...uint) bool {
	if p, ok := errors.AsType[pkcs11.Error](err); ok {
		return slices.Contains(codes, uint(p))
	}
	e, ok := errors.AsType[*wire.Error](err)
	return ok && slices.Contains(codes, e.Code)
}

// answered says whether an error is a clear answer to what was asked.
func answered(err error) bool {
	for _, c := range []wire.Class{wire.NotFound, wire.Exists, wire.Ambiguous, wire.NotAuthentic, wire.NoDataObjects, wire.NoMechanism, wire.NotBegun} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// sessionLost: the session is gone, and maybe more.
func sessionLost(err error) bool {
	return codeIn(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED)
}

// tokenLost: the token must be opened anew.
func tokenLost(err error) bool {
	return codeIn(err, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_DEVICE_ERROR)
}

// noSession: the token has no session to give. AWS CloudHSM has said CKR_ARGUMENTS_BAD.
func noSession(err error) bool {
	return codeIn(err, pkcs11.CKR_SESSION_COUNT, pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_DEVICE_MEMORY)
}

// templateRefused: the token does not take the attributes of a template, or not all of them.
func templateRefused(err error) bool {
	return codeIn(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT)
}

// handleStale: the key object's handle is not valid any more.
func handleStale(err error) bool {
	return codeIn(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID)
}

// dataRefused: the token takes no such object, now or later.
func dataRefused(err error) bool {
	return codeIn(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_ACTION_PROHIBITED, pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID,
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_SESSION_READ_ONLY)
}

// pinRefused: another attempt with the same PIN can only do harm.
func pinRefused(err error) bool {
	return codeIn(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_INVALID,
		pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_USER_PIN_NOT_INITIALIZED)
}

// unclear says whether a decryption's error can mean a wrong tag, or a failure of the token.
func unclear(err error) bool {
	return codeIn(err, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_SIGNATURE_INVALID,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED)
}

// gone: an object that a search has found is not there, or has no such attribute.
func gone(err error) bool {
	return codeIn(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
}

func ambiguous(label string, n int) error {
	return fmt.Errorf("key %q: %w: %d key objects have that label; rename or destroy all but the right one", label, wire.Ambiguous, n)
}

func notFound(label string) error { return fmt.Errorf("key %q: %w", label, wire.NotFound) }
