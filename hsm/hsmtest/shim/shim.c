/* A PKCS#11 module for tests and benchmarks that stands before SoftHSM2: it
 * forwards every call, and on command behaves as a vendor's module or HSM does
 * that is far away, fails, speaks a dialect, is out of sessions or does harm.
 * The commands come through a file that is mapped into memory here and in the
 * test (see shim.go, which has the same layout), so they reach every process
 * that has loaded this copy of the shim. The file has the shim's own path with
 * ".control" behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CK_PTR *
#define CK_DECLARE_FUNCTION(returnType, name) returnType name
#define CK_DECLARE_FUNCTION_POINTER(returnType, name) returnType(*name)
#define CK_CALLBACK_FUNCTION(returnType, name) returnType(*name)
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#include "pkcs11.h"

#ifndef CKM_AES_KEY_WRAP_KWP /* PKCS#11 v3.0 */
#define CKM_AES_KEY_WRAP_KWP 0x0000210BUL
#endif

/* The functions that are watched. shim.go reads them here. */
#define WATCHED(X) \
	X(C_Initialize) X(C_Finalize) X(C_GetSlotList) X(C_GetSlotInfo) X(C_GetTokenInfo) \
	X(C_GetMechanismList) X(C_GetMechanismInfo) X(C_OpenSession) X(C_CloseSession) \
	X(C_GetSessionInfo) X(C_Login) X(C_FindObjectsInit) X(C_FindObjects) X(C_GetAttributeValue) \
	X(C_GenerateKey) X(C_CreateObject) X(C_DestroyObject) X(C_GenerateRandom) \
	X(C_EncryptInit) X(C_Encrypt) X(C_DecryptInit) X(C_Decrypt) X(C_WrapKey) X(C_UnwrapKey)
#define NUMBER(name) AT_##name,
enum { WATCHED(NUMBER) FUNCTIONS };

typedef _Atomic uint32_t word;
enum { ALWAYS = UINT32_MAX }; /* of a word that counts down: it does not */

/* What the calls of one function do. */
struct function {
	word calls;    /* so far, in all processes */
	word code, codes; /* the next codes calls return code */
	word hangs;    /* the next so many calls do not come back until release changes */
	word act, acts; /* the next acts calls do act first */
	word delay_us;
};

struct control {
	char module[256];  /* to forward to */
	word delay_us;     /* of each call that crosses to the token */
	word cut, epoch;   /* the token is not there; grows with each cut */
	word release;      /* grows to end what hangs */
	word away;         /* each call that crosses returns this */
	/* The library must be initialized anew: stale grows, and until then calls return code,
	 * all or those that cross; only a new process helps if process is set. */
	word stale, stale_code, stale_all, stale_process;
	word dialect, no_gcm;
	word key_wrap, key_wrap_encrypts; /* 0: as SoftHSM2; 1: none; else the mechanism, and by which functions */
	word max_sessions, session_code, sessions_told, other_sessions, session_calls;
	word before, behind, neighbour; /* slots, and what their C_GetTokenInfo returns; ALWAYS: it hangs */
	word find_one, hidden, vanished;
	word label_max, id_max, cut_silently;
	word pad, any_case, ghost, nameless; /* what searches and labels are like */
	word own_handles;  /* a handle is of the session that has found the object */
	word read_only;
	word refused, refused_code, needed, needed_code; /* attributes of templates, and 1 */
	word told_more;    /* sessions than there are */
	word token_flags, pin_tries, pin_tried;
	word forked;       /* the last process that was forked */
	struct function f[FUNCTIONS];
};

/* What the shim knows of a session. One thread at a time uses one. */
struct session {
	CK_SESSION_HANDLE handle; /* 0: none */
	uint32_t calls;
	int hidden;                /* the search under way finds nothing */
	int any_case, ghost, nameless; /* what else it does */
	char label[128];           /* that it looks for, if any_case */
	CK_OBJECT_HANDLE own[256]; /* the objects of its handles, from 1 */
	CK_ULONG owns;
	CK_OBJECT_HANDLE key_wrap; /* the key of C_Encrypt or C_Decrypt by key wrapping */
	CK_BYTE iv[128];           /* that was made for C_Encrypt */
	CK_ULONG iv_len;
	CK_BYTE_PTR iv_back;       /* where it is written to; NULL: behind the tag */
};

enum { ATTRIBUTES = 64 };

static struct control *control;
static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static word my_epoch, my_stale; /* of the last C_Initialize, or of the process */
static char last_pin[64];

enum { SESSIONS = 1024 };
static struct session sessions[SESSIONS];
static word open_sessions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Finds a session, or puts one into the place of handle 0. */
static struct session *session(CK_SESSION_HANDLE s, CK_SESSION_HANDLE becomes)
{
	struct session *found = NULL;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < SESSIONS && found == NULL; i++)
		if (sessions[i].handle == s)
			found = &sessions[i];
	if (found != NULL && s != becomes) {
		memset(found, 0, sizeof *found);
		found->handle = becomes;
		atomic_fetch_add(&open_sessions, becomes != 0 ? 1 : -1);
	}
	pthread_mutex_unlock(&lock);
	return found;
}

