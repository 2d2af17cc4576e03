/* SPDX-License-Identifier: BSD-3-Clause
 *
 * profile.c: owns the sampling heap profile: which blocks are samples, what they stand for, and the files.
 *
 * Sampling. The bytes a thread allocates are a line on which a Poisson process with one point per RATE bytes on
 * average picks blocks, the scheme of gperftools' and jemalloc's heap profilers. The process has no memory, so after
 * a block was picked the next point is drawn from its end, and a block of s bytes is picked with probability
 * p(s) = 1 - exp(-s / RATE) whatever came before.
 *
 * Estimator. A picked block stands for 1 / p(s) blocks and s / p(s) bytes (Horvitz and Thompson: A Generalization of
 * Sampling Without Replacement From a Finite Universe, JASA 47, 1952), so the expectation of every sum of them is
 * the sum over all blocks. Frees take out what the allocation put in.
 *
 * The files. The collapsed form has these estimates. In pprof's format a line has the samples themselves, n blocks and
 * b bytes, and pprof multiplies both by 1 / (1 - exp(-(b / n) / RATE)), that is, it takes all blocks of a line for
 * equally large. So each size class of a stack has a line of its own: sizes in it differ by a quarter at most, which
 * leaves bytes right and makes counts 1.3 % low at worst.
 *
 * Threads: tallies are added without a lock and never removed, their counters are atomic, the distance to the next
 * sample is the thread's.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "modes/modes.h"
#include "os/options.h"

#include <errno.h>
#include <string.h>

#define TLS _Thread_local __attribute__((tls_model("initial-exec")))

static TLS uint64_t random_state; /* 0: not seeded */
static TLS double distance;       /* bytes to the next point */

/* ---- arithmetic ------------------------------------------------------------------------------------------
 * The C library's are in libm, which nothing else here needs. */

#define LN2 0.69314718055994530942

double na_exp_minus(double x) {
    if (x > 700) return 0;
    int halvings = (int)(x / LN2);
    double rest = x - halvings * LN2, term = 1, sum = 1;
    for (int i = 1; i < 18; i++) sum += term *= -rest / i;
    while (halvings-- > 0) sum /= 2;
    return sum;
}

double na_log(double x) {
    int doublings = 0;
    for (; x < 0.75; x *= 2) doublings--;
    for (; x >= 1.5; x /= 2) doublings++;
    double z = (x - 1) / (x + 1), power = z, sum = 0;
    for (int i = 1; i < 40; i += 2, power *= z * z) sum += power / i;
    return 2 * sum + doublings * LN2;
}

/* ---- sampling -------------------------------------------------------------------------------------------- */

static double uniform(void) { /* in (0, 1] */
    if (random_state == 0) random_state = os_random() | 1;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)((random_state >> 11) + 1) / (double)(UINT64_C(1) << 53);
}

static double draw(void) { return -na_log(uniform()) * (double)na_opt.profile_rate; }

static double bytes_of(size_t size) { return size != 0 ? (double)size : 1; }

bool na_profile_pick(size_t size) {
    if (na_opt.profile_rate == 1) return true;
    if (random_state == 0) distance = draw();
    distance -= bytes_of(size);
    if (distance > 0) return false;
    distance = draw();
    return true;
}

static double picked(double size) {
    return na_opt.profile_rate == 1 ? 1 : 1 - na_exp_minus(size / (double)na_opt.profile_rate);
}

double na_profile_weight(size_t size) { return 1 / picked(bytes_of(size)); }

/* What a sample stands for. The same for the same size, hence what goes is exactly what came. */
static uint64_t weighted_bytes(size_t size) { return (uint64_t)((double)size * na_profile_weight(size) + 0.5); }

enum { COUNT, BYTES, WEIGHTED, SUMS };

typedef struct na_tally {
    struct na_tally *next;
    unsigned class_index; /* as size_to_class goes on beyond pages' classes */
    _Atomic(uint64_t) made[SUMS], gone[SUMS];
} na_tally;

