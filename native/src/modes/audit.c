/* SPDX-License-Identifier: BSD-3-Clause
 *
 * audit.c: owns NUMALLOC_AUDIT: where the pages of all live large blocks, and of the whole process, were when most of
 * them were in use; written as JSON at exit. For programs that can't be asked.
 *
 * A program's arrays are gone when it ends. So the pages are also looked at when a large block is about to be freed: at
 * most every INTERVAL_MS and for at most a SHARE-th of the time, and at once if a quarter more is in use than at any look
 * before. Of all looks the one with the most touched pages stays. Blocks are listed under their region's lock and asked
 * for without it: one that is freed meanwhile counts with what is left of it.
 *
 * Threads: a look is one thread's; another that comes meanwhile goes on without one.
 */
#include "api/init.h"
#include "api/stats.h"
#include "large/kept.h"
#include "modes/audit.h"
#include "modes/out.h"
#include "os/options.h"
#include "space/meta.h"
#include "space/region.h"
#include "types.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { INTERVAL_MS = 10, SHARE = 100 };

typedef struct range {
    uintptr_t start;
    size_t bytes;
} range;

typedef struct look {
    uint64_t blocks, bytes;               /* live large blocks */
    uint64_t unlisted;                    /* blocks that came while the list was made; not in the counts below */
    uint64_t pages, untouched, failed;    /* of them, base pages */
    uint64_t on_node[NUMALLOC_MAX_NODES]; /* pages */
    uint64_t huge_page;                   /* bytes of the largest explicit huge page behind one */
    int error;                            /* of the query, errno; counts are 0 then */
    uint64_t resident, huge;              /* bytes of the process, and in huge pages of any kind */
    uint64_t process[NUMALLOC_MAX_NODES]; /* bytes of the process by node */
    int process_error;                    /* errno of /proc/self/numa_maps */
} look;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static look best, now;
static bool taken;
static _Atomic(uint64_t) next_ms; /* no look before, unless more is in use than */
static _Atomic(uint64_t) enough;  /* bytes */

static uint64_t touched(const look *l) { return l->pages - l->untouched; }

/* ---- blocks -------------------------------------------------------------------------------------------- */

static void list_region(na_region *region, range *list, size_t capacity, size_t *count) {
    if (!atomic_load_explicit(&region->opened, memory_order_acquire)) return;
    pthread_mutex_lock(&region->lock);
    for (uint32_t i = 0; i < region->span_count; i++) {
        const na_span *span = na_descriptor_at(region, i);
        if (na_kind(span) != NA_LARGE || span->slices == 0) continue;
        now.blocks++;
        now.bytes += na_span_bytes(span);
        if (span->huge_shift != 0 && (UINT64_C(1) << span->huge_shift) > now.huge_page)
            now.huge_page = UINT64_C(1) << span->huge_shift;
        if (*count == capacity) now.unlisted++;
        else list[(*count)++] = (range){span->start, na_span_bytes(span)};
    }
    pthread_mutex_unlock(&region->lock);
}

static void ask_for_blocks(void) {
    static numalloc_page_counts_t counts; /* too large for a small stack */
    numalloc_stats_t stats;
    if (numalloc_stats(-1, &stats) != 0) return;
    size_t capacity = stats.large_blocks + 64, count = 0; /* others may come meanwhile */
    size_t bytes = na_round_up(capacity * sizeof(range), os_page_size());
    void *list;
    if (os_map(bytes, &list) != 0) {
        now.error = ENOMEM;
        return;
    }
    for (int i = 0; i < na_region_count; i++) list_region(&na_regions[i], list, capacity, &count);
    for (size_t i = 0; i < count && now.error == 0; i++) {
        const range *r = (const range *)list + i;
        now.error = numalloc_page_nodes((const void *)r->start, r->bytes, &counts);
        if (now.error != 0) break;
        now.pages += counts.pages;
        now.untouched += counts.untouched;
        now.failed += counts.failed;
        for (int node = 0; node < NUMALLOC_MAX_NODES; node++) now.on_node[node] += counts.on_node[node];
    }
    (void)os_release(list, bytes);
}

/* ---- the process --------------------------------------------------------------------------------------- */

/* Gives the lines of a file one after the other; one longer than the buffer comes in pieces. */
typedef struct lines {
    int file;
    size_t start, end; /* of what is read and not yet given */
    bool ended;
    char text[4096];
} lines;

static char *next_line(lines *in) {
    for (;;) {
        char *line = in->text + in->start;
        char *newline = memchr(line, '\n', in->end - in->start);
        bool full = in->start == 0 && in->end == sizeof in->text - 1;
        if (newline != NULL || full || (in->ended && in->end > in->start)) {
            size_t length = newline != NULL ? (size_t)(newline - line) : in->end - in->start;
            line[length] = '\0';
            in->start += length + (newline != NULL);
            if (in->start > in->end) in->start = in->end;
            return line;
        }
        if (in->ended) return NULL;
        memmove(in->text, line, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
        size_t length = 0;
        if (os_file_read(in->file, in->text + in->end, sizeof in->text - 1 - in->end, &length) != 0 || length == 0)
            in->ended = true;
        in->end += length;
    }
}

static uint64_t number_at(const char *text) {
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) value = 10 * value + (uint64_t)(*text - '0');
    return value;
}

