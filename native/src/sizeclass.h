/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sizeclass.h: size <-> class. 16-byte spacing up to 128, then four classes per doubling up to 64 KiB:
 * 16 32 ... 128 | 160 192 224 256 | 320 384 448 512 | ... | 40960 49152 57344 65536.
 *
 * Why this spacing: at most 25 % of a block above 128 bytes is unused, every power of two is a class of its
 * own, and a size rounded up to a multiple of a power of two A falls into a class whose size is a multiple
 * of A too. As blocks start at the page's first byte and pages are aligned to a slice, every alignment up to
 * a slice comes for free, without a search and without interior pointers.
 *
 * From 16 KiB on there are two classes of each size. Blocks of the plain ones would all start at the same place of
 * a 4 KiB page, and a loop that goes through a dozen arrays at once then has their lines in one set of the core's first
 * cache: 1.4 to 1.8 times the time. So those that are given out are coloured: 192 bytes longer, and thus neighbours start
 * three lines apart. The plain ones serve requests for an alignment beyond a line.
 */
#ifndef NA_SIZECLASS_H
#define NA_SIZECLASS_H

#include <stddef.h>
#include <stdint.h>

enum {
    NA_GRANULE = 16,                         /* bytes: smallest block and smallest alignment */
    NA_LINEAR_CLASSES = 8,                   /* 16 .. 128 */
    NA_SIZES = 8 + 9 * 4,                    /* 44 */
    NA_FIRST_COLOURED = 35,                  /* 16 KiB */
    NA_PLAIN = NA_SIZES - NA_FIRST_COLOURED, /* from a coloured class to the plain one of its size */
    NA_CLASSES = NA_SIZES + NA_PLAIN,
    NA_COLOUR = 192,          /* bytes: an odd number of lines meets all sets */
    NA_LINE = 64,             /* bytes: what coloured blocks are still aligned to */
    NA_BLOCK_MAX = 64 * 1024, /* bytes: the largest block that lives in a page */
    NA_TABLE_MAX = 1024       /* bytes: sizes up to this look their class up in a table */
};

/* Class of a size in 1..NA_BLOCK_MAX. */
static inline unsigned size_to_class(size_t size) {
    if (size <= 128) return (unsigned)((size - 1) >> 4);
    unsigned top = 63u - (unsigned)__builtin_clzl(size - 1); /* 2^top < size <= 2^(top+1), top >= 7 */
    return NA_LINEAR_CLASSES + (top - 7) * 4 + (unsigned)(((size - 1) >> (top - 2)) & 3);
}

/* The same for 0..NA_TABLE_MAX without a branch: a mix of sizes would mispredict it. */
static inline unsigned small_to_class(size_t size) {
    static const uint8_t table[NA_TABLE_MAX / NA_GRANULE + 1] = {
        [0 ... 1] = 0,    [2] = 1,          [3] = 2,          [4] = 3,          [5] = 4,
        [6] = 5,          [7] = 6,          [8] = 7,          [9 ... 10] = 8,   [11 ... 12] = 9,
        [13 ... 14] = 10, [15 ... 16] = 11, [17 ... 20] = 12, [21 ... 24] = 13, [25 ... 28] = 14,
        [29 ... 32] = 15, [33 ... 40] = 16, [41 ... 48] = 17, [49 ... 56] = 18, [57 ... 64] = 19,
    };
    return table[(size + NA_GRANULE - 1) / NA_GRANULE];
}

/* Class of blocks with an alignment of up to 64 KiB. `padded`: the size, rounded up to a multiple of it. */
static inline unsigned aligned_to_class(size_t align, size_t padded) {
    unsigned class_index = size_to_class(padded);
    if (__builtin_expect(class_index < NA_FIRST_COLOURED, 1)) return class_index; /* first: alignments differ more */
    return align > NA_LINE ? class_index + NA_PLAIN : class_index;
}

/* Bytes of a block. */
static inline size_t class_to_size(unsigned class_index) {
    if (class_index < NA_LINEAR_CLASSES) return (size_t)(class_index + 1) * NA_GRANULE;
    size_t colour = class_index >= NA_FIRST_COLOURED && class_index < NA_SIZES ? NA_COLOUR : 0;
    if (class_index >= NA_SIZES) class_index -= NA_PLAIN;
    unsigned above = class_index - NA_LINEAR_CLASSES;
    return ((size_t)(5 + (above & 3)) << (5 + (above >> 2))) + colour;
}

_Static_assert((5 + 0) << 5 == 160, "the first class above 128 is 160");
_Static_assert((size_t)(5 + ((NA_SIZES - 1 - NA_LINEAR_CLASSES) & 3))
                       << (5 + ((NA_SIZES - 1 - NA_LINEAR_CLASSES) >> 2)) ==
                   NA_BLOCK_MAX,
               "the last size is NA_BLOCK_MAX");
_Static_assert((size_t)(5 + ((NA_FIRST_COLOURED - NA_LINEAR_CLASSES) & 3))
                       << (5 + ((NA_FIRST_COLOURED - NA_LINEAR_CLASSES) >> 2)) ==
                   16384,
               "the first coloured size is 16 KiB");

#endif