static void pause_us(uint32_t us)
{
	struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
	while (us > 0 && nanosleep(&t, &t) != 0)
		;
}

/* Counts down, and says whether there was something to count. */
static int take(word *w)
{
	uint32_t n = atomic_load(w);
	while (n > 0 && n != ALWAYS)
		if (atomic_compare_exchange_weak(w, &n, n - 1))
			return 1;
	return n > 0;
}

static void hang(uint32_t release)
{
	while (atomic_load(&control->release) == release)
		pause_us(1000);
}

/* The harm that a call can do, in the order of shim.go. */
enum {
	SEGFAULT = 1, ABORT, EXIT, EXIT_AT_ONCE, LEAK, BLOCK_SIGNALS, WRITE, FORK, FORK_SESSION, CLOSE_FILES, CHANGE_FOLDER, CLEAR_ENVIRONMENT,
	DIVIDE, BUS_ERROR, EXIT_3, STOP, TERMINATE, FORK_LOOP, BURN, CLOSE_ALL_FILES, CLOSE_STANDARD, FLOOD, IGNORE_SIGNALS, TAKE_SIGNALS, CHANGE_UMASK,
	LOWER_LIMITS, LEAK_UNTOUCHED, LEAK_ALL, OVERFLOW_STACK
};
enum { LATER = 1 << 16 }; /* a thread does it, a little after the call */

static volatile int *volatile nowhere;
static volatile int zero;

static void taken(int signal) { (void)signal; }

static void *burn(void *release)
{
	while (atomic_load(&control->release) == (uint32_t)(uintptr_t)release)
		;
	return NULL;
}

static void leave_child(uint32_t release, int session)
{
	pid_t pid = fork();
	if (pid > 0)
		atomic_store(&control->forked, (uint32_t)pid);
	if (pid != 0)
		return;
	if (session)
		setsid();
	for (int i = 0; i < 6000 && atomic_load(&control->release) == release; i++)
		pause_us(10000);
	_exit(0);
}

static void leak(size_t size, int times, int touched)
{
	for (int i = 0; i < times; i++) {
		char *volatile p = malloc(size); /* volatile: else it is left out */
		if (p == NULL)
			return;
		if (touched)
			memset(p, 1, size);
	}
}

static void write_much(int lines)
{
	char line[2][200];
	int n[2];
	for (int i = 0; i < lines; i++)
		for (int fd = 1; fd <= 2; fd++) {
			n[fd - 1] = snprintf(line[fd - 1], sizeof line[0], "vendor: %s %d: C_Login pin=%s\n", fd == 1 ? "trace" : "error", i, last_pin);
			if (write(fd, line[fd - 1], n[fd - 1]) < 0)
				return;
		}
}

static int overflow(volatile char *above)
{
	volatile char here[4096];
	here[0] = *above;
	return zero == 0 ? overflow(here) + here[0] : 0;
}

static void bus_error(void)
{
	/* Behind the end of a file that is mapped. */
	char file[4096];
	Dl_info me;
	if (dladdr((void *)bus_error, &me) == 0 || snprintf(file, sizeof file, "%s.empty", me.dli_fname) >= (int)sizeof file)
		abort();
	int fd = open(file, O_RDWR | O_CREAT, 0600);
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	*p = 1;
}

static void harm_signals(uint32_t act, uint32_t release)
{
	sigset_t all;
	sigfillset(&all);
	switch (act) {
	case BLOCK_SIGNALS:
		pthread_sigmask(SIG_BLOCK, &all, NULL);
		hang(release);
		break;
	case IGNORE_SIGNALS:
	case TAKE_SIGNALS:
		for (int n = 1; n < NSIG; n++)
			signal(n, act == IGNORE_SIGNALS ? SIG_IGN : taken);
		pthread_sigmask(SIG_BLOCK, &all, NULL);
		break;
	case STOP: kill(getpid(), SIGSTOP); break;
	case TERMINATE: kill(0, SIGTERM); break;
	}
}

static void harm_surroundings(uint32_t act)
{
	struct rlimit none = {0, 0};
	switch (act) {
	case CLOSE_FILES:
	case CLOSE_ALL_FILES:
		for (int fd = act == CLOSE_FILES ? 0 : 3; fd <= (act == CLOSE_FILES ? 20 : 1023); fd++)
			close(fd);
		break;
	case CLOSE_STANDARD:
		for (int fd = 0; fd <= 2; fd++)
			close(fd);
		break;
	case CHANGE_FOLDER:
		if (chdir("/") != 0)
			abort();
		break;
	case CLEAR_ENVIRONMENT: clearenv(); break;
	case CHANGE_UMASK: umask(0777); break;
	case LOWER_LIMITS:
		setrlimit(RLIMIT_NOFILE, &none);
		setrlimit(RLIMIT_DATA, &none);
		setrlimit(RLIMIT_NPROC, &none);
		break;
	}
}

