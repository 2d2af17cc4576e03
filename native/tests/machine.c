/* SPDX-License-Identifier: BSD-3-Clause
 *
 * machine.c: see machine.h.
 *
 * Invariants. A failing call does nothing, but for os_remap and os_map_hugetlb, which leave their target without
 * access as the kernel may: their callers have to make it usable again or to leave it alone.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"
#include "os/os.h"

const char *const machine_name[MACHINE_COUNT] = {
#define X(name, ...) #name,
    MACHINE_CALLS(X)
#undef X
};
const int machine_errors[MACHINE_COUNT][8] = {
#define X(name, ...) {__VA_ARGS__},
    MACHINE_CALLS(X)
#undef X
};

enum { AS_IT_IS = 1, NO_SYSFS = 0, TWO = 2 };
__attribute__((weak)) int machine_nodes = AS_IT_IS;
__attribute__((weak)) bool machine_quiet = false;
uint64_t machine_room = UINT64_MAX;
int machine_full = -1, machine_removed = -1;
char machine_weights[8] = "";
void (*machine_hook)(enum machine_call);
static int nodes;
static struct shared {
    atomic_ullong calls[MACHINE_COUNT];
    atomic_bool failed;
} * shared;
static atomic_int fault_call = -1;
static atomic_int fault_error;
static atomic_ullong fault_first, fault_last;

uint64_t machine_calls(enum machine_call call) { return atomic_load(&shared->calls[call]); }
void machine_heal(void) { atomic_store(&fault_call, -1); }

void machine_arm(enum machine_call call, uint64_t number, int error) {
    atomic_store(&fault_call, -1);
    atomic_store(&fault_error, error);
    atomic_store(&fault_first, machine_calls(call) + number);
    atomic_store(&fault_last, machine_calls(call) + number);
    atomic_store(&fault_call, (int)call);
}
bool machine_failed(void) { return atomic_load(&shared->failed); }

/* Before the library's own constructor, and for calls that come even earlier. */
__attribute__((constructor(101))) static void machine_start(void) {
    if (shared != NULL) return;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) abort();
    const char *text = getenv("MACHINE_NODES");
    nodes = text != NULL ? atoi(text) : machine_nodes;
    char name[32];
    text = getenv("MACHINE_FAULT");
    if (text == NULL) return;
    unsigned long long first, last;
    int error;
    if (sscanf(text, "%31[a-z_]:%llu:%llu:%d", name, &first, &last, &error) != 4) abort();
    fault_first = first;
    fault_last = last;
    fault_error = error;
    for (int i = 0; i < MACHINE_COUNT; i++)
        if (strcmp(name, machine_name[i]) == 0) atomic_store(&fault_call, i);
}

/* Counts a call; what it shall fail with, or 0. */
static int counted(enum machine_call call) {
    if (shared == NULL) machine_start();
    if (machine_hook != NULL) machine_hook(call);
    unsigned long long number = atomic_fetch_add(&shared->calls[call], 1) + 1;
    if ((int)call != atomic_load_explicit(&fault_call, memory_order_relaxed)) return 0;
    if (number < fault_first || number > fault_last) return 0;
    atomic_store(&shared->failed, true);
    return fault_error;
}

/* ---- policies of the made-up machine: the latest range that holds a page counts -------------------------------- */

typedef struct policy {
    uintptr_t start, end;
    enum na_bind_mode mode;
    na_nodeset set;
} policy;
enum { POLICIES = 16384 };
static policy noted[POLICIES];
static int noted_count;
static pthread_mutex_t noted_lock = PTHREAD_MUTEX_INITIALIZER;

static void note(void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *set) {
    uintptr_t start = (uintptr_t)address, end = start + bytes;
    pthread_mutex_lock(&noted_lock);
    int kept = 0;
    for (int i = 0; i < noted_count; i++) /* what is covered is forgotten */
        if (noted[i].start < start || noted[i].end > end) noted[kept++] = noted[i];
    noted_count = kept;
    if (noted_count == POLICIES) memmove(&noted[16], &noted[17], (size_t)(--noted_count - 16) * sizeof noted[0]);
    noted[noted_count] = (policy){start, end, mode, {{0}}};
    if (set != NULL) noted[noted_count].set = *set;
    noted_count++;
    pthread_mutex_unlock(&noted_lock);
}

