/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stack.c: owns the sites (a home and a call stack each, kept once), walks stacks, and names addresses.
 *
 * Walking is left to the compiler's runtime (_Unwind_Backtrace): it needs no frame pointers, and glibc 2.35 and
 * later answer it without a lock. The runtime is loaded when a mode wants stacks and not linked, so that other
 * programs do not carry it. It may allocate, and so may the loader: na_unhooked keeps those blocks from the hooks,
 * which ends the recursion. Names come from dladdr, the program's exported symbols; for all others a report
 * gives module and address for addr2line.
 *
 * Invariants. A site is never changed but for its counters nor removed, so a pointer to one needs no lock.
 *
 * Threads: buckets are read without a lock and changed under `lock`, a leaf above the bump allocator's.
 */
#define _GNU_SOURCE
#include "heap/hooks.h"
#include "modes/modes.h"

#include <errno.h>
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <unwind.h>

enum { BUCKETS = 1 << 14, OWN_FUNCTIONS_DEEP = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(na_site *) bucket[BUCKETS];
static _Atomic(na_site *) youngest;

typedef _Unwind_Reason_Code (*trace_function)(struct _Unwind_Context *context, void *data);
static _Unwind_Reason_Code (*backtrace_call)(trace_function each, void *data);
static _Unwind_Ptr (*ip_call)(struct _Unwind_Context *context);
static void *(*enclosing_call)(void *pc);
static _Atomic(bool) tried; /* before, stacks are empty because it is too early */

void na_stack_init(void) {
    bool before = na_unhooked;
    na_unhooked = true;
    void *runtime = dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL);
    if (runtime != NULL) {
        ip_call = (_Unwind_Ptr(*)(struct _Unwind_Context *))dlsym(runtime, "_Unwind_GetIP");
        enclosing_call = (void *(*)(void *))dlsym(runtime, "_Unwind_FindEnclosingFunction");
        backtrace_call = (_Unwind_Reason_Code(*)(trace_function, void *))dlsym(runtime, "_Unwind_Backtrace");
        if (ip_call == NULL) backtrace_call = NULL;
    }
    if (backtrace_call == NULL) os_message("numalloc: call stacks are not recorded: libgcc_s.so.1 can't be loaded\n");
    atomic_store_explicit(&tried, true, memory_order_release);
    na_unhooked = before;
}

/* ---- sites --------------------------------------------------------------------------------------------- */

