/* SPDX-License-Identifier: BSD-3-Clause
 *
 * containers.cpp: numa_alloc.hpp with the standard library's containers. On one node and on several: homes are asked for
 * with numalloc_node_of(), and a strict request for a node that is not there must throw.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "numa_alloc.hpp"

static_assert(std::is_trivially_copyable_v<numa_alloc::placement>);
static_assert(std::is_nothrow_default_constructible_v<numa_alloc::allocator<int>>);

static int failures = 0;
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)
#define THROWS(exception, expression)                                                                                  \
    do {                                                                                                               \
        bool thrown = false;                                                                                           \
        try {                                                                                                          \
            (void)(expression);                                                                                        \
        } catch (const exception &) {                                                                                  \
            thrown = true;                                                                                             \
        }                                                                                                              \
        CHECK(thrown &&#expression);                                                                                   \
    } while (0)

using numa_alloc::allocator;
using numa_alloc::on_node;

template <class T> using vector = std::vector<T, allocator<T>>;

static std::vector<int> allowed_nodes() {
    std::vector<int> ids(static_cast<std::size_t>(numalloc_node_count()));
    numalloc_node_ids(ids.data(), static_cast<int>(ids.size()));
    return ids;
}

/* The last allowed node: another one than the caller's where there are several. */
static int far_node() { return allowed_nodes().back(); }

static void placements_are_values() {
    CHECK(numa_alloc::local() == numa_alloc::placement());
    CHECK(on_node(0) != on_node(1));
    CHECK(on_node(0) != on_node(0).strict());
    CHECK(on_node(3).node() == 3 && on_node(3).strict().is_strict() && !on_node(3).is_strict());
    CHECK(numa_alloc::interleaved({0, 2}) == numa_alloc::interleaved({2, 0}));
    CHECK(numa_alloc::interleaved({0}) != numa_alloc::interleaved());
    CHECK(numa_alloc::blocked(4096, {0}) != numa_alloc::blocked(8192, {0}));
    const std::vector<int> ids = allowed_nodes();
    CHECK(numa_alloc::interleaved(ids) == numa_alloc::interleaved(ids));
    CHECK(numa_alloc::weighted({{0, 3}, {1, 1}}) == numa_alloc::weighted({{1, 1}, {0, 3}}));
    CHECK(numa_alloc::weighted({{0, 3}, {1, 1}}) != numa_alloc::weighted({{0, 1}, {1, 3}}));
    CHECK(numa_alloc::on_kind(numa_alloc::kind::bandwidth) != numa_alloc::on_kind(numa_alloc::kind::latency));
    THROWS(std::out_of_range, numa_alloc::weighted({{0, 256}}));
    THROWS(std::out_of_range, numa_alloc::weighted({{NUMALLOC_MAX_NODES, 1}}));
    THROWS(std::out_of_range, numa_alloc::interleaved({-1}));
    THROWS(std::out_of_range, numa_alloc::blocked(0, {NUMALLOC_MAX_NODES}));
}

static void vectors_are_where_they_say() {
    vector<double> a(100000, 1.5, on_node(far_node()));
    CHECK(numalloc_node_of(a.data()) == far_node());
    CHECK(std::accumulate(a.begin(), a.end(), 0.0) == 150000.0);
    for (int i = 0; i < 200000; i++) a.push_back(i); /* growth stays there */
    CHECK(numalloc_node_of(a.data()) == far_node());

    vector<int> mixed(1 << 20, 7, numa_alloc::interleaved());
    numalloc_block_info_t info;
    CHECK(numalloc_block_info(mixed.data(), &info) == 0);
    CHECK(info.policy == NUMALLOC_INTERLEAVE || numalloc_node_count() == 1);
    struct alignas(256) wide {
        char bytes[256];
    };
    vector<wide> aligned(33, on_node(far_node()));
    CHECK(reinterpret_cast<std::uintptr_t>(aligned.data()) % 256 == 0);
}