static na_tally *tally_in(na_tally *tally, unsigned class_index) {
    while (tally != NULL && tally->class_index != class_index) tally = tally->next;
    return tally;
}

static na_tally *tallies_of(const na_site *site) { return atomic_load_explicit(&site->tallies, memory_order_acquire); }

static unsigned class_of(size_t size) { return size_to_class(size != 0 ? size : 1); }

/* Tallies are only ever pushed, so a class that was not found from the first one on is still missing when the first
 * one is the same. */
static na_tally *tally_make(na_site *site, unsigned class_index) {
    na_tally *first = tallies_of(site), *found = tally_in(first, class_index), *new = NULL;
    while (found == NULL) {
        if (new == NULL && (new = na_bump_alloc(sizeof *new)) == NULL) return NULL;
        new->class_index = class_index;
        new->next = first;
        if (atomic_compare_exchange_weak_explicit(&site->tallies, &first, new, memory_order_acq_rel,
                                                  memory_order_acquire))
            return new;
        found = tally_in(first, class_index); /* another thread's tally; this one is lost */
    }
    return found;
}

/* Release: a thread that sees the free also sees the allocation. */
static void count(_Atomic(uint64_t) *sums, size_t size) {
    const uint64_t added[SUMS] = {1, size, weighted_bytes(size)};
    for (int i = 0; i < SUMS; i++) atomic_fetch_add_explicit(&sums[i], added[i], memory_order_release);
}

bool na_profile_made(na_site *site, size_t size) {
    na_tally *tally = tally_make(site, class_of(size));
    if (tally != NULL) count(tally->made, size);
    return tally != NULL;
}

void na_profile_gone(na_site *site, size_t size) { count(tally_in(tallies_of(site), class_of(size))->gone, size); }

/* A child would draw what its parent draws. */
void na_profile_fork(void) {
    if (random_state != 0) random_state = (random_state ^ os_random()) | 1;
}

/* ---- pprof's legacy heap format ---------------------------------------------------------------------------- */

/* The format has no labels: the home is the outermost frame, a function that is never called but has a name for
 * pprof to find. */
#define NODE_FRAME(name)                                                                                               \
    __attribute__((noinline, used)) static void name(void) { __asm__ volatile("nop\n\tnop"); }
NODE_FRAME(numa_node_0)
NODE_FRAME(numa_node_1)
NODE_FRAME(numa_node_2)
NODE_FRAME(numa_node_3)
NODE_FRAME(numa_node_4)
NODE_FRAME(numa_node_5)
NODE_FRAME(numa_node_6)
NODE_FRAME(numa_node_7)
NODE_FRAME(numa_node_8_or_higher)
NODE_FRAME(numa_nodes_mixed)

static uintptr_t node_frame(int node) {
    static void (*const frame[])(void) = {numa_node_0, numa_node_1, numa_node_2, numa_node_3,          numa_node_4,
                                          numa_node_5, numa_node_6, numa_node_7, numa_node_8_or_higher};
    enum { LAST = sizeof frame / sizeof frame[0] - 1 };
    void (*chosen)(void) = node < 0 ? numa_nodes_mixed : frame[node < LAST ? node : LAST];
    return (uintptr_t)chosen + 1; /* as a return address: inside */
}

typedef struct line {
    uint64_t live[SUMS], made[SUMS];
} line;

static void line_of(const na_tally *tally, line *to) {
    for (int i = 0; i < SUMS; i++) {
        /* What is gone was made before, so it is read first and the difference is never negative. */
        uint64_t gone = atomic_load(&tally->gone[i]);
        to->made[i] = atomic_load(&tally->made[i]);
        to->live[i] = to->made[i] - gone;
    }
}

static void put_numbers(na_out *out, const line *l) {
    na_out_put(out, "%6llu: %8llu [%6llu: %8llu] @", (unsigned long long)l->live[COUNT],
               (unsigned long long)l->live[BYTES], (unsigned long long)l->made[COUNT],
               (unsigned long long)l->made[BYTES]);
}

