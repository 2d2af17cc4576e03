/* SPDX-License-Identifier: BSD-3-Clause
 *
 * operators.cpp: new and delete in all forms under LD_PRELOAD, and what C++ builds on them.
 */
extern "C" {
#include "../check.h"
}
#include "served.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <future>
#include <malloc.h>
#include <memory>
#include <memory_resource>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

static volatile std::size_t huge = static_cast<std::size_t>(PTRDIFF_MAX) - 100;
static constexpr std::align_val_t ALIGN{256};

static bool aligned(void *ptr) { return reinterpret_cast<std::uintptr_t>(ptr) % 256 == 0; }

static void every_form(void) {
    static const std::size_t sizes[] = {0, 1, 16, 100, 1024, 5000, 70000, 3 << 20};
    for (std::size_t size : sizes) {
        void *p[] = {::operator new(size), ::operator new[](size), ::operator new(size, std::nothrow),
                     ::operator new[](size, std::nothrow)};
        for (void *ptr : p) CHECK(served(ptr) && malloc_usable_size(ptr) >= size);
        ::operator delete(p[0]);
        ::operator delete[](p[1]);
        ::operator delete(p[2], std::nothrow);
        ::operator delete[](p[3], std::nothrow);
        ::operator delete(::operator new(size), size);
        ::operator delete[](::operator new[](size), size);
        void *a[] = {::operator new(size, ALIGN),
                     ::operator new[](size, ALIGN),
                     ::operator new(size, ALIGN, std::nothrow),
                     ::operator new[](size, ALIGN, std::nothrow),
                     ::operator new(size, ALIGN),
                     ::operator new[](size, ALIGN)};
        for (void *ptr : a) CHECK(served(ptr) && aligned(ptr));
        ::operator delete(a[0], ALIGN);
        ::operator delete[](a[1], ALIGN);
        ::operator delete(a[2], ALIGN, std::nothrow);
        ::operator delete[](a[3], ALIGN, std::nothrow);
        ::operator delete(a[4], size, ALIGN);
        ::operator delete[](a[5], size, ALIGN);
    }
    void *none = nullptr;
    ::operator delete(none);
    ::operator delete[](none);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static bool throws(void *(*form)(std::size_t)) {
    try {
        (void)form(huge);
    } catch (const std::bad_alloc &error) {
        return std::string(error.what()) == "std::bad_alloc";
    }
    return false;
}

static void bad_alloc(void) {
    CHECK(throws([](std::size_t size) { return ::operator new(size); }));
    CHECK(throws([](std::size_t size) { return ::operator new[](size); }));
    CHECK(throws([](std::size_t size) { return ::operator new(size, ALIGN); }));
    CHECK(throws([](std::size_t size) { return ::operator new[](size, ALIGN); }));
    CHECK(throws([](std::size_t size) -> void * { return new std::vector<char>(size); }));
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    CHECK(::operator new[](huge, std::nothrow) == nullptr);
    CHECK(::operator new(huge, ALIGN, std::nothrow) == nullptr);
    CHECK(::operator new[](huge, ALIGN, std::nothrow) == nullptr);
}

static int handled;
static void three_times(void) {
    if (++handled % 3 == 0) throw std::bad_alloc();
}
static void gives_up(void) {
    handled++;
    std::set_new_handler(nullptr);
}

/* The handler runs again and again until it throws or takes itself out; the nothrow forms call it too. */
static void new_handler(void) {
    std::set_new_handler(three_times);
    CHECK(throws([](std::size_t size) { return ::operator new(size); }));
    CHECK_EQUAL(handled, 3);
    CHECK(throws([](std::size_t size) { return ::operator new[](size, ALIGN); }));
    CHECK_EQUAL(handled, 6);
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    CHECK_EQUAL(handled, 9);
    CHECK(::operator new[](huge, ALIGN, std::nothrow) == nullptr);
    CHECK_EQUAL(handled, 12);
    std::set_new_handler(gives_up);
    CHECK(throws([](std::size_t size) { return ::operator new(size); }));
    CHECK_EQUAL(handled, 13);
}

struct counted {
    static int live;
    std::string text = std::string(200, 'c');
    explicit counted(bool fail) {
        if (fail) throw std::runtime_error(std::string(300, 'e'));
        live++;
    }
    ~counted() { live--; }
};
int counted::live;
struct alignas(128) wide {
    char byte[128];
};

static void exceptions(void) {
    for (int i = 0; i < 1000; i++) {
        try {
            std::unique_ptr<counted> one(new counted(false));
            auto two = std::make_unique<counted>(i % 2 == 0);
            CHECK_EQUAL(counted::live, 2);
        } catch (const std::runtime_error &error) {
            CHECK_EQUAL(std::string(error.what()).size(), 300);
        }
        CHECK_EQUAL(counted::live, 0);
    }
    auto many = std::make_unique<wide[]>(33);
    CHECK(reinterpret_cast<std::uintptr_t>(many.get()) % 128 == 0);
}

static void containers_and_threads(void) {
    std::vector<std::future<std::size_t>> sums;
    for (int t = 0; t < 4; t++)
        sums.push_back(std::async(std::launch::async, [t] {
            std::unordered_map<std::string, std::vector<int>> map;
            for (int i = 0; i < 20000; i++) map[std::to_string(i % 997 + t)].push_back(i);
            std::size_t sum = 0;
            for (auto &entry : map) sum += entry.second.size();
            return sum;
        }));
    for (auto &sum : sums) CHECK_EQUAL(sum.get(), 20000);
    /* Made here, freed there. */
    std::vector<std::shared_ptr<std::string>> strings;
    for (int i = 0; i < 10000; i++)
        strings.push_back(std::make_shared<std::string>(static_cast<std::size_t>(i % 200), 's'));
    std::thread([moved = std::move(strings)]() mutable { moved.clear(); }).join();
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void memory_resources(void) {
    std::pmr::synchronized_pool_resource pool(std::pmr::new_delete_resource());
    std::pmr::monotonic_buffer_resource buffer(1024, &pool);
    std::pmr::vector<std::pmr::string> strings(&buffer);
    for (int i = 0; i < 5000; i++) strings.emplace_back(static_cast<std::size_t>(i % 300), 'p');
    std::size_t length = 0;
    for (const auto &string : strings) length += string.size();
    CHECK_EQUAL(length, 737500);
    void *ptr = std::pmr::new_delete_resource()->allocate(1000, 4096);
    CHECK(served(ptr) && reinterpret_cast<std::uintptr_t>(ptr) % 4096 == 0);
    std::pmr::new_delete_resource()->deallocate(ptr, 1000, 4096);
}

static const check_case cases[] = {
    {"every_form", every_form},
    {"bad_alloc", bad_alloc},
    {"new_handler", new_handler},
    {"exceptions", exceptions},
    {"containers_and_threads", containers_and_threads},
    {"memory_resources", memory_resources},
};

SERVED_MAIN(cases)