static void harm(uint32_t act)
{
	uint32_t release = atomic_load(&control->release);
	pthread_t thread;
	switch (act) {
	case SEGFAULT: *nowhere = 0; break;
	case DIVIDE: zero = 7 / zero; break;
	case BUS_ERROR: bus_error(); break;
	case OVERFLOW_STACK: zero = overflow((volatile char *)""); break;
	case ABORT: abort();
	case EXIT: exit(0);
	case EXIT_AT_ONCE: _exit(0);
	case EXIT_3: _exit(3);
	case LEAK: leak(1UL << 30, 1, 1); break;
	case LEAK_UNTOUCHED: leak(1UL << 30, 4, 0); break;
	case LEAK_ALL: leak(1UL << 20, 1 << 20, 1); break;
	case WRITE: write_much(20000); break;
	case FLOOD: write_much(1400000); break; /* 100 MiB, half of it on each */
	case FORK:
	case FORK_SESSION: leave_child(release, act == FORK_SESSION); break;
	case FORK_LOOP:
		for (int i = 0; i < 200; i++)
			leave_child(release, 0);
		break;
	case BURN: pthread_create(&thread, NULL, burn, (void *)(uintptr_t)release); break;
	default:
		harm_signals(act, release);
		harm_surroundings(act);
	}
}

static void *harm_later(void *act)
{
	pause_us(50000);
	harm((uint32_t)(uintptr_t)act);
	return NULL;
}

static void do_harm(uint32_t act)
{
	pthread_t thread;
	if ((act & LATER) == 0)
		harm(act);
	else if (pthread_create(&thread, NULL, harm_later, (void *)(uintptr_t)(act & ~LATER)) != 0)
		abort();
}

/* Counts a call and says what it is to answer; CKR_OK to go on. It is of the
 * session s, if that is not 0. */
static CK_RV enter(int n, int crosses, CK_SESSION_HANDLE s)
{
	struct function *f = &control->f[n];
	uint32_t release = atomic_load(&control->release);
	atomic_fetch_add(&f->calls, 1);
	if (take(&f->hangs))
		hang(release);
	if (take(&f->acts))
		do_harm(atomic_load(&f->act));
	pause_us(atomic_load(&f->delay_us));
	if (n == AT_C_Finalize || n == AT_C_CloseSession) /* the library does these alone */
		return take(&f->codes) ? atomic_load(&f->code) : CKR_OK;
	if (atomic_load(&control->cut))
		return CKR_DEVICE_REMOVED;
	if (n != AT_C_Initialize && atomic_load(&my_epoch) != atomic_load(&control->epoch))
		return CKR_SESSION_HANDLE_INVALID;
	uint32_t idle = atomic_load(&control->session_calls);
	struct session *x = s != 0 ? session(s, s) : NULL;
	if (x != NULL && ++x->calls > idle && idle > 0) {
		real->C_CloseSession(s);
		session(s, 0);
		return CKR_SESSION_HANDLE_INVALID;
	}
	if (take(&f->codes))
		return atomic_load(&f->code);
	if (crosses && atomic_load(&control->away))
		return atomic_load(&control->away);
	uint32_t code = atomic_load(&control->stale_code);
	if (code != 0 && n != AT_C_Initialize && atomic_load(&my_stale) != atomic_load(&control->stale) && (crosses || atomic_load(&control->stale_all)))
		return code;
	if (crosses)
		pause_us(atomic_load(&control->delay_us));
	return CKR_OK;
}

/* Handles of the session's own, where they are: they count what the session has found, from 1 or 2,
 * so that the handle of one session can be another object's in the next. */
static CK_ULONG first_of(struct session *x) { return 1 + (x - sessions) % 2; }

static CK_OBJECT_HANDLE ours(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE real_handle)
{
	struct session *x = session(s, s);
	if (x == NULL || !atomic_load(&control->own_handles))
		return real_handle;
	for (CK_ULONG i = 0; i < x->owns; i++)
		if (x->own[i] == real_handle)
			return i + first_of(x);
	if (x->owns == sizeof x->own / sizeof *x->own)
		return CK_INVALID_HANDLE;
	x->own[x->owns] = real_handle;
	return x->owns++ + first_of(x);
}

static CK_OBJECT_HANDLE theirs(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE handle)
{
	struct session *x = session(s, s);
	if (x == NULL || !atomic_load(&control->own_handles))
		return handle;
	CK_ULONG at = handle - first_of(x);
	return handle >= first_of(x) && at < x->owns ? x->own[at] : CK_INVALID_HANDLE;
}

/* Defines a function that does nothing of its own. */
#define FORWARD(name, crosses, session, params, arguments) \
	static CK_RV my_##name params                        \
	{                                                    \
		CK_RV rv = enter(AT_##name, crosses, session);   \
		return rv == CKR_OK ? real->name arguments : rv; \
	}
/* Begins one that has. */
#define ENTER(name, crosses, session)                  \
	CK_RV rv = enter(AT_##name, crosses, session); \
	if (rv != CKR_OK)                              \
		return rv

FORWARD(C_GetSessionInfo, 0, s, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR a), (s, a))
FORWARD(C_DestroyObject, 1, s, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE a), (s, theirs(s, a)))
FORWARD(C_GenerateRandom, 1, s, (CK_SESSION_HANDLE s, CK_BYTE_PTR a, CK_ULONG b), (s, a, b))

