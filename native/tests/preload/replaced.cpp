/* SPDX-License-Identifier: BSD-3-Clause
 *
 * replaced.cpp: a program that replaces the plain operators and nothing else, with a header before each block. All
 * other unaligned forms must end in them: a block of theirs given to free() would be none.
 */
extern "C" {
#include "../check.h"
}
#include "served.h"

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

static constexpr std::size_t HEAD = 32;
static long news, deletes;
static bool fail;

__attribute__((noinline)) void *operator new(std::size_t size) {
    if (fail) throw std::bad_alloc();
    char *ptr = static_cast<char *>(std::malloc(size + HEAD));
    if (ptr == nullptr) throw std::bad_alloc();
    news++;
    return ptr + HEAD;
}

__attribute__((noinline)) void operator delete(void *ptr) noexcept {
    if (ptr == nullptr) return;
    deletes++;
    std::free(static_cast<char *>(ptr) - HEAD);
}

static void all_end_in_the_replaced(void) {
    long before = news;
    ::operator delete[](::operator new[](100));
    ::operator delete[](::operator new[](100), static_cast<std::size_t>(100));
    ::operator delete(::operator new(100), static_cast<std::size_t>(100));
    ::operator delete(::operator new(100, std::nothrow), std::nothrow);
    ::operator delete[](::operator new[](100, std::nothrow), std::nothrow);
    CHECK_EQUAL(news - before, 5);
    CHECK_EQUAL(deletes, news);
    {
        std::vector<std::unique_ptr<int[]>> many;
        for (int i = 0; i < 1000; i++) many.push_back(std::make_unique<int[]>(static_cast<std::size_t>(i)));
        CHECK(news - before > 1000);
    }
    CHECK_EQUAL(deletes, news);
    void *ptr = ::operator new(100, std::align_val_t(512)); /* not replaced */
    CHECK(served(ptr));
    ::operator delete(ptr, std::align_val_t(512));
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* nothrow is "call the plain one and catch". */
static void its_exception_is_caught(void) {
    fail = true;
    void *one = ::operator new(10, std::nothrow), *many = ::operator new[](10, std::nothrow);
    fail = false;
    CHECK(one == nullptr && many == nullptr);
}

static const check_case cases[] = {
    {"all_end_in_the_replaced", all_end_in_the_replaced},
    {"its_exception_is_caught", its_exception_is_caught},
};

SERVED_MAIN(cases)
