package hsmtest_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// bare is a token behind the shim, logged in, with a key of each use, by the binding alone.
type bare struct {
	*pkcs11.Ctx
	shim *hsmtest.Shim
	cfg  hsm.Config
	slot uint
	s    pkcs11.SessionHandle
	key  pkcs11.ObjectHandle
}

func newBare(t *testing.T) *bare {
	t.Helper()
	cfg, shim := hsmtest.NewBehindShim(t)
	b := &bare{Ctx: pkcs11.New(cfg.Module), shim: shim, cfg: cfg}
	t.Cleanup(func() {
		shim.Reset()
		_ = b.Finalize() // some tests have done so
		b.Destroy()
	})
	b.begin(t)
	return b
}

// begin initializes, finds the token, logs in and makes a key.
func (b *bare) begin(t *testing.T) {
	t.Helper()
	must(t, b.Initialize())
	slots, err := b.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		if info, err := b.GetTokenInfo(slot); err == nil && info.Label == b.cfg.TokenLabel {
			b.slot = slot
		}
	}
	b.s, err = b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	must(t, b.Login(b.s, pkcs11.CKU_USER, string(b.cfg.PIN)))
	b.key, err = b.make("key")
	must(t, err)
}

func (b *bare) make(label string) (pkcs11.ObjectHandle, error) {
	return b.GenerateKey(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, label), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true)})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, err error, code uint) {
	t.Helper()
	if !errors.Is(err, pkcs11.Error(code)) {
		t.Errorf("%s: %v, not 0x%X", what, err, code)
	}
}

// TestDialects: with the IV that each gives back, SoftHSM2 decrypts.
func TestDialects(t *testing.T) {
	b := newBare(t)
	zeros, random := make([]byte, 12), []byte("twelve bytes")
	for _, tt := range []struct {
		name    string
		dialect hsmtest.Dialect
		iv      []byte
		refused bool
		behind  int  // bytes of IV behind the tag
		back    bool // the IV is written back
	}{
		{"standard", hsmtest.Standard, random, false, 0, false},
		{"Luna", hsmtest.Luna, nil, false, 16, false},
		{"Luna, with an IV", hsmtest.Luna, random, true, 0, false},
		{"Luna 7.9.3", hsmtest.Luna793, nil, false, 16, false},
		{"Luna 7.9.3, with an IV", hsmtest.Luna793, random, true, 0, false},
		{"PTK 7.0", hsmtest.PTK70, random, false, 12, false},
		{"PTK 7.0, without an IV", hsmtest.PTK70, nil, true, 0, false},
		{"PTK 7.1", hsmtest.PTK71, zeros, false, 0, true},
		{"PTK 7.1, with an IV", hsmtest.PTK71, random, true, 0, false},
		{"CloudHSM", hsmtest.CloudHSM, zeros, false, 0, true},
		{"CloudHSM, with an IV", hsmtest.CloudHSM, random, true, 0, false},
		{"CloudHSM, with 16 zeros", hsmtest.CloudHSM, make([]byte, 16), true, 0, false},
	} {
		b.shim.SetDialect(tt.dialect)
		plain, aad := []byte("a secret"), []byte("its place")
		p := pkcs11.NewGCMParams(tt.iv, aad, 128)
		gcm := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}
		err := b.EncryptInit(b.s, gcm, b.key)
		if tt.refused {
			want(t, tt.name, err, pkcs11.CKR_MECHANISM_PARAM_INVALID)
			continue
		}
		must(t, err)
		out, err := b.Encrypt(b.s, plain)
		must(t, err)
		iv := p.IV()
		if tt.behind > 0 {
			out, iv = out[:len(out)-tt.behind], out[len(out)-tt.behind:]
		}
		if tt.back == bytes.Equal(iv, tt.iv) && tt.behind == 0 || len(out) != len(plain)+16 {
			t.Errorf("%s: %d bytes, IV %x", tt.name, len(out), iv)
		}
		p.Free()
		p = pkcs11.NewGCMParams(iv, aad, 128)
		must(t, b.DecryptInit(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, b.key))
		if got, err := b.Decrypt(b.s, out); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		p.Free()
	}
}