static CK_RV my_C_Initialize(CK_VOID_PTR a)
{
	ENTER(C_Initialize, 0, 0);
	rv = real->C_Initialize(a);
	if (rv == CKR_OK) {
		atomic_store(&my_epoch, atomic_load(&control->epoch));
		if (!atomic_load(&control->stale_process))
			atomic_store(&my_stale, atomic_load(&control->stale));
	}
	return rv;
}

static CK_RV my_C_Finalize(CK_VOID_PTR a)
{
	ENTER(C_Finalize, 0, 0);
	rv = real->C_Finalize(a);
	pthread_mutex_lock(&lock);
	memset(sessions, 0, sizeof sessions);
	atomic_store(&open_sessions, 0);
	pthread_mutex_unlock(&lock);
	return rv;
}

/* Slots and what tokens say about themselves */

#define NEIGHBOUR 0x80000000UL /* the first slot of the neighbours: SoftHSM2 numbers its own up to 0x7fffffff */

static CK_RV my_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR out, CK_ULONG_PTR n)
{
	ENTER(C_GetSlotList, 0, 0);
	CK_ULONG before = atomic_load(&control->before), behind = atomic_load(&control->behind), have = *n;
	if (out == NULL) {
		rv = real->C_GetSlotList(present, NULL, n);
		*n += before + behind;
		return rv;
	}
	*n = have > before + behind ? have - before - behind : 0;
	rv = real->C_GetSlotList(present, out + (have > before ? before : 0), n);
	for (CK_ULONG i = 0; rv == CKR_OK && i < before + behind; i++)
		out[i < before ? i : *n + i] = NEIGHBOUR + i;
	*n += before + behind;
	return rv;
}

static CK_RV my_C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO_PTR out)
{
	ENTER(C_GetSlotInfo, 0, 0);
	if (slot < NEIGHBOUR || out == NULL)
		return real->C_GetSlotInfo(slot, out);
	memset(out, 0, sizeof *out);
	memset(out->slotDescription, ' ', sizeof out->slotDescription);
	memset(out->manufacturerID, ' ', sizeof out->manufacturerID);
	out->flags = CKF_TOKEN_PRESENT;
	return CKR_OK;
}

static CK_RV my_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR out)
{
	uint32_t release = atomic_load(&control->release), max = atomic_load(&control->max_sessions);
	ENTER(C_GetTokenInfo, 0, 0);
	if (slot >= NEIGHBOUR && atomic_load(&control->neighbour) == ALWAYS) {
		hang(release);
		return CKR_DEVICE_ERROR;
	} else if (slot >= NEIGHBOUR) {
		return atomic_load(&control->neighbour);
	}
	rv = real->C_GetTokenInfo(slot, out);
	if (rv != CKR_OK)
		return rv;
	out->flags |= atomic_load(&control->token_flags);
	uint32_t tries = atomic_load(&control->pin_tries), tried = atomic_load(&control->pin_tried);
	if (tries > 0 && tried > 0)
		out->flags |= tried >= tries ? CKF_USER_PIN_LOCKED : tried + 1 == tries ? CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW : CKF_USER_PIN_COUNT_LOW;
	if (max > 0 && atomic_load(&control->sessions_told)) {
		out->ulMaxSessionCount = out->ulMaxRwSessionCount = max + atomic_load(&control->told_more);
		out->ulSessionCount = out->ulRwSessionCount = atomic_load(&open_sessions) + atomic_load(&control->other_sessions);
	} else if (max > 0) {
		out->ulMaxSessionCount = out->ulMaxRwSessionCount = CK_EFFECTIVELY_INFINITE;
		out->ulSessionCount = out->ulRwSessionCount = CK_UNAVAILABLE_INFORMATION;
	}
	return CKR_OK;
}

/* Whether the mechanism is one that this token has not, whatever SoftHSM2 has. */
static int lacks(CK_MECHANISM_TYPE m)
{
	uint32_t key_wrap = atomic_load(&control->key_wrap);
	if (m == CKM_AES_GCM)
		return atomic_load(&control->no_gcm);
	return key_wrap != 0 && m != key_wrap && (m == CKM_AES_KEY_WRAP_PAD || m == CKM_AES_KEY_WRAP_KWP);
}

