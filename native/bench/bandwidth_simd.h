/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bandwidth_simd.h: the four kernels over one thread's part, once for each instruction set. No include guard:
 * bandwidth.c includes it with
 *
 *   VARIANT     suffix of the functions, such as _avx2
 *   TARGET      function attribute that allows the instruction set
 *   WIDE        vector type of WIDTH doubles
 *   LOAD(p)     a vector from any address
 *   STORE(p, v) a vector to an address that is a multiple of the vector's size
 *   STREAM(p, v) the same past the caches
 *   ALL(s)      a vector of equal elements
 *
 * The heads and tails that do not fill an aligned vector are done element by element.
 */
#define JOIN_(name, suffix) name##suffix
#define JOIN(name, suffix) JOIN_(name, suffix)
#define NAME(name) JOIN(name, VARIANT)
#define PUT(p, v)                                                                                                      \
    do {                                                                                                               \
        if (streaming) STREAM(p, v);                                                                                   \
        else STORE(p, v);                                                                                              \
    } while (0)

TARGET static double NAME(read_part)(const double *b, size_t n) {
    /* Eight chains of additions: enough for one load a cycle at four cycles an addition. */
    WIDE s0 = ALL(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    size_t i = 0;
    for (; i + 8 * WIDTH <= n; i += 8 * WIDTH) {
        s0 += LOAD(b + i), s1 += LOAD(b + i + WIDTH), s2 += LOAD(b + i + 2 * WIDTH), s3 += LOAD(b + i + 3 * WIDTH);
        s4 += LOAD(b + i + 4 * WIDTH), s5 += LOAD(b + i + 5 * WIDTH), s6 += LOAD(b + i + 6 * WIDTH),
            s7 += LOAD(b + i + 7 * WIDTH);
    }
    union {
        WIDE vector;
        double element[WIDTH];
    } lanes = {.vector = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))};
    double sum = 0;
    for (int lane = 0; lane < WIDTH; lane++) sum += lanes.element[lane];
    for (; i < n; i++) sum += b[i];
    return sum;
}

/* Elements before the first that is aligned for a vector. */
static inline size_t NAME(head)(const double *a, size_t n) {
    size_t out = (size_t)(-(uintptr_t)a % sizeof(WIDE)) / sizeof(double);
    return out < n ? out : n;
}

/* `streaming` is a constant in each call, so each loop has one kind of store. */
TARGET static inline void NAME(write_loop)(double *a, size_t n, double s, bool streaming) {
    size_t i = 0, head = NAME(head)(a, n);
    WIDE v = ALL(s);
    for (; i < head; i++) a[i] = s;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        PUT(a + i, v);
        PUT(a + i + WIDTH, v);
        PUT(a + i + 2 * WIDTH, v);
        PUT(a + i + 3 * WIDTH, v);
    }
    for (; i < n; i++) a[i] = s;
}

TARGET static inline void NAME(copy_loop)(double *restrict a, const double *restrict b, size_t n, bool streaming) {
    size_t i = 0, head = NAME(head)(a, n);
    for (; i < head; i++) a[i] = b[i];
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        WIDE v0 = LOAD(b + i), v1 = LOAD(b + i + WIDTH), v2 = LOAD(b + i + 2 * WIDTH), v3 = LOAD(b + i + 3 * WIDTH);
        PUT(a + i, v0);
        PUT(a + i + WIDTH, v1);
        PUT(a + i + 2 * WIDTH, v2);
        PUT(a + i + 3 * WIDTH, v3);
    }
    for (; i < n; i++) a[i] = b[i];
}

TARGET static inline void NAME(triad_loop)(double *restrict a, const double *restrict b, const double *restrict c,
                                           size_t n, double s, bool streaming) {
    size_t i = 0, head = NAME(head)(a, n);
    WIDE v = ALL(s);
    for (; i < head; i++) a[i] = b[i] + s * c[i];
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        WIDE v0 = LOAD(b + i) + v * LOAD(c + i), v1 = LOAD(b + i + WIDTH) + v * LOAD(c + i + WIDTH);
        WIDE v2 = LOAD(b + i + 2 * WIDTH) + v * LOAD(c + i + 2 * WIDTH);
        WIDE v3 = LOAD(b + i + 3 * WIDTH) + v * LOAD(c + i + 3 * WIDTH);
        PUT(a + i, v0);
        PUT(a + i + WIDTH, v1);
        PUT(a + i + 2 * WIDTH, v2);
        PUT(a + i + 3 * WIDTH, v3);
    }
    for (; i < n; i++) a[i] = b[i] + s * c[i];
}

TARGET static void NAME(write_part)(double *a, size_t n, double s, bool streaming) {
    if (streaming) NAME(write_loop)(a, n, s, true);
    else NAME(write_loop)(a, n, s, false);
}

TARGET static void NAME(copy_part)(double *a, const double *b, size_t n, bool streaming) {
    if (streaming) NAME(copy_loop)(a, b, n, true);
    else NAME(copy_loop)(a, b, n, false);
}

TARGET static void NAME(triad_part)(double *a, const double *b, const double *c, size_t n, double s, bool streaming) {
    if (streaming) NAME(triad_loop)(a, b, c, n, s, true);
    else NAME(triad_loop)(a, b, c, n, s, false);
}

static const struct kernels NAME(kernels) = {NAME(read_part), NAME(write_part), NAME(copy_part), NAME(triad_part)};

#undef PUT
#undef NAME
#undef JOIN
#undef JOIN_
#undef VARIANT
#undef TARGET
#undef WIDE
#undef WIDTH
#undef LOAD
#undef STORE
#undef STREAM
#undef ALL
