/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cdef.h: native/include/numa_alloc.h as cffi reads it: no preprocessor, no attributes. The compiler checks every
 * declaration against the header when the module is built; tests/test_native.py checks that none is missing.
 */
static const char *const NUMALLOC_VERSION;
#define NUMALLOC_VERSION_NUMBER ...
int numalloc_version(void);

enum { NUMALLOC_MAX_NODES = 1024, NUMALLOC_NODE_MIXED = -1, NUMALLOC_NODE_FOREIGN = -2 };

typedef struct numalloc_nodemask_t {
    uint64_t word[16];
} numalloc_nodemask_t;

int numalloc_init(size_t bytes_per_node);
void numalloc_cleanup(void);
void *numalloc(size_t size);
void *numalloc_calloc(size_t count, size_t size);
void *numalloc_realloc(void *ptr, size_t size);
void *numalloc_aligned(size_t align, size_t size);
void numalloc_free(void *ptr);
void *numalloc_onnode(size_t size, int node);
void *numalloc_interleaved(size_t size, const numalloc_nodemask_t *nodes);
void *numalloc_blocked(size_t size, const numalloc_nodemask_t *nodes);
void *numalloc_onkind(size_t size, int kind);

typedef struct numalloc_weights_t {
    uint8_t of[1024];
} numalloc_weights_t;

void *numalloc_weighted(size_t size, const numalloc_weights_t *weights);

enum numalloc_policy {
    NUMALLOC_LOCAL = 0,
    NUMALLOC_ONNODE = 1,
    NUMALLOC_INTERLEAVE = 2,
    NUMALLOC_BLOCKED = 3,
    NUMALLOC_WEIGHTED = 4,
    NUMALLOC_KIND_BANDWIDTH = 5,
    NUMALLOC_KIND_LATENCY = 6,
    NUMALLOC_KIND_CAPACITY = 7
};

enum numalloc_flag { NUMALLOC_STRICT = 1, NUMALLOC_ZERO = 2, NUMALLOC_POPULATE = 4 };

typedef struct numalloc_request_t {
    size_t size;
    size_t align;
    int policy;
    unsigned flags;
    int node;
    const numalloc_nodemask_t *nodes;
    size_t stripe;
    const numalloc_weights_t *weights;
} numalloc_request_t;

void *numalloc_request_sized(const numalloc_request_t *request, size_t bytes);
void *numalloc_request(const numalloc_request_t *request);
size_t numalloc_usable_size(const void *ptr);
int numalloc_node_of(const void *ptr);

typedef struct numalloc_block_info_t {
    void *start;
    size_t size;
    int size_class;
    int numa_node;
    int policy;
    unsigned flags;
    size_t huge_page;
} numalloc_block_info_t;

int numalloc_block_info_sized(const void *ptr, numalloc_block_info_t *info, size_t bytes);
int numalloc_block_info(const void *ptr, numalloc_block_info_t *info);

typedef struct numalloc_page_counts_t {
    size_t page_size;
    size_t pages;
    size_t untouched;
    size_t failed;
    size_t on_node[1024];
} numalloc_page_counts_t;

int numalloc_page_nodes_sized(const void *ptr, size_t len, numalloc_page_counts_t *counts, size_t bytes);
int numalloc_page_nodes(const void *ptr, size_t len, numalloc_page_counts_t *counts);
int numalloc_prefault(void *ptr, size_t len);
uint64_t numalloc_room(void);

typedef struct numalloc_limits_t {
    uint64_t machine;
    uint64_t cgroup;
    uint64_t data;
    uint64_t address_space;
    uint64_t block;
} numalloc_limits_t;

int numalloc_limits_sized(numalloc_limits_t *limits, size_t bytes);
int numalloc_limits(numalloc_limits_t *limits);
int numalloc_bind_range(void *ptr, size_t len, const numalloc_nodemask_t *nodes);

