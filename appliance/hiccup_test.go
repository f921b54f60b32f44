package appliance_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm/hsmtest"
)

// returnValues are all of PKCS#11 that have a name, and one of a vendor's.
func returnValues() (codes []uint) {
	for c := uint(1); c < 0x400; c++ {
		if strings.Contains(pkcs11.Error(c).Error(), "CKR_") {
			codes = append(codes, c)
		}
	}
	return append(codes, 0x80000042)
}

// faulty is an appliance with two key stores on a token that fails on command.
type faulty struct {
	bed   *appliancetest.Bed
	shim  *hsmtest.Shim
	clock *appliancetest.Clock
	a, b  *appliancetest.Client
	n     int // of the case under way
	// sealed is a ciphertext of the key in the HSM, made what the case has made.
	sealed, made *appliance.Ciphertext
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	f := &faulty{shim: shim, clock: appliancetest.NewClock()}
	f.bed = appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(token), Appliance: appliance.Options{Now: f.clock.Now, Lease: 10000 * time.Hour}})
	f.a = f.bed.NewKeyStore(t, "a", "/a", appliancetest.Principal)
	f.b = f.bed.NewKeyStore(t, "b", "/b", appliancetest.Principal)
	f.bed.NewKey(t, "a", "cached", "encrypt,decrypt", appliance.CustodyCached)
	f.bed.NewKey(t, "b", "cached", "encrypt,decrypt", appliance.CustodyCached)
	f.bed.NewKey(t, "b", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	f.sealed = f.b.OK(appliancetest.Encrypt("hsm", "x")).Ciphertext
	return f
}

// task is something that an administrator or KMS asks for, which may need the HSM.
type task struct {
	name string
	do   func(f *faulty) error
	// done says whether it is; nil for what leaves nothing.
	done func(f *faulty) bool
}

func newKeyTask(name string, custody appliance.Custody, imported bool) task {
	return task{name, func(f *faulty) error {
		want := appliance.NewExternalKey{ID: fmt.Sprint("made-", f.n), Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}
		if imported {
			want.Material = bytes.Repeat([]byte{byte(f.n), 7}, appliance.KeyBytes/2)
		}
		return second(f.bed.Appliance.CreateKey(ctx, "b", want))
	}, func(f *faulty) bool {
		_, err := f.b.Call(appliancetest.Encrypt(fmt.Sprint("made-", f.n), "x"))
		return err == nil
	}}
}

func rotateTask(key string) task {
	version := func(f *faulty) uint32 {
		k, err := f.bed.Appliance.ShowKey(ctx, "b", key)
		if err != nil {
			return 0
		}
		return k.CurrentVersion
	}
	was := map[int]uint32{}
	return task{"rotate " + key, func(f *faulty) error {
		was[f.n] = version(f)
		return second(f.bed.Appliance.RotateKey(ctx, "b", key, nil))
	}, func(f *faulty) bool { return version(f) == was[f.n]+1 }}
}

var tasks = []task{
	{"keystore create", func(f *faulty) error {
		return second(f.bed.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: fmt.Sprint("made-", f.n), URIPathPrefix: fmt.Sprint("/made-", f.n)}))
	}, func(f *faulty) bool {
		return f.bed.Appliance.DeleteKeyStore(ctx, fmt.Sprint("made-", f.n)) == nil
	}},
	newKeyTask("key create, cached", appliance.CustodyCached, false),
	newKeyTask("key create, hsm", appliance.CustodyHSM, false),
	newKeyTask("key import, cached", appliance.CustodyCached, true),
	newKeyTask("key import, hsm", appliance.CustodyHSM, true),
	rotateTask("cached"),
	rotateTask("hsm"),
	{"grant add", func(f *faulty) error {
		g, err := f.bed.Appliance.AddGrant(ctx, "b", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}})
		if err == nil {
			err = f.bed.Appliance.RemoveGrant(ctx, "b", g.ID)
		}
		return err
	}, nil},
	{"block and unblock", func(f *faulty) error {
		for _, target := range []appliance.BlockTarget{{Everything: true}, {KeyStore: "b"}, {KeyStore: "b", KeyID: "hsm"}} {
			if _, err := f.bed.Appliance.Block(ctx, target, "test", "alice"); err != nil {
				return err
			}
			if err := f.bed.Appliance.Unblock(ctx, target); err != nil {
				return err
			}
		}
		return nil
	}, nil},
	{"encrypt", func(f *faulty) error {
		a, err := f.b.Call(appliancetest.Encrypt("hsm", "x"))
		f.made = a.Ciphertext
		return err
	}, func(f *faulty) bool {
		a, err := f.b.Call(appliancetest.Decrypt("hsm", f.made))
		return err == nil && a.Plaintext == "x"
	}},
	{"decrypt", func(f *faulty) error {
		a, err := f.b.Call(appliancetest.Decrypt("hsm", f.sealed))
		if err == nil && a.Plaintext != "x" {
			err = errors.New("another plaintext")
		}
		return err
	}, nil},
	{"unlock", func(f *faulty) error {
		f.bed.Appliance.Lock()
		return f.bed.Appliance.Unlock(ctx, keyring.New(f.bed.Token), []appliance.HSM{keyring.Watched(f.bed.Token)})
	}, func(f *faulty) bool { return !f.bed.Appliance.Locked() }},
}

// watchedFunctions are those of the module that a task may call.
var watchedFunctions = []string{"C_OpenSession", "C_GetSessionInfo", "C_FindObjectsInit", "C_GenerateKey", "C_CreateObject", "C_DestroyObject", "C_GenerateRandom", "C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"}

// plainRefusals are return values of C_Decrypt by which an HSM says clearly that a
// ciphertext does not authenticate. KMS is told so.
var plainRefusals = []uint{pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_SIGNATURE_INVALID}

