package hsmtest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/hsm/softhsm"
)

//go:embed shim/shim.c
var source []byte

// functions are those that the shim watches.
var functions = func() (names []string) {
	for _, m := range regexp.MustCompile(`\bX\((C_\w+)\)`).FindAllSubmatch(source, -1) {
		names = append(names, string(m[1]))
	}
	return names
}()

// Always has what is counted down not end.
const Always = 1<<32 - 1

// control is the layout of the control file, as in shim/shim.c.
type control struct {
	module                                                              [256]byte
	delay, cut, epoch, release, away                                    atomic.Uint32
	stale, staleCode, staleAll, staleProcess                            atomic.Uint32
	dialect, noGCM, keyWrap, keyWrapEncrypts                            atomic.Uint32
	maxSessions, sessionCode, sessionsTold, otherSessions, sessionCalls atomic.Uint32
	before, behind, neighbour                                           atomic.Uint32
	findOne, hidden, vanished, labelMax, idMax, cutSilently             atomic.Uint32
	pad, anyCase, ghost, nameless, ownHandles, readOnly                 atomic.Uint32
	refused, refusedCode, needed, neededCode, toldMore                  atomic.Uint32
	tokenFlags, pinTries, pinTried                                      atomic.Uint32
	forked                                                              atomic.Uint32
	functions                                                           [24]struct{ calls, code, codes, hangs, act, acts, delay atomic.Uint32 }
}

// Shim is a PKCS#11 module before SoftHSM2 that obeys, in each process that has
// loaded it: see shim/shim.c.
type Shim struct {
	// Module is the path of the shim.
	Module string

	control *control
	memory  []byte
}

// BuildShim compiles the shim into the folder, before the installed SoftHSM2.
func BuildShim(dir string) (*Shim, error) {
	module, err := softhsm.Find()
	if err != nil {
		return nil, err
	}
	return buildShim(dir, "shim", module)
}

func buildShim(dir, name, before string) (*Shim, error) {
	// The binding has the PKCS#11 headers.
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("find the PKCS#11 headers: %w", err)
	}
	s := &Shim{Module: filepath.Join(dir, name+".so")}
	file := filepath.Join(dir, name+".c")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return nil, err
	}
	gcc := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", s.Module, "-I", strings.TrimSpace(string(out)), file, "-ldl", "-lpthread")
	if out, err := gcc.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the shim: %w\n%s", err, out)
	}
	return s, s.makeControl(before)
}

