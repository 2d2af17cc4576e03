/* SPDX-License-Identifier: BSD-3-Clause
 *
 * profile.c: owns the sampling heap profile: which blocks are samples, what they stand for, and the files.
 *
 * Sampling. The bytes a thread allocates are a line on which a Poisson process with one point per RATE bytes on
 * average picks blocks, the scheme of gperftools' and jemalloc's heap profilers. The process has no memory, so after
 * a block was picked the next point is drawn from its end, and a block of s bytes is picked with probability
 * p(s) = 1 - exp(-s / RATE) whatever came before.
 *
 * Estimator. A picked block counts as 1 / p(s) blocks and s / p(s) bytes (Horvitz and Thompson: A Generalization of
 * Sampling Without Replacement From a Finite Universe, JASA 47, 1952), so the expectation of every sum of them is
 * the sum over all blocks. Frees take out what the allocation put in.
 *
 * The file. pprof multiplies a line of n blocks and b bytes by 1 / (1 - exp(-(b / n) / RATE)), that is, it takes
 * all blocks of a line for equally large. Lines are therefore written such that this factor gives our estimates back,
 * to the rounding of n to a whole number; the collapsed form has the estimates themselves.
 *
 * Threads: a site's counters are atomic, the distance to the next sample is the thread's.
 */
#include "watch.h"

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

uint64_t na_profile_weight(size_t size) { return (uint64_t)((double)NA_WEIGHT_ONE / picked(bytes_of(size)) + 0.5); }

static uint64_t weighted_bytes(size_t size, uint64_t weight) {
    return (uint64_t)((double)size * (double)weight / (double)NA_WEIGHT_ONE + 0.5);
}

void na_profile_made(na_site *site, size_t size) {
    uint64_t weight = na_profile_weight(size);
    atomic_fetch_add_explicit(&site->made_count, weight, memory_order_relaxed);
    atomic_fetch_add_explicit(&site->made_bytes, weighted_bytes(size, weight), memory_order_relaxed);
}

void na_profile_gone(na_site *site, size_t size) {
    uint64_t weight = na_profile_weight(size);
    atomic_fetch_add_explicit(&site->gone_count, weight, memory_order_relaxed);
    atomic_fetch_add_explicit(&site->gone_bytes, weighted_bytes(size, weight), memory_order_relaxed);
}

/* A child would draw what its parent draws. */
void na_profile_fork(void) {
    if (random_state != 0) random_state = (random_state ^ os_random()) | 1;
}

/* ---- what a site stands for -------------------------------------------------------------------------------- */

typedef struct estimate {
    double count, bytes, made_count, made_bytes;
} estimate;

static estimate estimate_of(const na_site *site) {
    /* What is gone was made before, so it is read first and the difference is never negative. */
    uint64_t gone_count = atomic_load(&site->gone_count), gone_bytes = atomic_load(&site->gone_bytes);
    uint64_t made_count = atomic_load(&site->made_count), made_bytes = atomic_load(&site->made_bytes);
    return (estimate){.count = (double)(made_count - gone_count) / (double)NA_WEIGHT_ONE,
                      .bytes = (double)(made_bytes - gone_bytes),
                      .made_count = (double)made_count / (double)NA_WEIGHT_ONE,
                      .made_bytes = (double)made_bytes};
}

/* The blocks and bytes to write so that pprof's factor gives the estimate back. */
static void as_sampled(double count, double bytes, uint64_t *blocks, uint64_t *sum) {
    *blocks = *sum = 0;
    if (count <= 0) return;
    double mean = bytes / count;
    *blocks = (uint64_t)(count * picked(mean > 1 ? mean : 1) + 0.5);
    if (*blocks == 0) *blocks = 1;
    *sum = (uint64_t)((double)*blocks * mean + 0.5);
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
    uint64_t count, bytes, made_count, made_bytes;
} line;

static bool line_of(const na_site *site, line *to) {
    estimate e = estimate_of(site);
    as_sampled(e.count, e.bytes, &to->count, &to->bytes);
    as_sampled(e.made_count, e.made_bytes, &to->made_count, &to->made_bytes);
    return to->made_count != 0;
}

static void put_numbers(na_out *out, const line *l) {
    na_out_put(out, "%6llu: %8llu [%6llu: %8llu] @", (unsigned long long)l->count, (unsigned long long)l->bytes,
               (unsigned long long)l->made_count, (unsigned long long)l->made_bytes);
}

static void write_pprof(na_out *out) {
    line total = {0}, each;
    na_site *first = na_sites(); /* both passes over the same ones */
    for (const na_site *site = first; site != NULL; site = site->all_next) {
        if (!line_of(site, &each)) continue;
        total.count += each.count;
        total.bytes += each.bytes;
        total.made_count += each.made_count;
        total.made_bytes += each.made_bytes;
    }
    na_out_put(out, "heap profile: ");
    put_numbers(out, &total);
    na_out_put(out, " heap_v2/%zu\n", na_opt.profile_rate);
    for (const na_site *site = first; site != NULL; site = site->all_next) {
        if (!line_of(site, &each)) continue;
        put_numbers(out, &each);
        for (unsigned i = na_site_skip(site); i < site->depth; i++)
            na_out_put(out, " 0x%lx", (unsigned long)site->frame[i]);
        na_out_put(out, " 0x%lx\n", (unsigned long)node_frame(site->node));
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
        estimate e = estimate_of(site);
        double bytes = cumulative ? e.made_bytes : e.bytes;
        if (bytes < 0.5) continue;
        if (site->node < 0) na_out_put(out, "nodes mixed");
        else na_out_put(out, "node %d", site->node);
        unsigned skip = na_site_skip(site);
        for (unsigned i = site->depth; i-- > skip;) put_name(out, site->frame[i]);
        na_out_put(out, " %llu\n", (unsigned long long)(bytes + 0.5));
    }
}

/* ---- when ------------------------------------------------------------------------------------------------------ */

int numalloc_profile_dump(const char *path) {
    if (!na_init()) return errno;
    if (!na_watched || na_opt.profile[0] == '\0') return ENOTSUP;
    if (path == NULL) path = na_opt.profile;
    na_out out;
    int error = na_out_open(&out, path);
    if (error != 0) return error;
    bool before = na_watch_busy;
    na_watch_busy = true;
    if (na_name_ends(path, ".allocated.collapsed")) write_collapsed(&out, true);
    else if (na_name_ends(path, ".collapsed")) write_collapsed(&out, false);
    else write_pprof(&out);
    na_watch_busy = before;
    return na_out_close(&out);
}

void na_profile_exit(void) {
    int error = numalloc_profile_dump(NULL);
    if (error != 0) os_message("numalloc: the heap profile can't be written to %s: error %d\n", na_opt.profile, error);
    if (na_records_lost() != 0)
        os_message("numalloc: the heap profile lacks %llu samples: raise NUMALLOC_WATCH_LIMIT or the rate\n",
                   (unsigned long long)na_records_lost());
}