// usualValues are tried with each task and each function; of the others one in oneInValues
// cases, so that each comes with some.
var usualValues = []uint{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_SESSION_HANDLE_INVALID,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID}

const oneInValues = 89

// TestEveryReturnValue: whatever function of the HSM's module fails, with whatever return
// value, once or for as long as it takes: what is open stays open, no task that failed is
// told as done or leaves half a thing, no failure of the HSM is taken for damage, and all
// serves again when the HSM does.
func TestEveryReturnValue(t *testing.T) {
	f := newFaulty(t)
	cases, tried := 0, 0
	for _, task := range tasks {
		t.Run(task.name, func(t *testing.T) {
			f.n++
			before := map[string]int{}
			for _, function := range watchedFunctions {
				before[function] = f.shim.Calls(function)
			}
			if err := task.do(f); err != nil || task.done != nil && !task.done(f) {
				t.Fatalf("without a failure: %v", err)
			}
			for _, function := range watchedFunctions {
				if f.shim.Calls(function) == before[function] && function != "C_OpenSession" {
					continue
				}
				for _, code := range returnValues() {
					for _, times := range []int{1, 1000} {
						if cases++; cases%(oneInValues*oneIn) != 0 && !(slices.Contains(usualValues, code) && oneIn == 1) {
							continue
						}
						tried++
						f.try(t, task, function, code, times)
					}
				}
			}
		})
	}
	t.Logf("tried %d of %d cases", tried, cases)
}

// try does a task while a function fails, and looks at what follows.
func (f *faulty) try(t *testing.T, task task, function string, code uint, times int) {
	t.Helper()
	f.n++
	what := fmt.Sprintf("%s, %s fails %d times with %v", task.name, function, times, pkcs11.Error(code))
	f.shim.Fail(function, code, times)
	err := task.do(f)
	for name, c := range map[string]*appliancetest.Client{"a": f.a, "b": f.b} {
		if _, err := c.Call(appliancetest.Encrypt("cached", "x")); err != nil && task.name != "unlock" {
			t.Errorf("%s: meanwhile key store %s does not serve: %v", what, name, err)
		}
	}
	f.shim.Fail(function, code, 0)
	switch got := fault.CodeOf(err); {
	case err == nil && task.done != nil && !f.await(func() bool { return task.done(f) }):
		t.Errorf("%s: it is told as done, and is not", what)
	case err != nil && (got == fault.Tampered || got == fault.NotFound || got == fault.Exists || got.Entry().Exit == 0 ||
		got == fault.Ciphertext && !(function == "C_Decrypt" && slices.Contains(plainRefusals, code))):
		t.Errorf("%s: a failure of the HSM is told as %s: %v", what, got, err)
	case err != nil && !f.await(func() bool { err = task.do(f); return err == nil }):
		t.Errorf("%s: it cannot be done afterwards: %v", what, err)
	}
	if !f.await(func() bool {
		_, errA := f.a.Call(appliancetest.Encrypt("cached", "x"))
		_, errB := f.b.Call(appliancetest.Encrypt("hsm", "x"))
		return errA == nil && errB == nil && len(f.bed.Appliance.Status(ctx).OutOfService) == 0
	}) {
		t.Fatalf("%s: it does not serve again: %+v", what, f.bed.Appliance.Status(ctx))
	}
	if status, why := f.bed.Appliance.Condition(); status != appliance.HealthActive {
		t.Errorf("%s: the condition afterwards is %s, %v", what, status, why)
	}
	if ready, note := f.bed.Appliance.Ready(ctx); !ready || note != "" {
		t.Errorf("%s: ready afterwards is %t, %q", what, ready, note)
	}
}

// TestHealthTellsEveryReturnValue: while a function that the HSM needs for its work fails,
// with whatever return value, GetHealthStatus and the status say so, of a key store with
// keys in the HSM as of one whose keys are in memory; after that both say that it works.
func TestHealthTellsEveryReturnValue(t *testing.T) {
	f := newFaulty(t)
	told := func() [3]appliance.HealthStatus {
		f.clock.Pass(61 * time.Second) // a result of less than a minute ago may stand
		got := [3]appliance.HealthStatus{healthStatus(f.a), healthStatus(f.b), ""}
		if h := f.bed.Appliance.Status(ctx).HSMs; len(h) == 1 && (h[0].Status == appliance.HealthActive) == (h[0].Error == "") {
			got[2] = h[0].Status
		}
		return got
	}
	good := [3]appliance.HealthStatus{appliance.HealthActive, appliance.HealthActive, appliance.HealthActive}
	bad := [3]appliance.HealthStatus{appliance.HealthDegraded, appliance.HealthUnavailable, appliance.HealthDegraded}
	cases := 0
	for _, function := range []string{"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"} {
		for _, code := range returnValues() {
			if cases++; cases%(4*oneIn) != 0 {
				continue
			}
			f.shim.Fail(function, code, 1000)
			if got := told(); got != bad {
				t.Errorf("%s fails with %v: health is %q, want %q", function, pkcs11.Error(code), got, bad)
			}
			f.shim.Fail(function, code, 0)
			if !f.await(func() bool { return told() == good }) {
				t.Fatalf("%s fails no longer with %v: health is %q", function, pkcs11.Error(code), told())
			}
		}
	}
}

// await waits, with what the background does, for at most five seconds.
func (f *faulty) await(is func() bool) bool {
	for deadline := time.Now().Add(5 * time.Second); !is(); {
		if time.Now().After(deadline) {
			return false
		}
		f.clock.Pass(time.Minute)
		f.bed.Appliance.Recover(ctx)
	}
	return true
}