static CK_RV my_C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR out, CK_ULONG_PTR n)
{
	ENTER(C_GetMechanismList, 0, 0);
	CK_MECHANISM_TYPE all[512];
	CK_ULONG many = 512, kept = 0;
	rv = real->C_GetMechanismList(slot, all, &many);
	if (rv != CKR_OK)
		return rv;
	for (CK_ULONG i = 0; i < many; i++)
		if (!lacks(all[i]) && all[i] != CKM_AES_KEY_WRAP_KWP)
			all[kept++] = all[i];
	if (atomic_load(&control->key_wrap) == CKM_AES_KEY_WRAP_KWP && kept < 512)
		all[kept++] = CKM_AES_KEY_WRAP_KWP;
	rv = out != NULL && *n < kept ? CKR_BUFFER_TOO_SMALL : CKR_OK;
	if (out != NULL && rv == CKR_OK)
		memcpy(out, all, kept * sizeof *all);
	*n = kept;
	return rv;
}

static CK_RV my_C_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE m, CK_MECHANISM_INFO_PTR out)
{
	ENTER(C_GetMechanismInfo, 0, 0);
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	if (m != atomic_load(&control->key_wrap))
		return real->C_GetMechanismInfo(slot, m, out);
	out->ulMinKeySize = 16;
	out->ulMaxKeySize = 32;
	out->flags = atomic_load(&control->key_wrap_encrypts) ? CKF_ENCRYPT | CKF_DECRYPT : CKF_WRAP | CKF_UNWRAP;
	return CKR_OK;
}

/* Sessions and login */

static CK_RV my_C_OpenSession(CK_SLOT_ID a, CK_FLAGS b, CK_VOID_PTR c, CK_NOTIFY d, CK_SESSION_HANDLE_PTR e)
{
	ENTER(C_OpenSession, 1, 0);
	uint32_t max = atomic_load(&control->max_sessions);
	if (max > 0 && atomic_load(&open_sessions) + atomic_load(&control->other_sessions) >= max)
		return atomic_load(&control->session_code);
	if (atomic_load(&control->read_only) && (b & CKF_RW_SESSION))
		return CKR_TOKEN_WRITE_PROTECTED;
	rv = real->C_OpenSession(a, b, c, d, e);
	if (rv == CKR_OK)
		session(0, *e);
	return rv;
}

static CK_RV my_C_CloseSession(CK_SESSION_HANDLE s)
{
	ENTER(C_CloseSession, 0, s);
	if (s != 0)
		session(s, 0);
	return real->C_CloseSession(s);
}

static CK_RV my_C_Login(CK_SESSION_HANDLE s, CK_USER_TYPE a, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	if (pin != NULL)
		snprintf(last_pin, sizeof last_pin, "%.*s", (int)n, (char *)pin);
	uint32_t tries = atomic_load(&control->pin_tries);
	if (tries > 0 && atomic_fetch_add(&control->pin_tried, 1) >= tries)
		return CKR_PIN_LOCKED;
	CK_RV rv = enter(AT_C_Login, 1, s);
	if (rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN)
		return rv;
	CK_RV did = real->C_Login(s, a, pin, n);
	if (did == CKR_OK)
		atomic_store(&control->pin_tried, 0);
	return rv != CKR_OK ? rv : did;
}

/* Objects */

static CK_RV my_C_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR a, CK_ULONG b)
{
	ENTER(C_FindObjectsInit, 1, s);
	struct session *x = session(s, s);
	if (x == NULL)
		return real->C_FindObjectsInit(s, a, b);
	x->hidden = take(&control->hidden) || atomic_load(&control->vanished);
	x->ghost = atomic_load(&control->ghost) != 0;
	x->any_case = 0;
	x->nameless = atomic_load(&control->nameless) != 0;
	CK_ATTRIBUTE kept[ATTRIBUTES];
	CK_ULONG keeps = 0;
	for (CK_ULONG i = 0; i < b && b <= ATTRIBUTES; i++) {
		if (a[i].type == CKA_LABEL)
			x->nameless = 0;
		if (a[i].type == CKA_LABEL && atomic_load(&control->any_case) && a[i].ulValueLen < sizeof x->label) {
			memcpy(x->label, a[i].pValue, a[i].ulValueLen);
			x->label[a[i].ulValueLen] = 0;
			x->any_case = 1;
			continue;
		}
		kept[keeps++] = a[i];
	}
	return x->any_case ? real->C_FindObjectsInit(s, kept, keeps) : real->C_FindObjectsInit(s, a, b);
}

/* Whether an object has the label that the search is for, but for the case. */
static int alike(struct session *x, CK_OBJECT_HANDLE o)
{
	char label[sizeof x->label] = {0};
	CK_ATTRIBUTE a = {CKA_LABEL, label, sizeof label - 1};
	return real->C_GetAttributeValue(x->handle, o, &a, 1) == CKR_OK && strcasecmp(label, x->label) == 0;
}

enum { GHOST = 0x7ffff001, NAMELESS };