typedef struct walk {
    uintptr_t frame[NA_FRAMES + NA_FRAMES_OWN];
    unsigned depth;
    bool first;
} walk;

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *data) {
    walk *to = data;
    uintptr_t address = (uintptr_t)ip_call(context);
    if (to->first) { /* na_site_here itself */
        to->first = false;
        return _URC_NO_REASON;
    }
    if (address == 0) return _URC_END_OF_STACK;
    to->frame[to->depth++] = address;
    return to->depth < NA_FRAMES + NA_FRAMES_OWN ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static uint64_t hash_of(const walk *stack, int node) {
    uint64_t hash = (uint64_t)(unsigned)node + 0x51;
    for (unsigned i = 0; i < stack->depth; i++) {
        hash = (hash ^ stack->frame[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    return hash;
}

static na_site *find(na_site *site, uint64_t hash, const walk *stack, int node) {
    for (; site != NULL; site = site->next)
        if (site->hash == hash && site->node == node && site->depth == stack->depth &&
            memcmp(site->frame, stack->frame, stack->depth * sizeof(uintptr_t)) == 0)
            return site;
    return NULL;
}

static na_site *insert(_Atomic(na_site *) *at, uint64_t hash, const walk *stack, int node) {
    pthread_mutex_lock(&lock);
    na_site *first = atomic_load_explicit(at, memory_order_relaxed);
    na_site *site = find(first, hash, stack, node);
    if (site == NULL && (site = na_bump_alloc(sizeof *site + stack->depth * sizeof(uintptr_t))) != NULL) {
        site->next = first;
        site->all_next = atomic_load_explicit(&youngest, memory_order_relaxed);
        site->hash = hash;
        site->node = (int16_t)node;
        site->depth = (uint16_t)stack->depth;
        memcpy(site->frame, stack->frame, stack->depth * sizeof(uintptr_t));
        atomic_store_explicit(at, site, memory_order_release);
        atomic_store_explicit(&youngest, site, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return site;
}

__attribute__((noinline)) na_site *na_site_here(int node) {
    walk stack = {.first = true};
    if (atomic_load_explicit(&tried, memory_order_acquire) && backtrace_call != NULL && !na_unhooked) {
        int saved = errno;
        na_unhooked = true;
        (void)backtrace_call(step, &stack);
        na_unhooked = false;
        errno = saved;
    }
    uint64_t hash = hash_of(&stack, node);
    _Atomic(na_site *) *at = &bucket[hash >> 32 & (BUCKETS - 1)];
    na_site *site = find(atomic_load_explicit(at, memory_order_acquire), hash, &stack, node);
    return site != NULL ? site : insert(at, hash, &stack, node);
}

na_site *na_sites(void) { return atomic_load_explicit(&youngest, memory_order_acquire); }

void na_site_fork(int how) { na_fork_step(&lock, how); }

/* ---- names --------------------------------------------------------------------------------------------- */

/* The public calls, and what they end in by a jump that leaves no frame of theirs. */
static bool own_function(const void *start) {
    const void *const own[] = {(void *)numalloc,         (void *)numalloc_calloc,      (void *)numalloc_realloc,
                               (void *)numalloc_aligned, (void *)numalloc_request,     (void *)numalloc_onnode,
                               (void *)numalloc_free,    (void *)numalloc_interleaved, (void *)numalloc_blocked,
                               (void *)na_modes.alloc,   (void *)na_modes.alloc_here,  (void *)na_modes.realloc,
                               (void *)na_modes.free,    (void *)na_guard_free,        (void *)na_guard_realloc};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (start == own[i]) return true;
    return false;
}

/* Base of the library this code is in; 0 where it is linked into the program, whose frames are the user's too. */
static uintptr_t own_library(void) {
    Dl_info info;
    struct link_map *map;
    if (dladdr1((void *)na_site_here, &info, (void **)&map, RTLD_DL_LINKMAP) == 0 || map == NULL) return 0;
    return map->l_name != NULL && map->l_name[0] != '\0' ? (uintptr_t)info.dli_fbase : 0;
}

static uintptr_t base_of(uintptr_t frame) {
    Dl_info info;
    return dladdr((void *)(frame - 1), &info) != 0 ? (uintptr_t)info.dli_fbase : 0;
}

unsigned na_site_skip(const na_site *site) {
    uintptr_t library = own_library();
    unsigned skip = 0;
    for (unsigned i = 0; i < site->depth && i < OWN_FUNCTIONS_DEEP; i++) {
        bool own = library != 0 && base_of(site->frame[i]) == library;
        if (!own && enclosing_call != NULL) own = own_function(enclosing_call((void *)site->frame[i]));
        if (own) skip = i + 1;
    }
    return skip;
}

bool na_site_startup(const na_site *site) {
    if (site->depth == 0) return backtrace_call != NULL;
    uintptr_t loader = getauxval(AT_BASE);
    for (unsigned i = 0; i < site->depth && loader != 0; i++)
        if (base_of(site->frame[i]) == loader) return true;
    return false;
}

void na_symbol_at(uintptr_t frame, na_symbol *symbol) {
    Dl_info info;
    struct link_map *map = NULL;
    uintptr_t at = frame - 1; /* a call that never returns ends its function: its return address is the next one's */
    *symbol = (na_symbol){.address = at};
    if (dladdr1((void *)at, &info, (void **)&map, RTLD_DL_LINKMAP) == 0) return;
    symbol->module = info.dli_fname;
    symbol->function = info.dli_sname;
    if (info.dli_sname != NULL) symbol->offset = at - (uintptr_t)info.dli_saddr;
    if (map != NULL) symbol->address = at - map->l_addr;
}

void na_site_print(na_out *out, const na_site *site, const char *indent) {
    if (site == NULL || site->depth == 0) {
        na_out_put(out, "%s(no call stack)\n", indent);
        return;
    }
    unsigned skip = na_site_skip(site);
    for (unsigned i = skip; i < site->depth && i < skip + NA_FRAMES; i++) {
        na_symbol symbol;
        na_symbol_at(site->frame[i], &symbol);
        na_out_put(out, "%s#%u %#lx ", indent, i - skip, (unsigned long)(site->frame[i] - 1));
        if (symbol.function != NULL) na_out_put(out, "%.500s+%#lx ", symbol.function, (unsigned long)symbol.offset);
        na_out_put(out, "(%.1000s+%#lx)\n", symbol.module != NULL ? symbol.module : "?", (unsigned long)symbol.address);
    }
}
