/* SPDX-License-Identifier: BSD-3-Clause */
/* A program for memkind.h: use_memkind [BANDWIDTH LATENCY CAPACITY]. The nodes of these kinds, as use_hbw. */
#include <errno.h>
#include <memkind.h>
#include <stdint.h>

#include "pages.h"

static void use(memkind_t kind, int node) {
    static const size_t sizes[] = {100, 70000, 8 << 20};
    for (int i = 0; i < 3; i++) {
        char *p = memkind_malloc(kind, sizes[i]), *zero = memkind_calloc(kind, sizes[i] / 4, 4);
        void *aligned = NULL;
        EXPECT(p != NULL && zero != NULL && memkind_posix_memalign(kind, &aligned, 4096, sizes[i]) == 0);
        EXPECT((uintptr_t)aligned % 4096 == 0 && memkind_malloc_usable_size(kind, p) >= sizes[i]);
        for (size_t k = 0; k < sizes[i] / 4 * 4; k++) EXPECT(zero[k] == 0);
        memset(p, 1, sizes[i]);
        memset(aligned, 2, sizes[i]);
        EXPECT(all_on(p, sizes[i], node) && all_on(aligned, sizes[i], node));
        p = memkind_realloc(kind, p, 2 * sizes[i]);
        EXPECT(p != NULL && p[sizes[i] - 1] == 1);
        memset(p, 1, 2 * sizes[i]);
        EXPECT(all_on(p, 2 * sizes[i], node));
        memkind_free(kind, p);
        memkind_free(NULL, zero);
        memkind_free(kind, aligned);
    }
}

int main(int argc, char **argv) {
    char text[MEMKIND_ERROR_MESSAGE_SIZE];
    EXPECT(memkind_check_available(MEMKIND_DEFAULT) == MEMKIND_SUCCESS);
    EXPECT(memkind_check_available(NULL) == MEMKIND_ERROR_INVALID);
    EXPECT(memkind_malloc(MEMKIND_DEFAULT, 0) == NULL && memkind_get_version() >= 1000000);
    use(MEMKIND_DEFAULT, -1);
    use(MEMKIND_REGULAR, -1);
    use(MEMKIND_INTERLEAVE, -1);
    memkind_free(MEMKIND_DEFAULT, NULL);
    if (argc < 4) {
        EXPECT(memkind_check_available(MEMKIND_HBW) == MEMKIND_ERROR_UNAVAILABLE);
        EXPECT(memkind_malloc(MEMKIND_HBW_PREFERRED, 100) == NULL && errno == ENODATA);
        EXPECT(memkind_check_available(MEMKIND_DAX_KMEM) == MEMKIND_ERROR_UNAVAILABLE);
    } else {
        int bandwidth = atoi(argv[1]), latency = atoi(argv[2]), capacity = atoi(argv[3]);
        EXPECT(memkind_check_available(MEMKIND_HBW) == MEMKIND_SUCCESS);
        use(MEMKIND_HBW, bandwidth);
        use(MEMKIND_HBW_PREFERRED, bandwidth);
        use(MEMKIND_HBW_INTERLEAVE, bandwidth); /* one node of that kind */
        use(MEMKIND_HIGHEST_BANDWIDTH_LOCAL, bandwidth);
        use(MEMKIND_LOWEST_LATENCY_LOCAL, latency);
        use(MEMKIND_HIGHEST_CAPACITY, capacity);
        use(MEMKIND_HIGHEST_CAPACITY_PREFERRED, capacity);
    }
    memkind_error_message(MEMKIND_ERROR_UNAVAILABLE, text, sizeof text);
    EXPECT(strstr(text, "node 0: ") != NULL);
    memkind_error_message(-99, text, sizeof text);
    EXPECT(strcmp(text, "memkind: error -99") == 0);
    printf("use_memkind: ok\n");
    return 0;
}