static CK_RV my_C_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR a, CK_ULONG max, CK_ULONG_PTR n)
{
	ENTER(C_FindObjects, 0, s);
	struct session *x = session(s, s);
	if (x != NULL && max > 0 && (x->ghost || x->nameless)) { /* by itself, before the others */
		*a = ours(s, x->ghost ? GHOST : NAMELESS);
		*n = 1;
		if (x->ghost)
			x->ghost = 0;
		else
			x->nameless = 0;
		return CKR_OK;
	}
	do {
		rv = real->C_FindObjects(s, a, max > 1 && atomic_load(&control->find_one) ? 1 : max, n);
		CK_ULONG found = *n;
		*n = 0;
		for (CK_ULONG i = 0; rv == CKR_OK && i < found; i++)
			if (x == NULL || !x->any_case || alike(x, a[i]))
				a[(*n)++] = a[i];
		if (found == 0)
			break;
	} while (rv == CKR_OK && *n == 0);
	if (x != NULL && x->hidden)
		*n = 0;
	for (CK_ULONG i = 0; rv == CKR_OK && i < *n; i++)
		a[i] = ours(s, a[i]);
	return rv;
}

enum { PADDED = 32 };

static CK_RV my_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	ENTER(C_GetAttributeValue, 1, s);
	o = theirs(s, o);
	if (o == NAMELESS)
		return CKR_ATTRIBUTE_TYPE_INVALID;
	if (atomic_load(&control->vanished))
		return CKR_OBJECT_HANDLE_INVALID;
	char pad = (char)atomic_load(&control->pad);
	if (pad == 0 || n != 1 || a->type != CKA_LABEL)
		return real->C_GetAttributeValue(s, o, a, n);
	/* A label of 32 bytes, filled up with blanks, or one with a NUL behind it. */
	CK_BYTE label[256];
	CK_ATTRIBUTE own = {CKA_LABEL, label, sizeof label};
	rv = real->C_GetAttributeValue(s, o, &own, 1);
	if (rv != CKR_OK)
		return rv;
	if (pad == ' ')
		while (own.ulValueLen < PADDED)
			label[own.ulValueLen++] = ' ';
	else
		label[own.ulValueLen++] = 0;
	if (a->pValue != NULL && a->ulValueLen < own.ulValueLen)
		return CKR_BUFFER_TOO_SMALL;
	if (a->pValue != NULL)
		memcpy(a->pValue, label, own.ulValueLen);
	a->ulValueLen = own.ulValueLen;
	return CKR_OK;
}

/* Copies a template, with what is too long refused or cut. */
static CK_RV fit(CK_ATTRIBUTE_PTR to, CK_ATTRIBUTE_PTR from, CK_ULONG n)
{
	if (n > ATTRIBUTES)
		return CKR_HOST_MEMORY;
	for (CK_ULONG i = 0; i < n; i++) {
		if (from[i].type + 1 == atomic_load(&control->refused))
			return atomic_load(&control->refused_code);
		to[i] = from[i];
		uint32_t max = from[i].type == CKA_LABEL ? atomic_load(&control->label_max) : from[i].type == CKA_ID ? atomic_load(&control->id_max) : 0;
		if (max == 0 || from[i].ulValueLen <= max)
			continue;
		if (!atomic_load(&control->cut_silently))
			return CKR_ATTRIBUTE_VALUE_INVALID;
		to[i].ulValueLen = max;
	}
	return CKR_OK;
}

static CK_RV my_C_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_ATTRIBUTE fits[ATTRIBUTES];
	ENTER(C_GenerateKey, 1, s);
	rv = fit(fits, a, n);
	if (rv == CKR_OK)
		rv = real->C_GenerateKey(s, m, fits, n, o);
	if (rv == CKR_OK)
		*o = ours(s, *o);
	return rv;
}

static CK_RV my_C_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_ATTRIBUTE fits[ATTRIBUTES];
	ENTER(C_CreateObject, 1, s);
	rv = fit(fits, a, n);
	if (rv == CKR_OK)
		rv = real->C_CreateObject(s, fits, n, o);
	if (rv == CKR_OK)
		*o = ours(s, *o);
	return rv;
}

/* Key wrapping: SoftHSM2 does it by C_WrapKey and C_UnwrapKey alone, and as
 * CKM_AES_KEY_WRAP_PAD. 2.6.1 unwraps with the padding: what is wrapped comes
 * back as it was only if it is a multiple of 8 bytes. */

static CK_MECHANISM padded = {CKM_AES_KEY_WRAP_PAD, NULL, 0};

/* The mechanism as SoftHSM2 knows it; NULL if this token has it not, or not for these functions. */
static CK_MECHANISM_PTR wrapping(CK_MECHANISM_PTR m, int encrypts)
{
	uint32_t key_wrap = atomic_load(&control->key_wrap);
	if (m->mechanism != CKM_AES_KEY_WRAP_PAD && m->mechanism != CKM_AES_KEY_WRAP_KWP)
		return encrypts ? NULL : m;
	if (lacks(m->mechanism) || (key_wrap == 0 && m->mechanism == CKM_AES_KEY_WRAP_KWP) || (key_wrap != 0 ? (int)atomic_load(&control->key_wrap_encrypts) : 0) != encrypts)
		return NULL;
	return &padded;
}

static CK_RV my_C_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE a, CK_OBJECT_HANDLE b, CK_BYTE_PTR c, CK_ULONG_PTR d)
{
	ENTER(C_WrapKey, c != NULL, s);
	m = wrapping(m, 0);
	return m != NULL ? real->C_WrapKey(s, m, theirs(s, a), theirs(s, b), c, d) : CKR_MECHANISM_INVALID;
}

