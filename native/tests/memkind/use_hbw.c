/* SPDX-License-Identifier: BSD-3-Clause */
/* A program for memkind's hbwmalloc.h: use_hbw [NODE]. With a node, that is where its memory must be, by numa_maps and
 * move_pages; without, the machine has no high-bandwidth memory. */
#include <errno.h>
#include <hbwmalloc.h>
#include <stdint.h>

#include "pages.h"

int main(int argc, char **argv) {
    int node = argc > 1 ? atoi(argv[1]) : -1;
    EXPECT(hbw_get_policy() == HBW_POLICY_PREFERRED);
    EXPECT(hbw_check_available() == (node >= 0 ? 0 : ENODEV));
    EXPECT(hbw_set_policy((hbw_policy_t)9) == EINVAL);
    EXPECT(hbw_malloc(0) == NULL && hbw_calloc(0, 5) == NULL);
    static const size_t sizes[] = {100, 70000, 8 << 20};
    for (int i = 0; i < 3; i++) {
        char *p = hbw_malloc(sizes[i]), *zero = hbw_calloc(sizes[i] / 4, 4);
        void *aligned = NULL;
        EXPECT(p != NULL && zero != NULL && hbw_posix_memalign(&aligned, 4096, sizes[i]) == 0);
        EXPECT((uintptr_t)aligned % 4096 == 0 && hbw_malloc_usable_size(p) >= sizes[i]);
        for (size_t k = 0; k < sizes[i] / 4 * 4; k++) EXPECT(zero[k] == 0);
        memset(p, 1, sizes[i]);
        memset(aligned, 2, sizes[i]);
        EXPECT(all_on(p, sizes[i], node) && all_on(aligned, sizes[i], node));
        p = hbw_realloc(p, 2 * sizes[i]);
        EXPECT(p != NULL && p[0] == 1 && p[sizes[i] - 1] == 1);
        memset(p, 1, 2 * sizes[i]);
        EXPECT(all_on(p, 2 * sizes[i], node));
        EXPECT((hbw_verify_memory_region(p, 2 * sizes[i], HBW_TOUCH_PAGES) == 0) == (node >= 0));
        EXPECT(hbw_realloc(p, 0) == NULL);
        hbw_free(zero);
        hbw_free(aligned);
    }
    hbw_free(NULL);
    EXPECT(hbw_set_policy(HBW_POLICY_BIND) == EPERM); /* too late */
    void *none = NULL;
    EXPECT(hbw_posix_memalign(&none, 3, 100) == EINVAL && hbw_verify_memory_region(NULL, 1, 0) == EINVAL);
    printf("use_hbw: ok\n");
    return 0;
}