// TestKeyWrap: a token without AES-GCM, with each way to wrap keys.
func TestKeyWrap(t *testing.T) {
	b := newBare(t)
	const kwp = 0x210B
	for _, k := range []hsmtest.KeyWrap{{}, {Mechanism: kwp}, {Mechanism: kwp, Encrypts: true}, {Mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD}, {Mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD, Encrypts: true}} {
		b.shim.WithoutGCM(k)
		listed, err := b.GetMechanismList(b.slot)
		must(t, err)
		for _, m := range []uint{pkcs11.CKM_AES_GCM, kwp, pkcs11.CKM_AES_KEY_WRAP_PAD} {
			has := slices.ContainsFunc(listed, func(l *pkcs11.Mechanism) bool { return l.Mechanism == m })
			_, err := b.GetMechanismInfo(b.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)})
			if has != (m == k.Mechanism) || has != (err == nil) {
				t.Errorf("%+v: mechanism 0x%X is listed: %v, %v", k, m, has, err)
			}
		}
		want(t, "AES-GCM", b.EncryptInit(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, nil)}, b.key), pkcs11.CKR_MECHANISM_INVALID)
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(k.Mechanism, nil)}
		if k.Mechanism == 0 {
			m[0].Mechanism = kwp
		}
		other, err := b.GenerateKey(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)})
		must(t, err)
		wrapped, err := b.WrapKey(b.s, m, b.key, other)
		if byWrap := k.Mechanism != 0 && !k.Encrypts; byWrap != (err == nil) || byWrap && len(wrapped) != 40 {
			t.Errorf("%+v: C_WrapKey: %d bytes, %v", k, len(wrapped), err)
		}
		if !k.Encrypts {
			want(t, "C_EncryptInit", b.EncryptInit(b.s, m, b.key), pkcs11.CKR_MECHANISM_INVALID)
			continue
		}
		must(t, b.EncryptInit(b.s, m, b.key))
		out, err := b.Encrypt(b.s, []byte("a key of 32 bytes, for AES-256.."))
		must(t, err)
		must(t, b.DecryptInit(b.s, m, b.key))
		if got, err := b.Decrypt(b.s, out); err != nil || string(got) != "a key of 32 bytes, for AES-256.." {
			t.Errorf("%+v: %q, %v", k, got, err)
		}
		out[3] ^= 1
		must(t, b.DecryptInit(b.s, m, b.key))
		_, err = b.Decrypt(b.s, out)
		want(t, "a changed one", err, pkcs11.CKR_ENCRYPTED_DATA_INVALID)
	}
}

// TestSessionLimit counts what is open, what others have and what was closed.
func TestSessionLimit(t *testing.T) {
	b := newBare(t)
	open := func() (pkcs11.SessionHandle, error) { return b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION) }
	b.shim.LimitSessions(hsmtest.Sessions{Max: 4, Code: pkcs11.CKR_SESSION_COUNT, Told: true, Others: 2})
	second, err := open()
	must(t, err)
	_, err = open()
	want(t, "a fifth session", err, pkcs11.CKR_SESSION_COUNT)
	if info, err := b.GetTokenInfo(b.slot); err != nil || info.MaxRwSessionCount != 4 || info.RwSessionCount != 4 {
		t.Errorf("told: %+v, %v", info, err)
	}
	must(t, b.CloseSession(second))
	second, err = open()
	must(t, err)
	b.shim.LimitSessions(hsmtest.Sessions{Max: 2, Code: pkcs11.CKR_ARGUMENTS_BAD})
	_, err = open()
	want(t, "another", err, pkcs11.CKR_ARGUMENTS_BAD)
	if info, err := b.GetTokenInfo(b.slot); err != nil || info.MaxRwSessionCount != pkcs11.CK_EFFECTIVELY_INFINITE {
		t.Errorf("not told: %+v, %v", info, err)
	}
	b.shim.EndSessionsAfter(3)
	for range 3 {
		_, err = b.GenerateRandom(second, 8)
		must(t, err)
	}
	_, err = b.GenerateRandom(second, 8)
	want(t, "a session that has idled out", err, pkcs11.CKR_SESSION_HANDLE_INVALID)
	b.shim.EndSessionsAfter(0)
	_, err = open()
	must(t, err)
}