static CK_RV my_C_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_ATTRIBUTE_PTR d, CK_ULONG e, CK_OBJECT_HANDLE_PTR o)
{
	ENTER(C_UnwrapKey, 1, s);
	m = wrapping(m, 0);
	if (m == NULL)
		return CKR_MECHANISM_INVALID;
	CK_ATTRIBUTE kept[ATTRIBUTES];
	CK_ULONG keeps = 0;
	int missing = atomic_load(&control->needed) != 0;
	for (CK_ULONG i = 0; i < e && e <= ATTRIBUTES; i++) {
		if (d[i].type + 1 == atomic_load(&control->needed)) {
			missing = 0;
			continue; /* SoftHSM2 does not take it */
		}
		kept[keeps++] = d[i];
	}
	if (missing)
		return atomic_load(&control->needed_code);
	rv = real->C_UnwrapKey(s, m, theirs(s, a), b, c, kept, keeps, o);
	if (rv == CKR_OK)
		*o = ours(s, *o);
	return rv;
}

static CK_OBJECT_CLASS secret_key = CKO_SECRET_KEY;
static CK_KEY_TYPE generic = CKK_GENERIC_SECRET;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
#define READABLE \
	{CKA_CLASS, &secret_key, sizeof secret_key}, {CKA_KEY_TYPE, &generic, sizeof generic}, {CKA_TOKEN, &no, 1}, \
	{CKA_SENSITIVE, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}

static CK_RV wrap_data(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_OBJECT_HANDLE object;
	CK_ATTRIBUTE template[] = {READABLE, {CKA_VALUE, in, n}};
	CK_RV rv = real->C_CreateObject(s, template, sizeof template / sizeof *template, &object);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_WrapKey(s, &padded, key, object, out, len);
	real->C_DestroyObject(s, object);
	return rv;
}

static CK_RV unwrap_data(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_OBJECT_HANDLE object;
	CK_ATTRIBUTE template[] = {READABLE};
	CK_ATTRIBUTE value = {CKA_VALUE, out, *len};
	CK_RV rv = real->C_UnwrapKey(s, &padded, key, in, n, template, sizeof template / sizeof *template, &object);
	if (rv != CKR_OK)
		return CKR_ENCRYPTED_DATA_INVALID;
	rv = real->C_GetAttributeValue(s, object, &value, 1);
	*len = value.ulValueLen;
	real->C_DestroyObject(s, object);
	return rv;
}

/* AES-GCM in dialects, in the order of shim.go */

static const struct dialect {
	CK_ULONG min, max; /* how many bytes of IV C_EncryptInit takes */
	int zeros;         /* they must be zero */
	CK_ULONG makes;    /* how many the token makes; 0: as many as it was given */
	int behind;        /* they come behind the tag, not in their place */
	int bits;          /* ulIvBits must be right, also for C_DecryptInit */
} dialects[] = {
	{0},
	{0, 0, 0, 16, 1, 1},    /* Luna 7 in FIPS mode */
	{1, 128, 0, 0, 1, 0},   /* ProtectServer, PTK 7.0 in FIPS mode */
	{1, 128, 1, 0, 0, 0},   /* ProtectServer, PTK 7.1 in FIPS mode */
	{12, 12, 1, 12, 0, 0},  /* AWS CloudHSM */
	{0, 0, 0, 16, 1, 1},    /* Luna 7 in FIPS mode from 7.9.3: ulIvBits 96 asks for 12 bytes */
};
enum { LUNA_793 = 5 };

static CK_RV gcm_init(struct session *x, CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	const struct dialect *d = &dialects[atomic_load(&control->dialect)];
	if (m->pParameter == NULL || m->ulParameterLen != sizeof(CK_GCM_PARAMS))
		return CKR_MECHANISM_PARAM_INVALID;
	CK_GCM_PARAMS p = *(CK_GCM_PARAMS *)m->pParameter;
	if (p.ulIvLen < d->min || p.ulIvLen > d->max || (p.ulIvLen > 0 && p.pIv == NULL))
		return CKR_MECHANISM_PARAM_INVALID;
	for (CK_ULONG i = 0; d->zeros && i < p.ulIvLen; i++)
		if (p.pIv[i] != 0)
			return CKR_MECHANISM_PARAM_INVALID;
	x->iv_len = d->makes != 0 ? d->makes : p.ulIvLen;
	if (d == &dialects[LUNA_793] && p.ulIvBits == 96)
		x->iv_len = 12;
	if (getrandom(x->iv, x->iv_len, 0) != (ssize_t)x->iv_len)
		return CKR_FUNCTION_FAILED;
	x->iv_back = d->behind ? NULL : p.pIv;
	p.pIv = x->iv;
	p.ulIvLen = x->iv_len;
	p.ulIvBits = 8 * x->iv_len;
	CK_MECHANISM own = {CKM_AES_GCM, &p, sizeof p};
	return real->C_EncryptInit(s, &own, key);
}

