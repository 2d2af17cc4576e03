/* SPDX-License-Identifier: BSD-3-Clause
 *
 * numa_alloc.hpp: libnumalloc for C++17 and newer, header only.
 *
 *   std::vector<double, numa_alloc::allocator<double>> a(n, numa_alloc::on_node(1));
 *   numa_alloc::memory_resource strict_here{numa_alloc::local().strict()};
 *   std::pmr::vector<double> b(n, &strict_here);
 *   auto c = numa_alloc::make_unique<double[]>(n, numa_alloc::interleaved());
 *   std::vector<double, numa_alloc::allocator<double>> d(n, numa_alloc::on_kind(numa_alloc::kind::bandwidth));
 *
 * A `placement` says where memory comes from. Allocators, memory resources and the make_unique functions take one; without
 * one, memory comes from the node of the calling thread.
 *
 * Containers. The placement travels with the memory: a container that is moved or swapped takes its allocator along, so
 * get_allocator().placement() tells where its elements are. A copy gets a copy of the allocator; copy assignment keeps the
 * target's. std::pmr containers never exchange their resource: a move between resources of unequal placement moves the
 * elements into memory of the target's placement.
 *
 * Errors. std::bad_alloc when the request can't be served: no memory, no such node, or a strict request that would leave
 * its node; numa_alloc.h has the list, and errno tells which. std::bad_array_new_length when the size overflows.
 *
 * Threads. As numa_alloc.h: any thread may free.
 */
#ifndef NUMA_ALLOC_HPP
#define NUMA_ALLOC_HPP

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "numa_alloc.h"

namespace numa_alloc {

class placement;

/* The calling thread's node. */
[[nodiscard]] constexpr placement local() noexcept;

/* Node `node`. */
[[nodiscard]] constexpr placement on_node(int node) noexcept;

/* Pages round-robin over `nodes`, any container of int; none: over all allowed nodes.
 * std::out_of_range for an id that no node can have. */
template <class Ids = std::initializer_list<int>> [[nodiscard]] placement interleaved(const Ids &nodes = {});

/* Equal contiguous parts, one a node, repeated each `stripe` bytes (0: once over the whole block). Nodes as above. */
template <class Ids = std::initializer_list<int>>
[[nodiscard]] placement blocked(std::size_t stripe = 0, const Ids &nodes = {});

/* Pages in the proportion of weights, 0 to 255, of nodes: {{0, 3}, {1, 1}}, any container of such pairs; none: over all
 * allowed nodes, by the bandwidths that the kernel tells. std::out_of_range for what can be no node or no weight. */
template <class Pairs = std::initializer_list<std::pair<int, int>>>
[[nodiscard]] placement weighted(const Pairs &weights = {});

/* Kinds of memory; numalloc_kind() tells which nodes they mean here. */
enum class kind {
    bandwidth = NUMALLOC_KIND_BANDWIDTH,
    latency = NUMALLOC_KIND_LATENCY,
    capacity = NUMALLOC_KIND_CAPACITY
};

/* The node of a kind that is nearest to the calling thread; strict: nodes of that kind alone. */
[[nodiscard]] constexpr placement on_kind(kind which) noexcept;

/* Where memory comes from: a policy of numa_alloc.h, its node or nodes, and whether it is strict. A small value. */
class placement {
  public:
    constexpr placement() noexcept = default; /* the calling thread's node, preferred */

    /* The same, but on its node or std::bad_alloc. */
    [[nodiscard]] constexpr placement strict() const noexcept { return with(NUMALLOC_STRICT); }
    /* The same, with all pages faulted in by the allocating call. */
    [[nodiscard]] constexpr placement populated() const noexcept { return with(NUMALLOC_POPULATE); }

    [[nodiscard]] constexpr int policy() const noexcept { return policy_; } /* enum numalloc_policy */
    [[nodiscard]] constexpr int node() const noexcept { return node_; }     /* on_node: its id; else -1 */
    [[nodiscard]] constexpr bool is_strict() const noexcept { return (flags_ & NUMALLOC_STRICT) != 0; }

    /* `bytes` of memory, aligned to `align`, a power of two up to 1 GiB. Throws std::bad_alloc. */
    [[nodiscard]] void *allocate(std::size_t bytes, std::size_t align = alignof(std::max_align_t)) const {
        if (policy_ == NUMALLOC_LOCAL && flags_ == 0) {
            void *plain = align <= alignof(std::max_align_t) ? ::numalloc(bytes) : ::numalloc_aligned(align, bytes);
            if (plain == nullptr) throw std::bad_alloc();
            return plain;
        }
        numalloc_request_t request{};
        request.size = bytes;
        request.align = align;
        request.policy = policy_;
        request.flags = flags_;
        request.node = node_;
        request.nodes = nodes_;
        request.stripe = stripe_;
        request.weights = weights_;
        void *block = ::numalloc_request(&request);
        if (block == nullptr) throw std::bad_alloc();
        return block;
    }

