/* SPDX-License-Identifier: BSD-3-Clause
 *
 * leaks.c: lists the blocks that are live, by site. A block that is live is not a leak by itself: nothing here looks
 * for pointers to it, so what the program still uses, or keeps on purpose until its end, is listed too.
 *
 * Startup. What the dynamic linker allocates (descriptions of libraries, thread-local storage), what constructors of
 * libraries allocate, which it calls, and what was allocated before our own constructor ran is never freed by design
 * and there is much of it. Such sites, told by a frame in the dynamic linker or by having no stack, are summed up in
 * one line and not listed. Constructors of the program itself are called by the C library and are listed.
 *
 * Threads: one report at a time, under `lock`, which is not a leaf: stripes are taken under it. No allocating path
 * takes it.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "modes/modes.h"
#include "os/options.h"

#include <errno.h>

enum { TEXT_GROUPS = 100 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static na_site nowhere; /* of blocks whose site could not be kept; as the sites' fields, by `lock` */

typedef struct report {
    numalloc_leak_totals_t totals;
    na_site **groups;
    size_t count, capacity_bytes;
} report;

static bool add(na_record *record, void *data) {
    (void)data;
    if ((record->flags & NA_RECORD_FREED) != 0) return false;
    na_site *site = record->site != NULL ? record->site : &nowhere;
    if (site->blocks++ == 0 || record->size > site->largest) {
        site->largest = record->size;
        site->largest_at = record->start + record->shift;
        site->thread = record->thread;
    }
    site->bytes += record->size;
    return false;
}

static bool before(const na_site *a, const na_site *b) {
    return a->bytes != b->bytes ? a->bytes > b->bytes : a->blocks > b->blocks;
}

/* Shell's sort: qsort may allocate. */
static void sort(na_site **groups, size_t count) {
    for (size_t gap = count / 2; gap != 0; gap /= 2)
        for (size_t i = gap; i < count; i++) {
            na_site *moving = groups[i];
            size_t at = i;
            for (; at >= gap && before(moving, groups[at - gap]); at -= gap) groups[at] = groups[at - gap];
            groups[at] = moving;
        }
}

/* 0 or errno. */
static int gather(report *to) {
    na_site *first = na_sites();
    size_t sites = 1;
    for (na_site *site = first; site != NULL; site = site->all_next, sites++)
        site->blocks = site->bytes = site->largest = 0;
    nowhere = (na_site){.node = NUMALLOC_NODE_FOREIGN};
    to->capacity_bytes = na_round_up(sites * sizeof *to->groups, os_page_size());
    void *groups;
    int error = os_map(to->capacity_bytes, &groups);
    if (error != 0) return error;
    to->groups = groups;
    na_records_each(add, NULL);
    /* Sites younger than the list are in no group: their blocks came after the report was asked for. */
    for (na_site *site = first; site != NULL; site = site->all_next) {
        if (site->blocks == 0) continue;
        if (na_site_startup(site)) {
            to->totals.startup_blocks += site->blocks;
            to->totals.startup_bytes += site->bytes;
        } else {
            to->groups[to->count++] = site;
        }
    }
    if (nowhere.blocks != 0) to->groups[to->count++] = &nowhere;
    for (size_t i = 0; i < to->count; i++) {
        to->totals.blocks += to->groups[i]->blocks;
        to->totals.bytes += to->groups[i]->bytes;
    }
    to->totals.unrecorded = na_records_lost();
    sort(to->groups, to->count);
    return 0;
}

/* ---- text ------------------------------------------------------------------------------------------------ */

static const char *plural(uint64_t count) { return count == 1 ? "" : "s"; }

static void put_group_text(na_out *out, const na_site *site) {
    na_out_put(out, "\n%llu bytes in %llu block%s ", (unsigned long long)site->bytes, (unsigned long long)site->blocks,
               plural(site->blocks));
    if (site->node >= 0) na_out_put(out, "on node %d", site->node);
    else na_out_put(out, site->node == NUMALLOC_NODE_MIXED ? "on several nodes" : "on any node");
    na_out_put(out, ", the largest %llu bytes at %#lx by thread %u\n", (unsigned long long)site->largest,
               (unsigned long)site->largest_at, site->thread);
    na_site_print(out, site, "    ");
}