/* What C_EncryptInit and C_DecryptInit have in common; *done if there is nothing left to do. */
static CK_RV begin(struct session *x, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key, int *done)
{
	*done = 1;
	x->iv_len = 0;
	x->key_wrap = 0;
	if (atomic_load(&control->vanished))
		return CKR_KEY_HANDLE_INVALID;
	if (m->mechanism == CKM_AES_GCM && lacks(CKM_AES_GCM))
		return CKR_MECHANISM_INVALID;
	if (m->mechanism == CKM_AES_KEY_WRAP_PAD || m->mechanism == CKM_AES_KEY_WRAP_KWP) {
		x->key_wrap = key;
		return wrapping(m, 1) != NULL ? CKR_OK : CKR_MECHANISM_INVALID;
	}
	*done = 0;
	return CKR_OK;
}

static CK_RV my_C_EncryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	int done;
	ENTER(C_EncryptInit, 0, s);
	struct session *x = session(s, s);
	key = theirs(s, key);
	if (x == NULL || m == NULL)
		return real->C_EncryptInit(s, m, key);
	rv = begin(x, m, key, &done);
	if (done)
		return rv;
	if (m->mechanism == CKM_AES_GCM && atomic_load(&control->dialect) != 0)
		return gcm_init(x, s, m, key);
	return real->C_EncryptInit(s, m, key);
}

static CK_RV my_C_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	int done;
	ENTER(C_DecryptInit, 0, s);
	struct session *x = session(s, s);
	key = theirs(s, key);
	if (x == NULL || m == NULL)
		return real->C_DecryptInit(s, m, key);
	rv = begin(x, m, key, &done);
	if (done)
		return rv;
	CK_GCM_PARAMS *p = m->pParameter;
	if (m->mechanism == CKM_AES_GCM && p != NULL && dialects[atomic_load(&control->dialect)].bits && p->ulIvBits != 8 * p->ulIvLen)
		return CKR_MECHANISM_PARAM_INVALID;
	return real->C_DecryptInit(s, m, key);
}

/* An operation that fails is over, also for SoftHSM2, which has not seen it fail. */
static CK_RV give_up(CK_C_Encrypt operation, CK_SESSION_HANDLE s, CK_RV rv)
{
	CK_BYTE in[32] = {0}, out[256];
	CK_ULONG n = sizeof out;
	operation(s, in, sizeof in, out, &n);
	return rv;
}

/* Asking for the length of the output, and the Init functions, go with the
 * operation in one round trip. */
static CK_RV my_C_Encrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR a, CK_ULONG b, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	CK_RV rv = enter(AT_C_Encrypt, out != NULL, s);
	if (rv != CKR_OK)
		return give_up(real->C_Encrypt, s, rv);
	struct session *x = session(s, s);
	if (x != NULL && x->key_wrap != 0 && out == NULL) {
		*n = (b + 7) / 8 * 8 + 8;
		return CKR_OK;
	} else if (x != NULL && x->key_wrap != 0) {
		return wrap_data(s, x->key_wrap, a, b, out, n);
	}
	CK_ULONG tail = x != NULL && x->iv_back == NULL ? x->iv_len : 0;
	*n = *n > tail ? *n - tail : 0;
	rv = real->C_Encrypt(s, a, b, out, n);
	if (rv == CKR_OK && out != NULL && tail > 0)
		memcpy(out + *n, x->iv, tail);
	else if (rv == CKR_OK && out != NULL && x != NULL && x->iv_len > 0)
		memcpy(x->iv_back, x->iv, x->iv_len);
	*n += tail;
	return rv;
}

static CK_RV my_C_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR a, CK_ULONG b, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	CK_RV rv = enter(AT_C_Decrypt, out != NULL, s);
	if (rv != CKR_OK)
		return give_up(real->C_Decrypt, s, rv);
	struct session *x = session(s, s);
	if (x == NULL || x->key_wrap == 0)
		return real->C_Decrypt(s, a, b, out, n);
	if (out != NULL)
		return unwrap_data(s, x->key_wrap, a, b, out, n);
	*n = b;
	return CKR_OK;
}

static int load(void)
{
	Dl_info me;
	char file[4096];
	struct stat st;
	if (real != NULL)
		return 0;
	if (dladdr((void *)load, &me) == 0 || snprintf(file, sizeof file, "%s.control", me.dli_fname) >= (int)sizeof file)
		return -1;
	int fd = open(file, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) != 0 || st.st_size != sizeof *control) /* shim.go has another layout */
		return -1;
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return -1;
	atomic_store(&my_stale, atomic_load(&control->stale));
	void *handle = dlopen(control->module, RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL)
		return -1;
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = (CK_RV(*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(handle, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK)
		return -1;
	list = *real;
#define INSTEAD(name) list.name = my_##name;
	WATCHED(INSTEAD)
	return 0;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (load() != 0)
		return CKR_GENERAL_ERROR;
	*out = &list;
	return CKR_OK;
}
