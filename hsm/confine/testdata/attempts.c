/* What C code may try in a confined process. Prints "ok", or the error's number. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *nothing(void *p) { return p; }

int main(int argc, char **argv) {
	if (argc != 2)
		return 2;
	if (!strcmp(argv[1], "leak")) { /* 1 GiB, touched; prints the MiB that it got */
		for (int mib = 0; mib < 1024; mib += 16) {
			void *p = malloc(16 << 20);
			if (!p)
				return printf("%d\n", mib) < 0;
			memset(p, 1, 16 << 20);
		}
		return printf("1024\n") < 0;
	}
	if (!strcmp(argv[1], "thread")) { /* C libraries make threads with clone3 */
		pthread_t t;
		errno = pthread_create(&t, NULL, nothing, NULL);
		if (!errno)
			pthread_join(t, NULL);
	}
#ifdef __x86_64__
	if (!strcmp(argv[1], "unshare32")) { /* unshare(CLONE_NEWUSER) by its number of 32 bits */
		long r;
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(310L), "b"(0x10000000L) : "memory");
		errno = r < 0 ? -r : 0;
	}
#endif
	if (errno)
		printf("%d\n", errno);
	else
		printf("ok\n");
	return 0;
}