enum { NUMALLOC_ERRNO_MAX = 134 };

typedef struct numalloc_migration_t {
    size_t page_size;
    size_t pages;
    size_t untouched;
    size_t stayed;
    size_t moved;
    size_t refused[134];
} numalloc_migration_t;

int numalloc_migrate_pages_sized(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule, numalloc_migration_t *result, size_t bytes);
int numalloc_migrate_pages(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule, numalloc_migration_t *result);
int numalloc_migrate(void *ptr, size_t len, int node, size_t *unmoved);
size_t numalloc_purge(void);
int numalloc_purger(void);
void numalloc_release_address_space(void);

typedef struct numalloc_node_info_t {
    int node;
    int cpus;
    int allowed;
    uint64_t total_bytes;
    uint64_t free_bytes;
    uint32_t read_bandwidth, write_bandwidth;
    uint32_t read_latency, write_latency;
    int tier;
} numalloc_node_info_t;

int numalloc_node_count(void);
int numalloc_node_ids(int *ids, int capacity);
int numalloc_node_info_sized(int node, numalloc_node_info_t *info, size_t bytes);
int numalloc_node_info(int node, numalloc_node_info_t *info);

enum numalloc_source {
    NUMALLOC_SOURCE_NONE = 0,
    NUMALLOC_SOURCE_ATTRIBUTES = 1,
    NUMALLOC_SOURCE_TIERS = 2,
    NUMALLOC_SOURCE_SIZE = 3
};

typedef struct numalloc_kind_t {
    int source;
    int nearest;
    numalloc_nodemask_t nodes;
} numalloc_kind_t;

int numalloc_kind_sized(int kind, numalloc_kind_t *answer, size_t bytes);
int numalloc_kind(int kind, numalloc_kind_t *answer);
size_t numalloc_kind_text(char *buffer, size_t capacity);
int numalloc_weights(const numalloc_nodemask_t *nodes, numalloc_weights_t *weights);
int numalloc_distance(int from, int to);
int numalloc_current_node(void);
int numalloc_bind_thread(int node);
int numalloc_memory_policy(int policy, unsigned flags, const numalloc_nodemask_t *nodes);
int numalloc_memory_policy_now(int *mode, numalloc_nodemask_t *nodes);
int numalloc_can_bind(void);
int numalloc_can_query(void);

typedef struct numalloc_stats_t {
    uint64_t allocated_bytes;
    uint64_t peak_bytes;
    uint64_t committed_bytes;
    uint64_t allocations;
    uint64_t frees;
    uint64_t remote_frees;
    uint64_t fallbacks;
    uint64_t strict_failures;
    uint64_t large_blocks;
    uint64_t large_bytes;
    uint64_t huge_bytes;
    uint64_t cached_bytes;
    uint64_t purged_bytes;
    uint64_t heaps;
    uint64_t abandoned_heaps;
    uint64_t pages;
    uint64_t lost_blocks;
} numalloc_stats_t;

int numalloc_stats_sized(int node, numalloc_stats_t *stats, size_t bytes);
int numalloc_stats(int node, numalloc_stats_t *stats);
size_t numalloc_stats_json(char *buffer, size_t capacity);
int numalloc_verify(void);

typedef struct numalloc_range_t {
    void *start;
    size_t size;
} numalloc_range_t;

size_t numalloc_large_blocks(numalloc_range_t *ranges, size_t capacity, uint64_t *bytes);
void numalloc_before_large_free(void (*look)(void));

typedef struct numalloc_leak_totals_t {
    uint64_t blocks, bytes;
    uint64_t startup_blocks, startup_bytes;
    uint64_t unrecorded;
} numalloc_leak_totals_t;

int numalloc_leak_report_sized(const char *path, numalloc_leak_totals_t *totals, size_t bytes);
int numalloc_leak_report(const char *path, numalloc_leak_totals_t *totals);
int numalloc_profile_dump(const char *path);
