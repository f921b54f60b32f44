package module

/*
#include <stdlib.h>
#include <string.h>

static void *(*const volatile set)(void *, int, size_t) = memset; // is not optimized away

// malloc hands out first what this thread freed last.
static void overwrite_freed(size_t size)
{
	enum { MANY = 16 }; // more than malloc caches of a size per thread
	void *p[MANY];
	for (int i = 0; i < MANY; i++)
		if ((p[i] = malloc(size)) != NULL)
			set(p[i], 0, size);
	for (int i = 0; i < MANY; i++)
		free(p[i]);
}
*/
import "C"

import "runtime"

// erasing calls f, in which the binding copies a secret of n bytes to memory of
// C and frees that as it is, and overwrites what was freed.
func erasing(n int, f func() error) error {
	runtime.LockOSThread() // C's memory is cached per thread
	defer runtime.UnlockOSThread()
	err := f()
	// Where the length was asked for before, the token may have said more.
	for size := n; size <= n+2*tagBytes; size += tagBytes {
		C.overwrite_freed(C.size_t(size))
	}
	return err
}
