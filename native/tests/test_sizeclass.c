/* SPDX-License-Identifier: BSD-3-Clause */
/* sizeclass.h: classes cover every size, waste at most a quarter, and keep alignments. */
#include "check.h"
#include "sizeclass.h"

static void covers_every_size(void) {
    for (size_t size = 1; size <= NA_BLOCK_MAX; size++) {
        unsigned c = size_to_class(size);
        CHECK(c < NA_SIZES);
        CHECK(class_to_size(c) >= size);
        CHECK(c == 0 || class_to_size(c - 1) < size + (c > NA_FIRST_COLOURED ? NA_COLOUR : 0));
    }
}

static void the_table_says_the_same(void) {
    CHECK_EQUAL(small_to_class(0), 0);
    for (size_t size = 1; size <= NA_TABLE_MAX; size++) CHECK_EQUAL(small_to_class(size), size_to_class(size));
}

static void round_trips(void) {
    for (unsigned c = 0; c < NA_FIRST_COLOURED; c++) CHECK_EQUAL(size_to_class(class_to_size(c)), c);
    for (unsigned c = NA_FIRST_COLOURED; c < NA_SIZES; c++) {
        CHECK_EQUAL(size_to_class(class_to_size(c) - NA_COLOUR), c);
        CHECK_EQUAL(class_to_size(c + NA_PLAIN), class_to_size(c) - NA_COLOUR);
    }
}

static void wastes_at_most_a_fifth_of_the_block(void) {
    for (size_t size = 129; size <= NA_BLOCK_MAX; size++) {
        size_t block = class_to_size(aligned_to_class(2 * NA_LINE, size)); /* without colour */
        CHECK((block - size) * 5 <= block);
    }
}

static void powers_of_two_are_classes(void) {
    for (size_t size = 16; size <= NA_BLOCK_MAX; size *= 2)
        CHECK_EQUAL(class_to_size(aligned_to_class(size, size)), size);
}

static void rounding_up_keeps_alignment(void) {
    for (size_t align = 16; align <= NA_BLOCK_MAX; align *= 2)
        for (size_t size = align; size <= NA_BLOCK_MAX; size += align)
            CHECK_EQUAL(class_to_size(aligned_to_class(align, size)) % align, 0);
}

static const check_case cases[] = {
    {"covers_every_size", covers_every_size},
    {"the_table_says_the_same", the_table_says_the_same},
    {"round_trips", round_trips},
    {"wastes_at_most_a_fifth_of_the_block", wastes_at_most_a_fifth_of_the_block},
    {"powers_of_two_are_classes", powers_of_two_are_classes},
    {"rounding_up_keeps_alignment", rounding_up_keeps_alignment},
};
CHECK_MAIN(cases)