/* ADDRESS POLICY ... N0=5 N1=3 kernelpagesize_kB=4 */
static void add_mapping(char *line) {
    const char *size = strstr(line, "kernelpagesize_kB=");
    uint64_t page = size != NULL ? number_at(size + 18) << 10 : os_page_size();
    for (char *at = line; (at = strstr(at, " N")) != NULL; at += 2) {
        uint64_t node = number_at(at + 2);
        const char *equals = at + 2 + strspn(at + 2, "0123456789");
        if (equals != at + 2 && *equals == '=' && node < NUMALLOC_MAX_NODES)
            now.process[node] += page * number_at(equals + 1);
    }
}

static void add_rollup(char *line) {
    static const char *const huge[] = {
        "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:"};
    const char *value = strchr(line, ':');
    if (value == NULL) return;
    uint64_t bytes = number_at(value + 1 + strspn(value + 1, " ")) << 10;
    if (strncmp(line, "Rss:", 4) == 0) now.resident += bytes;
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++)
        if (strncmp(line, huge[i], strlen(huge[i])) == 0) {
            now.huge += bytes;
            if (i >= 3) now.resident += bytes; /* not in Rss */
        }
}

static int read_lines(const char *path, void (*use)(char *line)) {
    static lines in;
    memset(&in, 0, sizeof in);
    int error = os_file_open(path, &in.file);
    if (error != 0) return error;
    for (char *line; (line = next_line(&in)) != NULL;) use(line);
    (void)os_file_close(in.file);
    return 0;
}

/* ---- looks ----------------------------------------------------------------------------------------------- */

static void take(void) {
    uint64_t start = os_now_ms();
    memset(&now, 0, sizeof now);
    ask_for_blocks();
    now.process_error = read_lines("/proc/self/numa_maps", add_mapping);
    (void)read_lines("/proc/self/smaps_rollup", add_rollup);
    if (now.bytes + now.bytes / 4 > atomic_load(&enough)) atomic_store(&enough, now.bytes + now.bytes / 4);
    if (!taken || touched(&now) >= touched(&best)) best = now;
    taken = true;
    uint64_t end = os_now_ms(), rest = (end - start) * SHARE;
    atomic_store_explicit(&next_ms, end + (rest > INTERVAL_MS ? rest : INTERVAL_MS), memory_order_relaxed);
}

static uint64_t bytes_in_use(void) {
    uint64_t bytes = 0;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        pthread_mutex_lock(&region->lock);
        na_kept_counts kept = na_kept_count(region);
        bytes += region->large_bytes + kept.taken_bytes - kept.freed_bytes;
        pthread_mutex_unlock(&region->lock);
    }
    return bytes;
}

void na_audit_look(void) {
    bool due = os_now_ms() >= atomic_load_explicit(&next_ms, memory_order_relaxed);
    if (!due && bytes_in_use() <= atomic_load_explicit(&enough, memory_order_relaxed)) return;
    if (pthread_mutex_trylock(&lock) != 0) return;
    take();
    pthread_mutex_unlock(&lock);
}

void na_audit_fork_child(void) {
    pthread_mutex_init(&lock, NULL);
    taken = false;
    atomic_store(&enough, 0);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static void put_nodes(na_out *out, const char *name, const uint64_t *of_node) {
    na_out_put(out, "\"%s\": {", name);
    bool first = true;
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++) {
        if (of_node[node] == 0) continue;
        na_out_put(out, "%s\"%d\": %llu", first ? "" : ", ", node, (unsigned long long)of_node[node]);
        first = false;
    }
    na_out_put(out, "}");
}

static void write_all(na_out *out) {
#define NUMBER(name, value) na_out_put(out, "\"%s\": %llu, ", name, (unsigned long long)(value))
    na_out_put(out, "{\"pid\": %u, \"page_size\": %zu, \"arrays\": {", os_process_id(), os_page_size());
    NUMBER("count", best.blocks);
    NUMBER("nbytes", best.bytes);
    NUMBER("untracked", best.unlisted);
    NUMBER("pages", best.pages);
    NUMBER("untouched", best.untouched);
    NUMBER("failed", best.failed);
    NUMBER("huge_page", best.huge_page);
    NUMBER("errno", best.error);
    put_nodes(out, "pages_per_node", best.on_node);
    na_out_put(out, "}, \"memory\": {");
    NUMBER("resident", best.resident);
    NUMBER("huge", best.huge);
    NUMBER("errno", best.process_error);
    put_nodes(out, "per_node", best.process);
    na_out_put(out, "}, \"allocator\": ");
#undef NUMBER
    size_t bytes = na_round_up(numalloc_stats_json(NULL, 0) + 4096, os_page_size()); /* counters may grow meanwhile */
    void *text;
    if (os_map(bytes, &text) == 0) {
        (void)numalloc_stats_json(text, bytes);
        na_out_text(out, text);
        (void)os_release(text, bytes);
    } else {
        na_out_put(out, "null");
    }
    na_out_put(out, "}\n");
}

__attribute__((destructor)) static void at_exit(void) {
    static na_out out;
    if (na_opt.audit[0] == '\0' || !na_serves() || !na_init()) return;
    if (pthread_mutex_trylock(&lock) != 0) return; /* a thread that goes on while the process ends */
    take();
    int error = na_out_open(&out, na_opt.audit);
    if (error == 0) {
        write_all(&out);
        error = na_out_close(&out);
    }
    pthread_mutex_unlock(&lock);
    if (error != 0) os_message("numalloc: NUMALLOC_AUDIT=%.200s can't be written: %s\n", na_opt.audit, strerror(error));
    if (error == 0 && na_opt.audit_then[0] != '\0') {
        error = os_shell(na_opt.audit_then);
        if (error != 0) os_message("numalloc: NUMALLOC_AUDIT_THEN can't be run: %s\n", strerror(error));
    }
}