// makeControl makes the control file of the shim, which forwards to that module.
func (s *Shim) makeControl(module string) error {
	size := int(unsafe.Sizeof(control{}))
	f, err := os.OpenFile(s.Module+".control", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	if s.memory, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	s.control = (*control)(unsafe.Pointer(&s.memory[0]))
	if len(module) >= len(s.control.module) {
		return fmt.Errorf("the path %s is too long for the shim", module)
	}
	copy(s.control.module[:], module)
	return nil
}

func index(function string) int {
	i := slices.Index(functions, function)
	if i < 0 {
		panic("the shim does not watch " + function)
	}
	return i
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// SetDelay has each operation take so much longer, as a token that far away.
func (s *Shim) SetDelay(d time.Duration) { s.control.delay.Store(uint32(d.Microseconds())) }

// SetDelayOf has each call of the function take so much longer.
func (s *Shim) SetDelayOf(function string, d time.Duration) {
	s.control.functions[index(function)].delay.Store(uint32(d.Microseconds()))
}

// Fail has the next n calls of the function return the code. Where a vendor's
// module refuses, C_Login may return CKR_PIN_INCORRECT and the like;
// CKR_USER_ALREADY_LOGGED_IN logs in nevertheless.
func (s *Shim) Fail(function string, code uint, n int) {
	f := &s.control.functions[index(function)]
	f.code.Store(uint32(code))
	f.codes.Store(uint32(n))
}

// Cut takes the token away. Sessions of before are dead ever after.
func (s *Shim) Cut() {
	s.control.epoch.Add(1)
	s.control.cut.Store(1)
}

// Restore brings the token back, or its network, or its objects.
func (s *Shim) Restore() {
	s.control.cut.Store(0)
	s.control.away.Store(0)
	s.control.vanished.Store(0)
}

// Restart is Cut and Restore at once.
func (s *Shim) Restart() { s.control.epoch.Add(1) }

// Away has each call that crosses to the token return the code until Restore, as
// one code for whatever goes wrong on the network. C_GetSessionInfo, which the
// library answers alone, stays well, and so do the sessions. Libraries of HSMs on a
// network say CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED or CKR_DEVICE_ERROR then
// (letsencrypt/boulder#1003, privacyidea#1283), where SoftHSM2 says
// CKR_GENERAL_ERROR for a wrong tag (SoftHSMv2#689).
func (s *Shim) Away(code uint) { s.control.away.Store(uint32(code)) }

// Stale says how a library behaves that must be initialized anew.
type Stale struct {
	// Code is what its functions return until then: 0x80000384 (xipki/pkcs11wrapper#3),
	// CKR_DEVICE_ERROR (boulder#1003, Pkcs11Interop#188), CKR_FUNCTION_FAILED and others.
	Code uint
	// All: each function returns it. Otherwise those do that cross to the token, and
	// C_GetSessionInfo is answered well (Pkcs11Interop#214, yubihsm-shell#541).
	All bool
	// Process: C_Finalize and C_Initialize do not help, but a new process does
	// (pkcs11wrapper#3, "restart the JVM").
	Process bool
}

// MakeStale has the library behave as one whose HSM was restarted, in each process
// that uses it now, until it is initialized anew.
func (s *Shim) MakeStale(stale Stale) {
	s.control.staleCode.Store(uint32(stale.Code))
	s.control.staleAll.Store(bit(stale.All))
	s.control.staleProcess.Store(bit(stale.Process))
	s.control.stale.Add(1)
}

// Dialect is how a token wants the IV of AES-GCM, as in shim/shim.c. C_EncryptInit
// with parameters that the document forbids returns CKR_MECHANISM_PARAM_INVALID;
// the documents do not name the code.
type Dialect uint32

// The dialects.
const (
	// Standard takes the IV that is given (PKCS#11 v2.40).
	Standard Dialect = iota
	// Luna is Luna 7 in FIPS mode with firmware before 7.9.3: no IV is given (pIv NULL,
	// ulIvLen 0: pkcs11js#107), the token makes one of 16 bytes, which comes behind the tag
	// (thalesdocs, Luna 7, CKM_AES_GCM). C_DecryptInit needs ulIvBits as well (rust-cryptoki#247).
	Luna
	// PTK70 is ProtectServer 3 with ProtectToolkit 7.0 in FIPS mode: an IV must be given, is
	// replaced by as many random bytes, which come behind the tag (thalesdocs,
	// ProtectServer 3, CKM_AES_GCM_OLD).
	PTK70
	// PTK71 is the same from ProtectToolkit 7.1: the IV given must be zeros, and is overwritten
	// with as many random bytes (thalesdocs, ProtectServer 3, CKM_AES_GCM).
	PTK71
	// CloudHSM is AWS CloudHSM: twelve zeros, which are overwritten (AWS CloudHSM user guide,
	// "Supported mechanisms for the PKCS #11 library", note on AES-GCM).
	CloudHSM
	// Luna793 is Luna 7 in FIPS mode from firmware 7.9.3: ulIvLen 0, and ulIvBits 0 or 128 for an
	// IV of 16 bytes or 96 for one of 12, behind the tag (thalesdocs, Luna 7, CKM_AES_GCM, table of
	// "IVLen" and "IvBits").
	Luna793
)

// SetDialect has the token speak a dialect of AES-GCM.
func (s *Shim) SetDialect(d Dialect) { s.control.dialect.Store(uint32(d)) }

// KeyWrap is a mechanism of AES key wrapping with padding (RFC 5649).
type KeyWrap struct {
	// Mechanism is CKM_AES_KEY_WRAP_KWP (0x210B, PKCS#11 v3.0) or CKM_AES_KEY_WRAP_PAD (0x210A, which
	// SoftHSM2 has for the same); 0 if the token has neither.
	Mechanism uint
	// Encrypts: it is for C_Encrypt and C_Decrypt, not for C_WrapKey and C_UnwrapKey.
	Encrypts bool
}

// WithoutGCM has the token lack CKM_AES_GCM, as YubiHSM 2 (it has AES-CBC, AES-ECB and a wrap
// mechanism of its own) and NetHSM (Nitrokey/nethsm#1), and have that key wrapping instead.
func (s *Shim) WithoutGCM(k KeyWrap) {
	s.control.noGCM.Store(1)
	s.control.keyWrap.Store(max(1, uint32(k.Mechanism)))
	s.control.keyWrapEncrypts.Store(bit(k.Encrypts))
}

// WithoutKeyWrap has the token lack AES key wrapping with padding.
func (s *Shim) WithoutKeyWrap() { s.control.keyWrap.Store(1) }

// Sessions says how many sessions a token allows.
type Sessions struct {
	// Max is the limit: 16 with YubiHSM 2 (Yubico, "Sessions"; yubico-piv-tool#573), 1 with
	// some (cryptoauthlib#150).
	Max int
	// Code is what C_OpenSession returns beyond: CKR_SESSION_COUNT, or CKR_ARGUMENTS_BAD
	// as AWS CloudHSM once did (aws-cloudhsm-user-guide#27).
	Code uint
	// Told: CK_TOKEN_INFO has the limit and the count. Otherwise it says that there is none.
	Told bool
	// Others is how many are in use by others.
	Others int
	// More is how many more than there are CK_TOKEN_INFO tells of.
	More int
}

// LimitSessions limits the sessions.
func (s *Shim) LimitSessions(l Sessions) {
	s.control.sessionCode.Store(uint32(l.Code))
	s.control.sessionsTold.Store(bit(l.Told))
	s.control.otherSessions.Store(uint32(l.Others))
	s.control.toldMore.Store(uint32(l.More))
	s.control.maxSessions.Store(uint32(l.Max))
}

// EndSessionsAfter has a session be gone (CKR_SESSION_HANDLE_INVALID) after so many calls, as
// one that has idled out: YubiHSM 2 ends a session after 30 seconds (yubihsm-shell#268, #541).
func (s *Shim) EndSessionsAfter(calls int) { s.control.sessionCalls.Store(uint32(calls)) }

// AddNeighbours puts slots before and behind the real ones whose C_GetTokenInfo returns the code
// (CKR_DEVICE_ERROR in node-webcrypto-p11#56; CKR_TOKEN_NOT_PRESENT and CKR_TOKEN_NOT_RECOGNIZED are
// common), or hangs until Release if it is [Always].
func (s *Shim) AddNeighbours(before, behind int, code uint) {
	s.control.neighbour.Store(uint32(code))
	s.control.before.Store(uint32(before))
	s.control.behind.Store(uint32(behind))
}

// FindOne has C_FindObjects give one object a call, however many are asked for.
func (s *Shim) FindOne() { s.control.findOne.Store(1) }

// HideObjects has the next n searches find nothing, as while objects are copied in a cluster
// (AWS CloudHSM user guide, "Key synchronization").
func (s *Shim) HideObjects(n int) { s.control.hidden.Store(uint32(n)) }

// Vanish has all objects be gone until Restore: searches find none, and handles are invalid.
func (s *Shim) Vanish() { s.control.vanished.Store(1) }

// LimitNames limits CKA_LABEL and CKA_ID to so many bytes; 0 does not. What is longer is refused
// (CKR_ATTRIBUTE_VALUE_INVALID: Pkcs11Admin#30, nethsm-pkcs11#319), or cut silently (CKA_ID to 2
// bytes by YubiHSM 2 before 2023.01: teleport#25370).
func (s *Shim) LimitNames(label, id int, silently bool) {
	s.control.cutSilently.Store(bit(silently))
	s.control.labelMax.Store(uint32(label))
	s.control.idMax.Store(uint32(id))
}

// PadLabels has CKA_LABEL come back with blanks up to 32 bytes, or with a NUL behind it
// (opencryptoki#578).
func (s *Shim) PadLabels(with byte) {
	if with == 0 {
		with = 1 // any but a blank
	}
	s.control.pad.Store(uint32(with))
}

// IgnoreCase has a search for a label find those that differ in case as well.
func (s *Shim) IgnoreCase() { s.control.anyCase.Store(1) }

// FindGhosts has each search find an object that is destroyed, before the others.
func (s *Shim) FindGhosts() { s.control.ghost.Store(1) }

// FindNameless has each search without a label find an object that has none
// (CKR_ATTRIBUTE_TYPE_INVALID: libp11#323).
func (s *Shim) FindNameless() { s.control.nameless.Store(1) }

// OwnHandles has each session count the objects that it finds, and know them by that number alone, as
// PKCS#11 allows (v2.40 base specification, section 2.5.1; Pkcs11Admin#40, pkcs11-provider#495).
func (s *Shim) OwnHandles() { s.control.ownHandles.Store(1) }

// ReadOnly has the token give no sessions but for reading (CKR_TOKEN_WRITE_PROTECTED: crypto11#109,
// OpenSC#2576, cosign#2685).
func (s *Shim) ReadOnly() { s.control.readOnly.Store(1) }

// Refuse has the token refuse templates that have the attribute with the code (tpm2-pkcs11#90 for
// CKA_CLASS, node-webcrypto-p11#63 for CKA_SENSITIVE of Luna).
func (s *Shim) Refuse(attribute, code uint) {
	s.control.refusedCode.Store(uint32(code))
	s.control.refused.Store(uint32(attribute) + 1)
}

// Need has C_UnwrapKey refuse templates that lack the attribute, such as CKA_VALUE_LEN
// (opencryptoki#897 for Luna, BouncyHsm#102 for IBM CCA).
func (s *Shim) Need(attribute, code uint) {
	s.control.neededCode.Store(uint32(code))
	s.control.needed.Store(uint32(attribute) + 1)
}

// SetTokenFlags has CK_TOKEN_INFO have these flags besides its own, such as
// CKF_USER_PIN_COUNT_LOW.
func (s *Shim) SetTokenFlags(flags uint) { s.control.tokenFlags.Store(uint32(flags)) }

// CountLogins has the token lock after so many logins that did not succeed: a login counts from its
// beginning, also if the process ends in it, and a good one forgets those of before. CK_TOKEN_INFO
// tells with CKF_USER_PIN_COUNT_LOW, _FINAL_TRY and _LOCKED (PKCS#11 v2.40 base specification,
// table 6).
func (s *Shim) CountLogins(tries int) {
	s.control.pinTried.Store(0)
	s.control.pinTries.Store(uint32(tries))
}

// Hang has calls of the function not come back until Release.
func (s *Shim) Hang(function string) { s.HangNext(function, Always) }

// HangNext has the next n calls of the function not come back until Release.
func (s *Shim) HangNext(function string, n int) {
	s.control.functions[index(function)].hangs.Store(uint32(n))
}

// Release lets hanging calls go on, and ends what was forked.
func (s *Shim) Release() {
	for i := range s.control.functions {
		s.control.functions[i].hangs.Store(0)
	}
	s.control.release.Add(1)
}

// Harm is what foreign code in a process can do to it. No vendor is known to.
type Harm uint32

// The harms, in the order of shim/shim.c.
const (
	Segfault Harm = iota + 1
	Abort
	Exit             // exit(0), with what is registered for it
	ExitAtOnce       // _exit(0)
	Leak             // 1 GiB, written to
	BlockSignals     // each that can be, and hangs until Release
	Write            // some MB to stdout and stderr, with the PIN
	Fork             // a process that has all descriptors and stays until Release, at most a minute
	ForkSession      // the same in a session of its own
	CloseFiles       // descriptors 0 to 20
	ChangeFolder     // to /
	ClearEnvironment //
	Divide           // by zero: SIGFPE
	BusError         // SIGBUS
	Exit3            // _exit(3)
	Stop             // SIGSTOP for its own process
	Terminate        // SIGTERM for its process group
	ForkLoop         // 200 processes as of Fork
	Burn             // a thread that does nothing, without a pause, until Release
	CloseAllFiles    // descriptors 3 to 1023
	CloseStandard    // descriptors 0 to 2
	Flood            // 100 MiB to stdout and stderr, with the PIN
	IgnoreSignals    // all that can be, and blocks them
	TakeSignals      // the same with a handler that does nothing
	ChangeUmask      // to 0777
	LowerLimits      // no more descriptors, memory and processes
	LeakUntouched    // 4 GiB, not written to
	LeakAll          // what there is, 1 MiB by 1 MiB, written to
	OverflowStack    // calls itself until the stack is over

	// Later has a thread of its own do it, a moment after the call began: while nothing is asked.
	Later Harm = 1 << 16
)

// Do has the next n calls of the function do harm, and then what they are for.
func (s *Shim) Do(function string, h Harm, n int) {
	f := &s.control.functions[index(function)]
	f.act.Store(uint32(h))
	f.acts.Store(uint32(n))
}

// Undone is how often the function is still to do harm.
func (s *Shim) Undone(function string) int {
	return int(s.control.functions[index(function)].acts.Load())
}

// Forked is the last process that was forked; 0 if there is none.
func (s *Shim) Forked() int { return int(s.control.forked.Load()) }

// Calls counts the calls of the function so far, in all processes.
func (s *Shim) Calls(function string) int {
	return int(s.control.functions[index(function)].calls.Load())
}

// AllCalls counts the calls of all functions so far.
func (s *Shim) AllCalls() int {
	n := 0
	for i := range s.control.functions {
		n += int(s.control.functions[i].calls.Load())
	}
	return n
}

// Reset ends all interference.
func (s *Shim) Reset() {
	s.Release()
	s.Restore()
	c := s.control
	for _, w := range []*atomic.Uint32{&c.delay, &c.staleCode, &c.dialect, &c.noGCM, &c.keyWrap, &c.maxSessions, &c.sessionCalls, &c.before, &c.behind,
		&c.findOne, &c.hidden, &c.labelMax, &c.idMax, &c.pad, &c.anyCase, &c.ghost, &c.nameless, &c.ownHandles, &c.readOnly, &c.refused, &c.needed, &c.toldMore, &c.tokenFlags, &c.pinTries, &c.forked} {
		w.Store(0)
	}
	for i := range c.functions {
		f := &c.functions[i]
		f.codes.Store(0)
		f.acts.Store(0)
		f.delay.Store(0)
	}
}