/* What the machine does not tell of is no memory. */
static void memory_by_kind() {
    using numa_alloc::kind;
    for (kind which : {kind::bandwidth, kind::latency, kind::capacity}) {
        numalloc_kind_t known;
        const numa_alloc::placement strict = numa_alloc::on_kind(which).strict();
        if (numalloc_kind(static_cast<int>(which), &known) != 0) {
            THROWS(std::bad_alloc, vector<double>(1000, 1.5, strict));
            continue;
        }
        vector<double> a(100000, 1.5, strict);
        int node = numalloc_node_of(a.data());
        CHECK(node >= 0 && (known.nodes.word[node / 64] >> (node % 64) & 1) != 0);
    }
    vector<int> weighed(1 << 20, 7, numa_alloc::weighted({{allowed_nodes().front(), 1}, {far_node(), 3}}));
    numalloc_block_info_t info;
    CHECK(numalloc_block_info(weighed.data(), &info) == 0);
    CHECK(info.policy == NUMALLOC_WEIGHTED || numalloc_node_count() == 1);
    const std::map<int, int> weights{{far_node(), 2}};
    CHECK(numalloc_node_of(vector<int>(1 << 20, 7, numa_alloc::weighted(weights)).data()) == far_node());
    THROWS(std::bad_alloc, vector<int>(10, 7, numa_alloc::weighted({{0, 0}})));
    numalloc_weights_t by_bandwidth;
    if (numalloc_weights(nullptr, &by_bandwidth) != 0)
        THROWS(std::bad_alloc, vector<int>(10, 7, numa_alloc::weighted()));
}

static void containers_move_and_swap() {
    vector<int> a({1, 2, 3}, on_node(far_node()).strict()), b(5000, 9);
    const int *of_a = a.data();
    b = std::move(a); /* takes memory and allocator */
    CHECK(b.data() == of_a && b.size() == 3 && b.get_allocator().placement() == on_node(far_node()).strict());
    vector<int> c(77, 4);
    const int *of_c = c.data();
    swap(b, c);
    CHECK(c.data() == of_a && b.data() == of_c);
    CHECK(c.get_allocator().placement().is_strict() && !b.get_allocator().placement().is_strict());
    b = c; /* a copy keeps its own placement */
    CHECK(b == c && !b.get_allocator().placement().is_strict());
    vector<int> copy(c), elsewhere(c, numa_alloc::local());
    CHECK(copy.get_allocator() == c.get_allocator() && elsewhere.get_allocator() != c.get_allocator());
    vector<int> moved(std::move(copy), numa_alloc::local()); /* unequal allocators: by element */
    CHECK(moved == c && !moved.get_allocator().placement().is_strict());

    using string = std::basic_string<char, std::char_traits<char>, allocator<char>>;
    std::map<int, string, std::less<>, allocator<std::pair<const int, string>>> map(on_node(far_node()));
    std::unordered_map<int, int, std::hash<int>, std::equal_to<>, allocator<std::pair<const int, int>>> table(
        16, std::hash<int>(), std::equal_to<>(), on_node(far_node()));
    std::list<double, allocator<double>> list(on_node(far_node()));
    std::deque<short, allocator<short>> deque(on_node(far_node()));
    for (int i = 0; i < 3000; i++) {
        map.emplace(i, string(static_cast<std::size_t>(i % 60), 'x'));
        table[i] = i;
        list.push_front(i);
        deque.push_back(static_cast<short>(i));
    }
    CHECK(numalloc_node_of(&map.begin()->first) == far_node() && numalloc_node_of(&list.front()) == far_node());
    CHECK(numalloc_node_of(&deque.front()) == far_node() && table.at(2999) == 2999 && map.at(59).size() == 59);
    auto other = std::move(map);
    CHECK(other.size() == 3000);
}

static void resources_do_not_move() {
    numa_alloc::memory_resource there(on_node(far_node())), here, also_there(on_node(far_node()));
    CHECK(there == also_there && there != here && there != *std::pmr::new_delete_resource());
    std::pmr::vector<std::pmr::string> a(&there), b(&here), c(&also_there);
    for (int i = 0; i < 500; i++) a.emplace_back(std::size_t(100 + i), 'y');
    CHECK(numalloc_node_of(a.data()) == far_node() && numalloc_node_of(a[7].data()) == far_node());
    const auto *data = a.data();
    c = std::move(a); /* equal: the memory goes over */
    CHECK(c.data() == data);
    b = std::move(c); /* unequal: the elements do */
    CHECK(b.data() != data && b.size() == 500 && b[499].size() == 599);
    std::pmr::monotonic_buffer_resource pool(1 << 16, &there);
    std::pmr::list<int> list(&pool);
    for (int i = 0; i < 10000; i++) list.push_back(i);
    CHECK(numalloc_node_of(&list.back()) == far_node());
    std::pmr::polymorphic_allocator<std::byte> bytes(&there);
    void *wide = there.allocate(1000, 4096);
    CHECK(reinterpret_cast<std::uintptr_t>(wide) % 4096 == 0);
    there.deallocate(wide, 1000, 4096);
}