static int noted_node(uintptr_t page) {
    int node = 0;
    pthread_mutex_lock(&noted_lock);
    for (int i = noted_count; i-- > 0;) {
        if (page < noted[i].start || page >= noted[i].end) continue;
        bool both = (noted[i].set.word[0] & 3) == 3;
        int weight = atoi(machine_weights), turn = weight + atoi(machine_weights + 4);
        if (noted[i].mode == NA_BIND_DEFAULT) node = 0;
        else if (noted[i].mode == NA_BIND_WEIGHTED) node = page / os_page_size() % (size_t)turn >= (size_t)weight;
        else if (both) node = (int)(page / os_page_size() & 1);
        else node = (noted[i].set.word[0] & 1) != 0 ? 0 : 1;
        break;
    }
    pthread_mutex_unlock(&noted_lock);
    return node == machine_full || node == machine_removed ? 1 - node : node;
}

bool machine_bound(const void *address) {
    uintptr_t page = (uintptr_t)address;
    bool bound = false;
    pthread_mutex_lock(&noted_lock);
    for (int i = noted_count; i-- > 0;) {
        if (page < noted[i].start || page >= noted[i].end) continue;
        bound = noted[i].mode != NA_BIND_DEFAULT;
        break;
    }
    pthread_mutex_unlock(&noted_lock);
    return bound;
}

