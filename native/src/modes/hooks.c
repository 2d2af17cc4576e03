/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hooks.c: owns the table na_modes, through which the modes see every block: leaks, heap profile, guard. One function
 * where a block goes to the user, one where it is resized, one where it comes back; api.c calls them from its slow paths.
 *
 * Invariants. Nothing here runs in the normal mode: na_hooked is false and no table exists. While it is set no
 * thread has a heap in na_self, so the fast paths miss and every call comes here. Sizes in records are those asked
 * for. A thread that is inside the unwinder or the dynamic linker on our behalf (na_unhooked) gets blocks that
 * pass no hook: they are the modes' own. A record is taken out before its block goes back, so that the next owner of the
 * address finds none.
 *
 * Threads: na_hooked is constant after na_init; the rest is per thread, or in the files below.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "modes/modes.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

#define TLS _Thread_local __attribute__((tls_model("initial-exec")))

static TLS uint32_t thread_id;

static bool leaks, profile, guard;

static bool init(void) {
    leaks = na_opt.leaks[0] != '\0';
    profile = na_opt.profile[0] != '\0';
    guard = na_opt.guard != NA_GUARD_OFF;
    if (!leaks && !profile && !guard) return true;
    na_hooked = na_records_init() == 0;
    return na_hooked;
}

static void start(void) {
    if (leaks || profile) na_stack_init();
}

static uint32_t this_thread(void) {
    if (thread_id == 0) thread_id = os_thread_id();
    return thread_id;
}

/* Writes down a block that goes to the user. false: it could not be, though its layout needs it. */
static bool note(void *user, na_record *record) {
    bool sampled = profile && na_profile_pick(record->size);
    if (!leaks && !guard && !sampled) return true;
    if (record->start == 0) record->start = (uintptr_t)user;
    record->node = (int16_t)na_regions[na_span_at(user)->region].node;
    record->thread = this_thread();
    if (leaks || sampled) {
        record->site = na_site_here(record->node);
        if (record->site == NULL) na_record_lost();
    }
    if (sampled && record->site != NULL) {
        if (na_profile_made(record->site, record->size)) record->flags |= NA_RECORD_SAMPLED;
        else na_record_lost();
    }
    if (na_record_put(record)) return true;
    if ((record->flags & NA_RECORD_SAMPLED) != 0) na_profile_gone(record->site, record->size);
    return (record->flags & NA_RECORD_GUARDED) == 0;
}

static void *hook_alloc(const numalloc_request_t *request) {
    if (na_unhooked) return na_request(request);
    na_record record = {.size = request->size};
    void *user = guard ? na_guard_alloc(request, &record) : na_request(request);
    if (user == NULL && guard && errno == ENOMEM) { /* what the quarantine holds may be what is missing */
        na_guard_drain();
        user = na_guard_alloc(request, &record);
    }
    if (user == NULL || note(user, &record)) return user;
    na_guard_undo(&record);
    return na_request(request);
}

static void *alloc_here(size_t size, size_t align, unsigned flags) {
    numalloc_request_t request = {.size = size, .align = align, .flags = flags};
    return hook_alloc(&request);
}

static void hook_free(void *ptr, const char *call) {
    uintptr_t start = na_block_start(ptr);
    if (start != 0 && guard) {
        na_guard_free(start, ptr, call);
        return;
    }
    na_record record;
    if (start != 0 && na_record_take(start, (uintptr_t)ptr, &record) && (record.flags & NA_RECORD_SAMPLED) != 0)
        na_profile_gone(record.site, record.size);
    na_free(ptr, call);
}

/* One block freed and another allocated, as far as the modes are concerned. */
static void *hook_realloc(void *ptr, size_t size) {
    uintptr_t start = na_block_start(ptr);
    if (start != 0 && guard) return na_guard_realloc(start, ptr, size);
    na_record record;
    bool had = start != 0 && na_record_take(start, (uintptr_t)ptr, &record);
    void *moved = na_realloc(ptr, size);
    if (moved == NULL) {
        if (had && !na_record_put(&record) && (record.flags & NA_RECORD_SAMPLED) != 0)
            na_profile_gone(record.site, record.size);
        return NULL;
    }
    if (had && (record.flags & NA_RECORD_SAMPLED) != 0) na_profile_gone(record.site, record.size);
    if (!na_unhooked) (void)note(moved, &(na_record){.size = size});
    return moved;
}

static bool describe(numalloc_block_info_t *info) {
    na_record record;
    if (!guard || !na_record_look((uintptr_t)info->start, &record)) return true;
    info->start = (void *)(record.start + record.shift);
    info->size = record.size;
    return (record.flags & NA_RECORD_FREED) == 0;
}

static bool verify(void) { return !guard || na_guard_check("numalloc_verify", false); }

static void write_reports(void) {
    if (leaks) na_leaks_exit();
    if (profile) na_profile_exit();
}

static void cleanup(bool report) {
    if (guard) na_guard_drain();
    if (report) write_reports();
}

static void hook_fork(int step) {
    static void (*const parts[])(int) = {na_record_fork, na_site_fork, na_guard_fork, na_bump_fork};
    enum { PARTS = sizeof parts / sizeof parts[0] };
    for (int i = 0; i < PARTS; i++) parts[step == NA_FORK_PREPARE ? i : PARTS - 1 - i](step);
    if (step != NA_FORK_CHILD) return;
    thread_id = 0;
    na_profile_fork();
    na_leaks_fork();
}

const na_hooks na_modes = {
    .init = init,
    .start = start,
    .alloc = hook_alloc,
    .alloc_here = alloc_here,
    .realloc = hook_realloc,
    .free = hook_free,
    .describe = describe,
    .verify = verify,
    .cleanup = cleanup,
    .fork = hook_fork,
};

__attribute__((destructor)) static void at_exit(void) {
    if (!na_hooked) return;
    if (guard) (void)na_guard_check("exit", true);
    write_reports();
}