// TestNeighbours are around the real slots, which stay what they are.
func TestNeighbours(t *testing.T) {
	b := newBare(t)
	before, err := b.GetSlotList(true)
	must(t, err)
	b.shim.AddNeighbours(2, 1, pkcs11.CKR_DEVICE_ERROR)
	slots, err := b.GetSlotList(true)
	must(t, err)
	if !slices.Equal(slots[2:len(slots)-1], before) || len(slots) != len(before)+3 {
		t.Fatalf("%v with neighbours, %v without", slots, before)
	}
	for _, i := range []int{0, 1, len(slots) - 1} {
		_, err := b.GetTokenInfo(slots[i])
		want(t, "a neighbour", err, pkcs11.CKR_DEVICE_ERROR)
	}
}

// TestStale: what is initialized anew is well, or a new process is.
func TestStale(t *testing.T) {
	b := newBare(t)
	b.shim.MakeStale(hsmtest.Stale{Code: 0x80000384})
	if _, err := b.GetSessionInfo(b.s); err != nil {
		t.Errorf("C_GetSessionInfo: %v", err)
	}
	_, err := b.GenerateRandom(b.s, 8)
	want(t, "C_GenerateRandom", err, 0x80000384)
	must(t, b.Finalize())
	b.begin(t)
	b.shim.MakeStale(hsmtest.Stale{Code: pkcs11.CKR_HOST_MEMORY, All: true, Process: true})
	_, err = b.GetSessionInfo(b.s)
	want(t, "C_GetSessionInfo", err, pkcs11.CKR_HOST_MEMORY)
	must(t, b.Finalize())
	must(t, b.Initialize())
	_, err = b.GetSlotList(true)
	want(t, "after C_Initialize", err, pkcs11.CKR_HOST_MEMORY)
}

// TestObjects: one a call, late, gone, and with short names.
func TestObjects(t *testing.T) {
	b := newBare(t)
	_, err := b.make("key")
	must(t, err)
	find := func() (n int) {
		must(t, b.FindObjectsInit(b.s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "key")}))
		found, _, err := b.FindObjects(b.s, 5)
		must(t, err)
		must(t, b.FindObjectsFinal(b.s))
		return len(found)
	}
	b.shim.HideObjects(2)
	got := []int{find(), find(), find()}
	b.shim.FindOne()
	got = append(got, find())
	b.shim.Vanish()
	got = append(got, find())
	b.shim.Restore()
	if got = append(got, find()); !slices.Equal(got, []int{0, 0, 2, 1, 0, 1}) {
		t.Errorf("found %v", got)
	}
	long := strings.Repeat("x", 33)
	b.shim.LimitNames(32, 0, false)
	_, err = b.make(long)
	want(t, "a long label", err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	b.shim.LimitNames(32, 2, true)
	o, err := b.make(long)
	must(t, err)
	a, err := b.GetAttributeValue(b.s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
	if err != nil || string(a[0].Value) != long[:32] || string(a[1].Value) != "xx" {
		t.Errorf("cut: %v", err)
	}
}

// TestFailedOperationIsOver: the session can begin another.
func TestFailedOperationIsOver(t *testing.T) {
	b := newBare(t)
	gcm := func() []*pkcs11.Mechanism {
		return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, pkcs11.NewGCMParams(make([]byte, 12), nil, 128))}
	}
	b.shim.Fail("C_Encrypt", pkcs11.CKR_GENERAL_ERROR, 1)
	must(t, b.EncryptInit(b.s, gcm(), b.key))
	_, err := b.Encrypt(b.s, []byte("x"))
	want(t, "C_Encrypt", err, pkcs11.CKR_GENERAL_ERROR)
	must(t, b.EncryptInit(b.s, gcm(), b.key))
	out, err := b.Encrypt(b.s, []byte("x"))
	must(t, err)
	b.shim.Away(pkcs11.CKR_GENERAL_ERROR)
	must(t, b.DecryptInit(b.s, gcm(), b.key))
	_, err = b.Decrypt(b.s, out)
	want(t, "C_Decrypt", err, pkcs11.CKR_GENERAL_ERROR)
	b.shim.Restore()
	must(t, b.DecryptInit(b.s, gcm(), b.key))
	if got, err := b.Decrypt(b.s, out); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestLoginsAreCounted as a token does that locks.