    friend constexpr bool operator==(const placement &a, const placement &b) noexcept {
        return a.policy_ == b.policy_ && a.flags_ == b.flags_ && a.node_ == b.node_ && a.stripe_ == b.stripe_ &&
               a.nodes_ == b.nodes_ && a.weights_ == b.weights_; /* equal sets have one address */
    }
    friend constexpr bool operator!=(const placement &a, const placement &b) noexcept { return !(a == b); }

    friend constexpr placement local() noexcept;
    friend constexpr placement on_node(int node) noexcept;
    template <class Ids> friend placement interleaved(const Ids &nodes);
    template <class Ids> friend placement blocked(std::size_t stripe, const Ids &nodes);
    template <class Pairs> friend placement weighted(const Pairs &weights);
    friend constexpr placement on_kind(kind which) noexcept;

  private:
    int policy_ = NUMALLOC_LOCAL;
    unsigned flags_ = 0;
    int node_ = -1;
    std::size_t stripe_ = 0;
    const numalloc_nodemask_t *nodes_ = nullptr;  /* of the table below; NULL: all allowed nodes */
    const numalloc_weights_t *weights_ = nullptr; /* likewise; NULL: by bandwidth */

    [[nodiscard]] constexpr placement with(unsigned flag) const noexcept {
        placement result = *this;
        result.flags_ |= flag;
        return result;
    }

    static void check(const char *call, const char *what, int value, int limit) {
        if (value < 0 || value >= limit)
            throw std::out_of_range(std::string("numa_alloc::") + call + ": " + what + " " + std::to_string(value) +
                                    " is not in 0.." + std::to_string(limit - 1));
    }

    /* One copy of each set of nodes or weights that the program names, for the program's life. */
    template <class Set> static const Set *kept(const Set &set) {
        struct less {
            bool operator()(const Set &a, const Set &b) const noexcept { return std::memcmp(&a, &b, sizeof a) < 0; }
        };
        static std::mutex lock;
        static auto &sets = *new std::set<Set, less>; /* destructors of others may still allocate */
        std::lock_guard<std::mutex> hold(lock);
        return &*sets.insert(set).first;
    }

    template <class Ids> static const numalloc_nodemask_t *mask_of(const char *call, const Ids &nodes) {
        if (std::size(nodes) == 0) return nullptr;
        numalloc_nodemask_t mask{};
        for (int node : nodes) {
            check(call, "node", node, NUMALLOC_MAX_NODES);
            mask.word[node / 64] |= std::uint64_t{1} << (node % 64);
        }
        return kept(mask);
    }
};

constexpr placement local() noexcept { return {}; }

constexpr placement on_node(int node) noexcept {
    placement result;
    result.policy_ = NUMALLOC_ONNODE;
    result.node_ = node;
    return result;
}

template <class Ids> placement interleaved(const Ids &nodes) {
    placement result;
    result.policy_ = NUMALLOC_INTERLEAVE;
    result.nodes_ = placement::mask_of("interleaved", nodes);
    return result;
}

template <class Ids> placement blocked(std::size_t stripe, const Ids &nodes) {
    placement result;
    result.policy_ = NUMALLOC_BLOCKED;
    result.stripe_ = stripe;
    result.nodes_ = placement::mask_of("blocked", nodes);
    return result;
}

template <class Pairs> placement weighted(const Pairs &weights) {
    placement result;
    result.policy_ = NUMALLOC_WEIGHTED;
    if (std::size(weights) == 0) return result;
    numalloc_weights_t all{};
    for (const auto &[node, weight] : weights) {
        placement::check("weighted", "node", node, NUMALLOC_MAX_NODES);
        placement::check("weighted", "weight", weight, 256);
        all.of[node] = static_cast<std::uint8_t>(weight);
    }
    result.weights_ = placement::kept(all);
    return result;
}

constexpr placement on_kind(kind which) noexcept {
    placement result;
    result.policy_ = static_cast<int>(which);
    return result;
}

/* Bytes of `count` objects of T; std::bad_array_new_length if they overflow. */
template <class T> [[nodiscard]] constexpr std::size_t bytes_of(std::size_t count) {
    if (count > std::size_t(std::numeric_limits<std::ptrdiff_t>::max()) / sizeof(T)) throw std::bad_array_new_length();
    return count * sizeof(T);
}

/* A standard allocator. */
template <class T> class allocator {
  public:
    using value_type = T;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;
    using is_always_equal = std::false_type;

    constexpr allocator() noexcept = default;
    constexpr allocator(const numa_alloc::placement &where) noexcept
        : where_(where) {} /* not explicit: (n, on_node(1)) */
    template <class U> constexpr allocator(const allocator<U> &other) noexcept : where_(other.placement()) {}

    [[nodiscard]] T *allocate(std::size_t count) {
        return static_cast<T *>(where_.allocate(bytes_of<T>(count), alignof(T)));
    }
    void deallocate(T *ptr, std::size_t) noexcept { ::numalloc_free(ptr); }
    [[nodiscard]] constexpr const numa_alloc::placement &placement() const noexcept { return where_; }

    template <class U> friend constexpr bool operator==(const allocator &a, const allocator<U> &b) noexcept {
        return a.placement() == b.placement();
    }
    template <class U> friend constexpr bool operator!=(const allocator &a, const allocator<U> &b) noexcept {
        return !(a == b);
    }

  private:
    numa_alloc::placement where_;
};

/* For std::pmr containers; one may be shared by all threads. */
class memory_resource final : public std::pmr::memory_resource {
  public:
    memory_resource() noexcept = default;
    explicit memory_resource(const numa_alloc::placement &where) noexcept : where_(where) {}
    [[nodiscard]] const numa_alloc::placement &placement() const noexcept { return where_; }

