/* SPDX-License-Identifier: BSD-3-Clause
 *
 * preload_cxx.c: C++'s operators new and delete in all forms, by their mangled names (64-bit size_t), so that a
 * `new` is one call and not two.
 *
 * Invariants. As in C++, a form that the program does not replace ends in the one it may have replaced: arrays in
 * the single form, sized and nothrow deletes in the plain ones, the single form in malloc and free. All these
 * calls are bound by the dynamic linker, hence to the program's own where it has one.
 * When memory is out, the C++ runtime's own operator is called: it knows the program's new_handler, calls our
 * malloc until that works, and throws. So there is no need for C++ here; exceptions pass through the frames.
 *
 * Threads: as malloc.
 */
#define _GNU_SOURCE
#include "preload/preload.h"
#include "types.h"

#include <dlfcn.h>
#include <stdlib.h>

_Static_assert(sizeof(size_t) == sizeof(unsigned long), "the names below say unsigned long");

typedef void *new_plain(size_t size);
typedef void *new_aligned(size_t size, size_t align);
typedef void *new_nothrow(size_t size, const void *tag);
typedef void *new_aligned_nothrow(size_t size, size_t align, const void *tag);

NUMALLOC_API void *_Znwm(size_t size);
NUMALLOC_API void *_ZnwmSt11align_val_t(size_t size, size_t align);
NUMALLOC_API void _ZdlPv(void *ptr);
NUMALLOC_API void _ZdaPv(void *ptr);
NUMALLOC_API void _ZdlPvSt11align_val_t(void *ptr, size_t align);
NUMALLOC_API void _ZdaPvSt11align_val_t(void *ptr, size_t align);

/* Hidden names of this library's operators, to find out whether the public ones are replaced. */
extern __typeof__(_Znwm) our_new __attribute__((alias("_Znwm"), visibility("hidden")));
extern __typeof__(_ZnwmSt11align_val_t) our_new_aligned
    __attribute__((alias("_ZnwmSt11align_val_t"), visibility("hidden")));

/* Is `bound`, what the dynamic linker chose, ours? Through a register, or the compiler would take two names for
 * two functions. */
static inline bool same(uintptr_t bound, uintptr_t ours) {
    __asm__("" : "+r"(bound));
    return bound == ours;
}

/* ---- the C++ runtime ----------------------------------------------------------------------------------- */

/* A look-up in the program itself finds this library again. */
static bool is_ours(void *found) {
    Dl_info here, there;
    return dladdr((void *)our_new, &here) != 0 && dladdr(found, &there) != 0 && here.dli_fbase == there.dli_fbase;
}

static void *in_object(const char *path, const char *name) {
    void *object = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (object == NULL) return NULL;
    void *found = dlsym(object, name);
    (void)dlclose(object); /* it was there before, and stays */
    return found == NULL || is_ours(found) ? NULL : found;
}

/* The runtime's operator: in the program's global scope; else in the object that called, which may carry its own
 * runtime; else in a runtime that came with a dlopened library, in that library's scope. Not kept: it may be
 * unloaded, and memory is not out often. NULL if there is none. */
static void *runtime_operator(const char *name, const void *caller) {
    static const char *const runtimes[] = {"libstdc++.so.6", "libc++.so.1", "libc++abi.so.1"};
    void *found = na_preload_next(name);
    Dl_info object;
    if (found == NULL && dladdr(caller, &object) != 0 && object.dli_fname != NULL)
        found = in_object(object.dli_fname, name);
    for (size_t i = 0; found == NULL && i < sizeof runtimes / sizeof *runtimes; i++)
        found = in_object(runtimes[i], name);
    return found;
}

static void *required(const char *name, const void *caller, size_t size) {
    void *found = runtime_operator(name, caller);
    if (found != NULL) return found;
    os_message("numalloc: operator new(%zu): out of memory, and there is no C++ runtime to throw std::bad_alloc; "
               "remedy: link the program with the C++ compiler\n",
               size);
    os_abort();
}

/* ---- new ----------------------------------------------------------------------------------------------- */

/* noinline: the fast paths stay free of its frame. */
__attribute__((noinline)) static void *throwing(size_t size, const void *caller) {
    return ((new_plain *)required("_Znwm", caller, size))(size);
}

NUMALLOC_API void *_Znwm(size_t size) {
    void *ptr = malloc(size);
    if (NA_LIKELY(ptr != NULL)) return ptr;
    return throwing(size, __builtin_return_address(0));
}