static void write_pprof(na_out *out) {
    line total = {{0}, {0}}, each;
    na_site *first = na_sites(); /* both passes over the same ones */
    for (na_site *site = first; site != NULL; site = site->all_next)
        for (na_tally *tally = tallies_of(site); tally != NULL; tally = tally->next) {
            line_of(tally, &each);
            for (int i = 0; i < SUMS; i++) {
                total.live[i] += each.live[i];
                total.made[i] += each.made[i];
            }
        }
    na_out_put(out, "heap profile: ");
    put_numbers(out, &total);
    na_out_put(out, " heap_v2/%zu\n", na_opt.profile_rate);
    for (na_site *site = first; site != NULL; site = site->all_next) {
        unsigned skip = na_site_skip(site);
        for (na_tally *tally = tallies_of(site); tally != NULL; tally = tally->next) {
            line_of(tally, &each);
            put_numbers(out, &each);
            for (unsigned i = skip; i < site->depth; i++) na_out_put(out, " 0x%lx", (unsigned long)site->frame[i]);
            na_out_put(out, " 0x%lx\n", (unsigned long)node_frame(site->node));
        }
    }
    na_out_put(out, "\nMAPPED_LIBRARIES:\n");
    na_out_copy(out, "/proc/self/maps");
}

/* ---- collapsed stacks ---------------------------------------------------------------------------------------- */

static void put_name(na_out *out, uintptr_t frame) {
    na_symbol symbol;
    na_symbol_at(frame, &symbol);
    const char *name = symbol.function;
    if (name == NULL) {
        const char *slash = symbol.module != NULL ? strrchr(symbol.module, '/') : NULL;
        name = slash != NULL ? slash + 1 : symbol.module != NULL ? symbol.module : "?";
    }
    char clean[256];
    size_t length = 0;
    for (; *name != '\0' && length + 1 < sizeof clean; name++)
        clean[length++] = *name == ';' || *name == ' ' || *name == '\n' ? '_' : *name;
    clean[length] = '\0';
    na_out_put(out, ";%s", clean);
    if (symbol.function == NULL) na_out_put(out, "+%#lx", (unsigned long)symbol.address);
}

static void write_collapsed(na_out *out, bool cumulative) {
    for (const na_site *site = na_sites(); site != NULL; site = site->all_next) {
        uint64_t bytes = 0;
        for (const na_tally *tally = tallies_of(site); tally != NULL; tally = tally->next) {
            line each;
            line_of(tally, &each);
            bytes += cumulative ? each.made[WEIGHTED] : each.live[WEIGHTED];
        }
        if (bytes == 0) continue;
        if (site->node < 0) na_out_put(out, "nodes mixed");
        else na_out_put(out, "node %d", site->node);
        unsigned skip = na_site_skip(site);
        for (unsigned i = site->depth; i-- > skip;) put_name(out, site->frame[i]);
        na_out_put(out, " %llu\n", (unsigned long long)bytes);
    }
}

/* ---- when ------------------------------------------------------------------------------------------------------ */

int numalloc_profile_dump(const char *path) {
    if (!na_init()) return errno;
    if (!na_hooked || na_opt.profile[0] == '\0') return ENOTSUP;
    if (path == NULL) path = na_opt.profile;
    na_out out;
    int error = na_out_open(&out, path);
    if (error != 0) return error;
    bool before = na_unhooked;
    na_unhooked = true;
    if (na_name_ends(path, ".allocated.collapsed")) write_collapsed(&out, true);
    else if (na_name_ends(path, ".collapsed")) write_collapsed(&out, false);
    else write_pprof(&out);
    na_unhooked = before;
    return na_out_close(&out);
}

void na_profile_exit(void) {
    int error = numalloc_profile_dump(NULL);
    if (error != 0) os_message("numalloc: the heap profile can't be written to %s: error %d\n", na_opt.profile, error);
    if (na_records_lost() != 0)
        os_message("numalloc: the heap profile lacks %llu samples: raise NUMALLOC_WATCH_LIMIT or the rate\n",
                   (unsigned long long)na_records_lost());
}