static const char *made_up_file(const char *path) {
    if (nodes == NO_SYSFS) return strncmp(path, "/sys/devices/system/", 20) == 0 ? "" : NULL;
    if (nodes != TWO) return NULL;
    static atomic_int lists;
    if (strcmp(path, "/sys/devices/system/node/node1/cpulist") == 0 && atomic_fetch_add(&lists, 1) == 0)
        return "3,5,7,9,11,13,15\n";
    static const char *const files[][2] = {
        {"/sys/devices/system/node/online", "0-1\n"},
        {"/sys/devices/system/node/has_memory", "0-1\n"},
        {"/proc/self/status", "Name:\tmade-up\nMems_allowed_list:\t0-1\n"},
        {"/sys/devices/system/node/node0/cpulist", "0,2,4,6,8,10,12,14\n"},
        {"/sys/devices/system/node/node1/cpulist", "1,3,5,7,9,11,13,15\n"},
        {"/sys/devices/system/node/node0/distance", "10 21\n"},
        {"/sys/devices/system/node/node1/distance", "21 10\n"},
        {"/sys/devices/system/node/node0/access1/initiators/read_bandwidth", "10000\n"},
        {"/sys/devices/system/node/node0/access1/initiators/write_bandwidth", "12000\n"},
        {"/sys/devices/system/node/node0/access1/initiators/read_latency", "100\n"},
        {"/sys/devices/system/node/node0/access1/initiators/write_latency", "100\n"},
        {"/sys/devices/system/node/node1/access1/initiators/read_bandwidth", "40000\n"},
        {"/sys/devices/system/node/node1/access1/initiators/write_bandwidth", "30000\n"},
        {"/sys/devices/system/node/node1/access1/initiators/read_latency", "150\n"},
        {"/sys/devices/system/node/node1/access1/initiators/write_latency", "150\n"},
        {"/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 8388608 kB\nNode 0 MemFree: 4194304 kB\n"},
        {"/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 8388608 kB\nNode 1 MemFree: 4194304 kB\n"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (strcmp(path, files[i][0]) == 0) return files[i][1];
    if (strncmp(path, "/sys/kernel/mm/mempolicy/weighted_interleave/node", 49) == 0)
        return machine_weights[0] == 0 ? "" : path[49] == '0' ? machine_weights : machine_weights + 4;
    return NULL;
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

#define WRAP(type, name, parameters)                                                                                   \
    type __real_os_##name parameters;                                                                                  \
    type __wrap_os_##name parameters;                                                                                  \
    type __wrap_os_##name parameters

/* A call that is counted, fails on order, and else is the real one. */
#define PLAIN(name, parameters, arguments)                                                                             \
    WRAP(int, name, parameters) {                                                                                      \
        int error = counted(MACHINE_##name);                                                                           \
        return error != 0 ? error : __real_os_##name arguments;                                                        \
    }

PLAIN(reserve, (size_t bytes, size_t align, void **address), (bytes, align, address))
PLAIN(reserve_readable, (size_t bytes, void **address), (bytes, address))
PLAIN(release, (void *address, size_t bytes), (address, bytes))
PLAIN(commit, (void *address, size_t bytes), (address, bytes))
PLAIN(purge, (void *address, size_t bytes), (address, bytes))
PLAIN(map, (size_t bytes, void **address), (bytes, address))
PLAIN(resident, (const void *address, size_t bytes, size_t *resident), (address, bytes, resident))
PLAIN(map_at, (void *address, size_t bytes), (address, bytes))
PLAIN(populate, (void *address, size_t bytes), (address, bytes))
PLAIN(advise_huge, (void *address, size_t bytes, bool want), (address, bytes, want))
PLAIN(thp_mode, (enum na_thp_mode * mode), (mode))
PLAIN(map_fresh, (void *address, size_t bytes), (address, bytes))
PLAIN(get_affinity, (na_cpuset * cpus), (cpus))
PLAIN(set_affinity, (const na_cpuset *cpus), (cpus))
PLAIN(set_policy, (enum na_bind_mode mode, const na_nodeset *set), (mode, set))

WRAP(int, get_policy, (int *mode, na_nodeset *set)) {
    int error = counted(MACHINE_get_policy);
    const char *text = nodes == TWO ? getenv("MACHINE_POLICY") : NULL;
    if (error != 0 || text == NULL) return error != 0 ? error : __real_os_get_policy(mode, set);
    unsigned long long word;
    if (sscanf(text, "%d:%llu", mode, &word) != 2) abort();
    *set = (na_nodeset){{word}};
    return 0;
}

WRAP(size_t, page_size, (void)) {
    (void)counted(MACHINE_page_size);
    return __real_os_page_size();
}

WRAP(uint64_t, address_space_left, (void)) {
    return counted(MACHINE_address_space_left) != 0 ? 0 : __real_os_address_space_left();
}

WRAP(uint64_t, data_left, (void)) { return counted(MACHINE_data_left) != 0 ? 0 : __real_os_data_left(); }

WRAP(uint64_t, cgroup_room, (void)) {
    uint64_t room = counted(MACHINE_cgroup_room) != 0 ? 0 : __real_os_cgroup_room();
    return room < machine_room ? room : machine_room;
}

WRAP(int, current_node, (int *cpu)) {
    int on = 0, node = counted(MACHINE_current_node) != 0 ? -1 : __real_os_current_node(&on);
    if (cpu != NULL) *cpu = on;
    return node >= 0 && nodes == TWO ? on % 2 : node;
}

WRAP(int, current_cpu, (void)) { return counted(MACHINE_current_cpu) != 0 ? -1 : __real_os_current_cpu(); }

/* One tick at once: no second thread, so that a workload makes the same calls each time. */
WRAP(int, ticker_start, (uint64_t first_ms, uint64_t (*tick)(void))) {
    (void)first_ms;
    int error = counted(MACHINE_ticker_start);
    if (error == 0) (void)tick();
    return error;
}

WRAP(uint64_t, now_ms, (void)) { return counted(MACHINE_now_ms) != 0 ? 0 : __real_os_now_ms(); }

WRAP(uint64_t, random, (void)) { return counted(MACHINE_random) != 0 ? 0 : __real_os_random(); }

WRAP(int, bind, (void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *set)) {
    int error = counted(MACHINE_bind);
    if (error != 0) return error;
    if (nodes != TWO) return __real_os_bind(address, bytes, mode, set);
    if (set != NULL && machine_removed >= 0 && (set->word[0] & ~(UINT64_C(1) << machine_removed)) == 0) return EINVAL;
    note(address, bytes, mode, set);
    return 0;
}

WRAP(int, query_pages, (const void *address, size_t count, int *status)) {
    int error = counted(MACHINE_query_pages);
    if (error != 0 && error != MISPLACED) return error;
    bool asked = __real_os_query_pages(address, count, status) == 0;
    if (!asked && nodes != TWO) return ENOSYS;
    for (size_t i = 0; i < count; i++) {
        if (asked && status[i] < 0) continue;
        if (nodes == TWO) status[i] = noted_node((uintptr_t)address + i * os_page_size());
        if (error == MISPLACED) status[i] ^= 1;
    }
    return 0;
}

WRAP(int, move_pages, (void *address, size_t count, int node, int *status, int *why)) {
    int error = counted(MACHINE_move_pages);
    if (error != 0 && error != MISPLACED) return error;
    if (nodes != TWO) {
        error = error == MISPLACED ? __real_os_query_pages(address, count, status) /* nothing moved */
                                   : __real_os_move_pages(address, count, node, status, why);
    } else if (error == 0) {
        na_nodeset one = {{UINT64_C(1) << node}};
        note(address, count * os_page_size(), NA_BIND_PREFERRED, &one);
    } else {
        error = 0;
    }
    if (error != 0) return error;
    for (size_t i = 0; i < count && nodes == TWO; i++) status[i] = noted_node((uintptr_t)address + i * os_page_size());
    for (size_t i = 0; why != NULL && i < count; i++)
        why[i] = status[i] == node || status[i] == -ENOENT ? 0 : status[i] < 0 ? -status[i] : EBUSY;
    return error;
}

WRAP(int, can_bind, (void)) {
    int error = counted(MACHINE_can_bind);
    return error != 0 ? error : nodes == TWO ? 0 : __real_os_can_bind();
}

WRAP(int, can_query, (void)) {
    int error = counted(MACHINE_can_query);
    return error != 0 ? error : nodes == TWO ? 0 : __real_os_can_query();
}

WRAP(int, map_hugetlb, (void *address, size_t bytes, size_t page, int node)) {
    int error = counted(MACHINE_map_hugetlb);
    if (nodes != TWO && error == 0) return __real_os_map_hugetlb(address, bytes, page, node);
    int fresh = __wrap_os_map_fresh(address, bytes); /* its own failure counts as one of os_map_fresh */
    if (fresh != 0) {
        (void)mprotect(address, bytes, PROT_NONE);
        return ENOTRECOVERABLE;
    }
    note(address, bytes, NA_BIND_DEFAULT, NULL);
    if (error != 0) return error;
    na_nodeset one = {{node < 0 ? 3 : UINT64_C(1) << node}};
    note(address, bytes, NA_BIND_STRICT, &one);
    return __real_os_populate(address, bytes);
}

WRAP(int, remap, (void *from, size_t bytes, void *to)) {
    int error = counted(MACHINE_remap);
    if (error == 0) return __real_os_remap(from, bytes, to);
    if (error != ENOSYS) (void)mprotect(to, bytes, PROT_NONE);
    return error;
}

WRAP(int, read_file, (const char *path, char *buffer, size_t capacity, size_t *length)) {
    int error = counted(MACHINE_read_file);
    if (error != 0) return error;
    const char *made_up = made_up_file(path);
    if (made_up == NULL) return __real_os_read_file(path, buffer, capacity, length);
    *length = strlen(made_up);
    if (*length == 0) return ENOENT;
    if (*length >= capacity) return EFBIG;
    memcpy(buffer, made_up, *length + 1);
    return 0;
}

WRAP(int, list, (const char *path, void (*visit)(const char *name, void *context), void *context)) {
    int error = counted(MACHINE_list);
    return error != 0 ? error : nodes == TWO ? ENOENT : __real_os_list(path, visit, context);
}

void __real_os_message(const char *format, ...);
void __wrap_os_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
void __wrap_os_message(const char *format, ...) {
    char text[2048];
    (void)counted(MACHINE_message);
    if (machine_quiet && strstr(format, "invariant") == NULL) return;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    __real_os_message("%s", text);
}

_Noreturn void __real_os_abort(void);
_Noreturn void __wrap_os_abort(void);
_Noreturn void __wrap_os_abort(void) {
    (void)counted(MACHINE_abort);
    __real_os_abort();
}