static int alive = 0;
struct counted {
    std::string text = "a string that is too long to be kept inside of the object";
    counted() { alive++; }
    explicit counted(int limit) {
        if (limit < 0) throw std::runtime_error("negative");
        alive++;
    }
    counted(const counted &) = delete;
    ~counted() { alive--; }
};
struct fourth_throws {
    fourth_throws() {
        if (++made % 4 == 0) throw std::runtime_error("the fourth");
        alive++;
    }
    ~fourth_throws() { alive--; }
    static inline int made = 0;
};

static void unique_pointers_destroy() {
    {
        auto one = numa_alloc::make_unique<counted>(on_node(far_node()), 3);
        auto many = numa_alloc::make_unique<counted[]>(100, on_node(far_node()));
        CHECK(alive == 101 && numalloc_node_of(one.get()) == far_node() && numalloc_node_of(&many[99]) == far_node());
        auto moved = std::move(many);
        CHECK(alive == 101);
        auto zeros = numa_alloc::make_unique<double[]>(1000);
        CHECK(std::accumulate(zeros.get(), zeros.get() + 1000, 0.0) == 0.0);
        auto raw = numa_alloc::make_unique_for_overwrite<double[]>(1 << 20, numa_alloc::interleaved());
        raw[(1 << 20) - 1] = 1;
    }
    CHECK(alive == 0);
    THROWS(std::runtime_error, numa_alloc::make_unique<counted>(on_node(far_node()), -1));
    THROWS(std::runtime_error, numa_alloc::make_unique<fourth_throws[]>(10));
    CHECK(alive == 0);
}

static void failures_throw() {
    int missing = NUMALLOC_MAX_NODES - 1;
    THROWS(std::bad_alloc, vector<int>(10, 0, on_node(missing).strict()));
    THROWS(std::bad_alloc, vector<int>(10, 0, numa_alloc::interleaved({missing})));
    THROWS(std::bad_alloc, numa_alloc::make_unique<int[]>(10, on_node(-5)));
    THROWS(std::bad_array_new_length, allocator<double>().allocate(std::size_t(-1) / 4));
    THROWS(std::bad_array_new_length, numa_alloc::make_unique<double[]>(std::size_t(-1) / 8));
    THROWS(std::bad_alloc, allocator<char>().allocate(std::size_t(1) << 62));
    vector<int> kept(10, 5);
    THROWS(std::length_error, kept.reserve(std::size_t(-1) / 2));
    CHECK(kept.size() == 10 && kept[9] == 5);
    numa_alloc::memory_resource gone(on_node(missing));
    THROWS(std::bad_alloc, gone.allocate(64));
}

static void threads_free_for_each_other() {
    std::vector<vector<int>> parts;
    for (int t = 0; t < 4; t++) parts.emplace_back(10000, t, on_node(far_node()));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&parts, t] {
            vector<int> mine = std::move(parts[static_cast<std::size_t>(t)]);
            for (int i = 0; i < 100; i++) {
                vector<int> grown(mine);
                grown.insert(grown.end(), 1000, i);
                mine = std::move(grown);
                mine.resize(10000);
            }
            CHECK(mine[9999] == t && numalloc_node_of(mine.data()) == far_node());
        });
    for (auto &thread : threads) thread.join();
}

int main() {
    placements_are_values();
    vectors_are_where_they_say();
    memory_by_kind();
    containers_move_and_swap();
    resources_do_not_move();
    unique_pointers_destroy();
    failures_throw();
    threads_free_for_each_other();
    CHECK(numalloc_verify() == 0);
    if (failures == 0) std::puts("containers: ok");
    return failures != 0;
}