func TestLoginsAreCounted(t *testing.T) {
	b := newBare(t)
	must(t, b.Logout(b.s))
	b.shim.CountLogins(3)
	for _, flag := range []uint{pkcs11.CKF_USER_PIN_COUNT_LOW, pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED} {
		want(t, "C_Login", b.Login(b.s, pkcs11.CKU_USER, "wrong"), pkcs11.CKR_PIN_INCORRECT)
		if info, err := b.GetTokenInfo(b.slot); err != nil || info.Flags&flag == 0 {
			t.Errorf("flags 0x%X lack 0x%X: %v", info.Flags, flag, err)
		}
	}
	want(t, "a locked one", b.Login(b.s, pkcs11.CKU_USER, string(b.cfg.PIN)), pkcs11.CKR_PIN_LOCKED)
	b.shim.CountLogins(3)
	b.shim.Fail("C_Login", pkcs11.CKR_USER_ALREADY_LOGGED_IN, 1)
	want(t, "C_Login", b.Login(b.s, pkcs11.CKU_USER, string(b.cfg.PIN)), pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	if info, err := b.GetSessionInfo(b.s); err != nil || info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		t.Errorf("state %d, %v", info.State, err)
	}
}

// TestHangNext: the others go on, and a delay is of one function.
func TestHangNext(t *testing.T) {
	b := newBare(t)
	b.shim.HangNext("C_GenerateRandom", 1)
	done := make(chan error)
	before := b.shim.Calls("C_GenerateRandom")
	go func() {
		_, err := b.GenerateRandom(b.s, 8)
		done <- err
	}()
	for b.shim.Calls("C_GenerateRandom") == before {
		time.Sleep(time.Millisecond) // the call is on its way
	}
	s, err := b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	if _, err := b.GenerateRandom(s, 8); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
		t.Error("the first call came back")
	default:
	}
	b.shim.Release()
	must(t, <-done)
	b.shim.SetDelayOf("C_GetSessionInfo", 20*time.Millisecond)
	began := time.Now()
	if _, err := b.GetSessionInfo(s); err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// TestForkStays with the descriptors until it is released. The other harms end this process, and
// are seen where a module has one of its own.
func TestForkStays(t *testing.T) {
	b := newBare(t)
	b.shim.Do("C_GenerateRandom", hsmtest.ForkSession, 1)
	if _, err := b.GenerateRandom(b.s, 8); err != nil {
		t.Fatal(err)
	}
	pid := b.shim.Forked()
	if sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0); pid == 0 || errno != 0 {
		t.Fatalf("process %d: session %d, %v", pid, sid, errno)
	}
	if fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd"); err != nil || len(fds) < 3 {
		t.Errorf("%d descriptors, %v", len(fds), err)
	}
	b.shim.Release()
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
}

// TestPair: each shim obeys alone.
func TestPair(t *testing.T) {
	configs, shims := hsmtest.NewPair(t)
	shims[0].Fail("C_Initialize", pkcs11.CKR_GENERAL_ERROR, 1)
	for i, c := range configs {
		p := pkcs11.New(c.Module)
		defer p.Destroy()
		if err := p.Initialize(); (err == nil) != (i == 1) {
			t.Errorf("module %d: %v", i, err)
		}
	}
	p := pkcs11.New(configs[1].Module)
	defer p.Destroy()
	must(t, p.Finalize())
}
