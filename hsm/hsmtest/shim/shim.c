/* A PKCS#11 module for tests and benchmarks that stands before SoftHSM2: it
 * forwards every call, and on command delays, fails, cuts or hangs, as a token
 * behind a network does. The commands come through a file that is mapped into
 * memory here and in the test (see shim.go, which has the same layout).
 *
 * HOLDFAST_SHIM_MODULE is the module to forward to, HOLDFAST_SHIM_CONTROL the
 * file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

/* The functions that are watched, in the order of shim.go. */
enum {
	INITIALIZE, GET_SLOT_LIST, GET_TOKEN_INFO, OPEN_SESSION, GET_SESSION_INFO, LOGIN,
	FIND_OBJECTS_INIT, GENERATE_KEY, CREATE_OBJECT, DESTROY_OBJECT, GENERATE_RANDOM,
	ENCRYPT_INIT, ENCRYPT, DECRYPT_INIT, DECRYPT, FUNCTIONS
};

struct control {
	_Atomic uint32_t delay_us;     /* of each call that crosses to the token */
	_Atomic uint32_t cut;          /* not 0: the token is not there */
	_Atomic uint32_t epoch;        /* grows with each cut */
	_Atomic uint32_t hang;         /* 1 + the function that does not come back */
	_Atomic uint32_t fail_code[FUNCTIONS];
	_Atomic uint32_t fail_count[FUNCTIONS];
	_Atomic uint32_t calls[FUNCTIONS];
};

static struct control *control;
static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static _Atomic uint32_t my_epoch; /* of the last C_Initialize */

static void pause_us(uint32_t us)
{
	struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
	while (nanosleep(&t, &t) != 0)
		;
}

/* Counts a call and says what it is to answer; CKR_OK to go on. */
static CK_RV enter(int f, int crosses)
{
	atomic_fetch_add(&control->calls[f], 1);
	while (atomic_load(&control->hang) == (uint32_t)f + 1)
		pause_us(1000);
	if (atomic_load(&control->cut))
		return CKR_DEVICE_REMOVED;
	if (f != INITIALIZE && atomic_load(&my_epoch) != atomic_load(&control->epoch))
		return CKR_SESSION_HANDLE_INVALID;
	uint32_t n = atomic_load(&control->fail_count[f]);
	while (n > 0) {
		if (atomic_compare_exchange_weak(&control->fail_count[f], &n, n - 1))
			return atomic_load(&control->fail_code[f]);
	}
	uint32_t us = atomic_load(&control->delay_us);
	if (crosses && us > 0)
		pause_us(us);
	return CKR_OK;
}

#define FORWARD(f, crosses, call)        \
	do {                                 \
		CK_RV rv = enter(f, crosses);    \
		return rv == CKR_OK ? (call) : rv; \
	} while (0)

static CK_RV initialize(CK_VOID_PTR a)
{
	CK_RV rv = enter(INITIALIZE, 0);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_Initialize(a);
	if (rv == CKR_OK)
		atomic_store(&my_epoch, atomic_load(&control->epoch));
	return rv;
}
static CK_RV get_slot_list(CK_BBOOL a, CK_SLOT_ID_PTR b, CK_ULONG_PTR c) { FORWARD(GET_SLOT_LIST, 0, real->C_GetSlotList(a, b, c)); }
static CK_RV get_token_info(CK_SLOT_ID a, CK_TOKEN_INFO_PTR b) { FORWARD(GET_TOKEN_INFO, 0, real->C_GetTokenInfo(a, b)); }
static CK_RV open_session(CK_SLOT_ID a, CK_FLAGS b, CK_VOID_PTR c, CK_NOTIFY d, CK_SESSION_HANDLE_PTR e) { FORWARD(OPEN_SESSION, 1, real->C_OpenSession(a, b, c, d, e)); }
static CK_RV get_session_info(CK_SESSION_HANDLE a, CK_SESSION_INFO_PTR b) { FORWARD(GET_SESSION_INFO, 0, real->C_GetSessionInfo(a, b)); }
static CK_RV login(CK_SESSION_HANDLE a, CK_USER_TYPE b, CK_UTF8CHAR_PTR c, CK_ULONG d) { FORWARD(LOGIN, 1, real->C_Login(a, b, c, d)); }
static CK_RV find_objects_init(CK_SESSION_HANDLE a, CK_ATTRIBUTE_PTR b, CK_ULONG c) { FORWARD(FIND_OBJECTS_INIT, 1, real->C_FindObjectsInit(a, b, c)); }
static CK_RV generate_key(CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_ATTRIBUTE_PTR c, CK_ULONG d, CK_OBJECT_HANDLE_PTR e) { FORWARD(GENERATE_KEY, 1, real->C_GenerateKey(a, b, c, d, e)); }
static CK_RV create_object(CK_SESSION_HANDLE a, CK_ATTRIBUTE_PTR b, CK_ULONG c, CK_OBJECT_HANDLE_PTR d) { FORWARD(CREATE_OBJECT, 1, real->C_CreateObject(a, b, c, d)); }
static CK_RV destroy_object(CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b) { FORWARD(DESTROY_OBJECT, 1, real->C_DestroyObject(a, b)); }
static CK_RV generate_random(CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c) { FORWARD(GENERATE_RANDOM, 1, real->C_GenerateRandom(a, b, c)); }
/* Asking for the length of the output, and the Init functions, go with the
 * operation in one round trip. */
static CK_RV encrypt_init(CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c) { FORWARD(ENCRYPT_INIT, 0, real->C_EncryptInit(a, b, c)); }
static CK_RV encrypt(CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e) { FORWARD(ENCRYPT, d != NULL, real->C_Encrypt(a, b, c, d, e)); }
static CK_RV decrypt_init(CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c) { FORWARD(DECRYPT_INIT, 0, real->C_DecryptInit(a, b, c)); }
static CK_RV decrypt(CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e) { FORWARD(DECRYPT, d != NULL, real->C_Decrypt(a, b, c, d, e)); }

static int load(void)
{
	if (real != NULL)
		return 0;
	const char *module = getenv("HOLDFAST_SHIM_MODULE");
	const char *file = getenv("HOLDFAST_SHIM_CONTROL");
	if (module == NULL || file == NULL)
		return -1;
	int fd = open(file, O_RDWR);
	if (fd < 0)
		return -1;
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return -1;
	void *handle = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL)
		return -1;
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = (CK_RV(*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(handle, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK)
		return -1;
	list = *real;
	list.C_Initialize = initialize;
	list.C_GetSlotList = get_slot_list;
	list.C_GetTokenInfo = get_token_info;
	list.C_OpenSession = open_session;
	list.C_GetSessionInfo = get_session_info;
	list.C_Login = login;
	list.C_FindObjectsInit = find_objects_init;
	list.C_GenerateKey = generate_key;
	list.C_CreateObject = create_object;
	list.C_DestroyObject = destroy_object;
	list.C_GenerateRandom = generate_random;
	list.C_EncryptInit = encrypt_init;
	list.C_Encrypt = encrypt;
	list.C_DecryptInit = decrypt_init;
	list.C_Decrypt = decrypt;
	return 0;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (load() != 0)
		return CKR_GENERAL_ERROR;
	*out = &list;
	return CKR_OK;
}