  private:
    void *do_allocate(std::size_t bytes, std::size_t align) override { return where_.allocate(bytes, align); }
    void do_deallocate(void *ptr, std::size_t, std::size_t) override { ::numalloc_free(ptr); }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
        const auto *ours = dynamic_cast<const memory_resource *>(&other);
        return ours != nullptr && ours->where_ == where_;
    }

    numa_alloc::placement where_;
};

/* Frees storage that has no destructors to run: what came from numalloc() and its brothers. */
struct free_deleter {
    void operator()(void *ptr) const noexcept { ::numalloc_free(ptr); }
};

/* Destroys one object. T is its complete type: storage starts where the object does. */
template <class T> struct deleter {
    void operator()(T *ptr) const noexcept {
        std::destroy_at(ptr);
        ::numalloc_free(ptr);
    }
};

/* Destroys an array, whose length it knows. */
template <class T> struct deleter<T[]> {
    std::size_t count = 0;
    void operator()(T *ptr) const noexcept {
        std::destroy_n(ptr, count);
        ::numalloc_free(ptr);
    }
};

template <class T> using unique_ptr = std::unique_ptr<T, deleter<T>>;

/* make_unique<T>(placement, arguments of T's constructor...). */
template <class T, class... Arguments, std::enable_if_t<!std::is_array_v<T>, int> = 0>
[[nodiscard]] unique_ptr<T> make_unique(const placement &where, Arguments &&...arguments) {
    std::unique_ptr<void, free_deleter> storage(where.allocate(sizeof(T), alignof(T)));
    T *object = ::new (storage.get()) T(std::forward<Arguments>(arguments)...);
    storage.release();
    return unique_ptr<T>(object);
}

/* make_unique<T[]>(count, placement): the elements are value-initialised, numbers are zero. The calling thread touches them;
 * make_unique_for_overwrite leaves that to the program. */
template <class T, std::enable_if_t<std::is_array_v<T> && std::extent_v<T> == 0, int> = 0>
[[nodiscard]] unique_ptr<T> make_unique(std::size_t count, const placement &where = {}) {
    using element = std::remove_extent_t<T>;
    std::unique_ptr<void, free_deleter> storage(where.allocate(bytes_of<element>(count), alignof(element)));
    auto *first = static_cast<element *>(storage.get());
    std::uninitialized_value_construct_n(first, count);
    storage.release();
    return unique_ptr<T>(first, deleter<T>{count});
}

/* The same without writing to the elements where their type allows that. */
template <class T, std::enable_if_t<std::is_array_v<T> && std::extent_v<T> == 0, int> = 0>
[[nodiscard]] unique_ptr<T> make_unique_for_overwrite(std::size_t count, const placement &where = {}) {
    using element = std::remove_extent_t<T>;
    std::unique_ptr<void, free_deleter> storage(where.allocate(bytes_of<element>(count), alignof(element)));
    auto *first = static_cast<element *>(storage.get());
    std::uninitialized_default_construct_n(first, count);
    storage.release();
    return unique_ptr<T>(first, deleter<T>{count});
}

} // namespace numa_alloc
#endif
