/* SPDX-License-Identifier: BSD-3-Clause
 *
 * module.cpp: a C++ library that loading.c, a C program, opens and closes; built with the C++ runtime as a library
 * of its own, and with the runtime inside.
 */
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <new>
#include <string>
#include <thread>

static thread_local std::string on_demand(300, 'x'); /* the dynamic linker allocates, and so does its constructor */

struct held {
    std::map<int, std::string> all;
    held() {
        for (int i = 0; i < 100; i++) all[i] = std::string(static_cast<std::size_t>(i) * 10, 'y');
    }
};
static held at_load; /* freed at dlclose */

extern "C" char *module_block() { return strdup("from the module"); }

extern "C" int module_threads() {
    std::size_t sum = 0;
    for (int i = 0; i < 4; i++) std::thread([&] { sum += on_demand.size(); }).join();
    return static_cast<int>(sum + on_demand.size());
}

/* operator new of a library that is in nobody's scope but its own. */
extern "C" int module_catches() {
    int caught = 0;
    volatile std::size_t huge = static_cast<std::size_t>(PTRDIFF_MAX) - 1000;
    try {
        char *block = new char[huge];
        block[0] = 1;
    } catch (const std::bad_alloc &) {
        caught |= 1;
    }
    if (new (std::nothrow) char[huge] == nullptr) caught |= 2;
    try {
        void *block = ::operator new(huge, std::align_val_t(64));
        ::operator delete(block, std::align_val_t(64));
    } catch (const std::bad_alloc &) {
        caught |= 4;
    }
    return caught;
}