NUMALLOC_API void *_Znam(size_t size) { return _Znwm(size); }

__attribute__((noinline)) static void *throwing_aligned(size_t size, size_t align, const void *caller) {
    return ((new_aligned *)required("_ZnwmSt11align_val_t", caller, size))(size, align);
}

NUMALLOC_API void *_ZnwmSt11align_val_t(size_t size, size_t align) {
    void *ptr = aligned_alloc(align, size);
    if (NA_LIKELY(ptr != NULL)) return ptr;
    return throwing_aligned(size, align, __builtin_return_address(0));
}

NUMALLOC_API void *_ZnamSt11align_val_t(size_t size, size_t align) { return _ZnwmSt11align_val_t(size, align); }

/* The nothrow forms give NULL where the plain one would throw. Catching is the runtime's part, so a plain form
 * that the program replaced is called by the runtime's nothrow form. Without a runtime nothing can throw. */
static void *nothrow(const char *name, size_t size, const void *tag, const void *caller) {
    if (same((uintptr_t)_Znwm, (uintptr_t)our_new)) {
        void *ptr = malloc(size);
        if (NA_LIKELY(ptr != NULL)) return ptr;
    }
    new_nothrow *next = (new_nothrow *)runtime_operator(name, caller);
    return next != NULL ? next(size, tag) : NULL;
}

NUMALLOC_API void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag) {
    return nothrow("_ZnwmRKSt9nothrow_t", size, tag, __builtin_return_address(0));
}

NUMALLOC_API void *_ZnamRKSt9nothrow_t(size_t size, const void *tag) {
    return nothrow("_ZnamRKSt9nothrow_t", size, tag, __builtin_return_address(0));
}

static void *nothrow_aligned(const char *name, size_t size, size_t align, const void *tag, const void *caller) {
    if (same((uintptr_t)_ZnwmSt11align_val_t, (uintptr_t)our_new_aligned)) {
        void *ptr = aligned_alloc(align, size);
        if (NA_LIKELY(ptr != NULL)) return ptr;
    }
    new_aligned_nothrow *next = (new_aligned_nothrow *)runtime_operator(name, caller);
    return next != NULL ? next(size, align, tag) : NULL;
}

NUMALLOC_API void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, const void *tag) {
    return nothrow_aligned("_ZnwmSt11align_val_tRKSt9nothrow_t", size, align, tag, __builtin_return_address(0));
}

NUMALLOC_API void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, const void *tag) {
    return nothrow_aligned("_ZnamSt11align_val_tRKSt9nothrow_t", size, align, tag, __builtin_return_address(0));
}

/* ---- delete: sizes and alignments are advice that nothing here needs ------------------------------------------- */

NUMALLOC_API void _ZdlPv(void *ptr) { free(ptr); }
NUMALLOC_API void _ZdaPv(void *ptr) { _ZdlPv(ptr); }
NUMALLOC_API void _ZdlPvSt11align_val_t(void *ptr, size_t align) {
    (void)align;
    free(ptr);
}
NUMALLOC_API void _ZdaPvSt11align_val_t(void *ptr, size_t align) { _ZdlPvSt11align_val_t(ptr, align); }

NUMALLOC_API void _ZdlPvm(void *ptr, size_t size) {
    (void)size;
    _ZdlPv(ptr);
}
NUMALLOC_API void _ZdaPvm(void *ptr, size_t size) {
    (void)size;
    _ZdaPv(ptr);
}
NUMALLOC_API void _ZdlPvRKSt9nothrow_t(void *ptr, const void *tag) {
    (void)tag;
    _ZdlPv(ptr);
}
NUMALLOC_API void _ZdaPvRKSt9nothrow_t(void *ptr, const void *tag) {
    (void)tag;
    _ZdaPv(ptr);
}
NUMALLOC_API void _ZdlPvmSt11align_val_t(void *ptr, size_t size, size_t align) {
    (void)size;
    _ZdlPvSt11align_val_t(ptr, align);
}
NUMALLOC_API void _ZdaPvmSt11align_val_t(void *ptr, size_t size, size_t align) {
    (void)size;
    _ZdaPvSt11align_val_t(ptr, align);
}
NUMALLOC_API void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *ptr, size_t align, const void *tag) {
    (void)tag;
    _ZdlPvSt11align_val_t(ptr, align);
}
NUMALLOC_API void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *ptr, size_t align, const void *tag) {
    (void)tag;
    _ZdaPvSt11align_val_t(ptr, align);
}