static void put_text(na_out *out, const report *from) {
    const numalloc_leak_totals_t *t = &from->totals;
    na_out_put(out, "numalloc: process %u has %llu block%s of %llu bytes allocated, from %zu place%s\n",
               os_process_id(), (unsigned long long)t->blocks, plural(t->blocks), (unsigned long long)t->bytes,
               from->count, plural(from->count));
    na_out_put(out, "not listed: %llu block%s of %llu bytes of the dynamic linker and of libraries' constructors\n",
               (unsigned long long)t->startup_blocks, plural(t->startup_blocks), (unsigned long long)t->startup_bytes);
    if (t->unrecorded != 0)
        na_out_put(out, "incomplete: %llu times there was no memory for a record; raise NUMALLOC_WATCH_LIMIT\n",
                   (unsigned long long)t->unrecorded);
    size_t shown = from->count < TEXT_GROUPS ? from->count : TEXT_GROUPS;
    for (size_t i = 0; i < shown; i++) put_group_text(out, from->groups[i]);
    if (shown < from->count)
        na_out_put(out, "\nand %zu smaller groups: a report to a name that ends in .json has all\n",
                   from->count - shown);
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

static void put_name(na_out *out, const char *key, const char *name) {
    na_out_put(out, ", \"%s\": ", key);
    if (name != NULL) na_out_string(out, name);
    else na_out_put(out, "null");
}

static void put_group_json(na_out *out, const na_site *site) {
    na_out_put(out, "{\"bytes\": %llu, \"blocks\": %llu, \"node\": %d, ", (unsigned long long)site->bytes,
               (unsigned long long)site->blocks, site->node);
    na_out_put(out, "\"largest\": {\"bytes\": %llu, \"address\": \"%#lx\", \"thread\": %u}, \"frames\": [",
               (unsigned long long)site->largest, (unsigned long)site->largest_at, site->thread);
    unsigned skip = na_site_skip(site);
    for (unsigned i = skip; i < site->depth && i < skip + NA_FRAMES; i++) {
        na_symbol symbol;
        na_symbol_at(site->frame[i], &symbol);
        na_out_put(out, "%s{\"address\": \"%#lx\", \"module_address\": \"%#lx\", \"offset\": %lu", i > skip ? ", " : "",
                   (unsigned long)(site->frame[i] - 1), (unsigned long)symbol.address, (unsigned long)symbol.offset);
        put_name(out, "function", symbol.function);
        put_name(out, "module", symbol.module);
        na_out_put(out, "}");
    }
    na_out_put(out, "]}");
}

static void put_json(na_out *out, const report *from) {
    const numalloc_leak_totals_t *t = &from->totals;
    na_out_put(out, "{\"process\": %u, \"blocks\": %llu, \"bytes\": %llu, ", os_process_id(),
               (unsigned long long)t->blocks, (unsigned long long)t->bytes);
    na_out_put(out, "\"startup_blocks\": %llu, \"startup_bytes\": %llu, \"unrecorded\": %llu, \"groups\": [",
               (unsigned long long)t->startup_blocks, (unsigned long long)t->startup_bytes,
               (unsigned long long)t->unrecorded);
    for (size_t i = 0; i < from->count; i++) {
        na_out_put(out, i == 0 ? "\n" : ",\n");
        put_group_json(out, from->groups[i]);
    }
    na_out_put(out, "]}\n");
}

/* ---- when ------------------------------------------------------------------------------------------------ */

int numalloc_leak_report_sized(const char *path, numalloc_leak_totals_t *totals, size_t bytes) {
    if (totals != NULL && bytes < sizeof *totals) return EINVAL;
    if (!na_init()) return errno;
    if (!na_hooked || na_opt.leaks[0] == '\0') return ENOTSUP;
    report now = {.groups = NULL};
    pthread_mutex_lock(&lock);
    bool busy = na_unhooked;
    na_unhooked = true;
    int error = gather(&now);
    na_out out;
    if (error == 0 && path != NULL && (error = na_out_open(&out, path)) == 0) {
        if (na_name_ends(path, ".json")) put_json(&out, &now);
        else put_text(&out, &now);
        error = na_out_close(&out);
    }
    if (now.groups != NULL) (void)os_release(now.groups, now.capacity_bytes);
    if (error == 0 && totals != NULL) *totals = now.totals;
    na_unhooked = busy;
    pthread_mutex_unlock(&lock);
    return error;
}

void na_leaks_exit(void) {
    int error = numalloc_leak_report(na_opt.leaks, NULL);
    if (error != 0) os_message("numalloc: the list of leaks can't be written to %s: error %d\n", na_opt.leaks, error);
}

/* A report that another thread was making in the parent ends there. */
void na_leaks_fork(void) { (void)pthread_mutex_init(&lock, NULL); }
