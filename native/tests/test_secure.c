/* SPDX-License-Identifier: BSD-3-Clause */
/* secure.c: each attack on free lists is stopped and named under NUMALLOC_SECURE=1, and the same body shows what it does
 * without; order of blocks; going on after a warning. Children run the bodies. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

#include "modes.h"
#include "space/space.h"

enum { ABORTED = 256 + SIGABRT, BLOCKS = 400, SIZE = 64 };

/* Exit codes of bodies that got through. */
enum { VICTIM_HANDED_OUT = 10, BLOCK_HANDED_OUT_TWICE, ORDER_IS_PREDICTABLE };

static void *known(void *p) { /* hides from the compiler where it came from */
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

static void write_word(void *p, int index, uint64_t value) { ((volatile uint64_t *)p)[index] = value; }

static uint64_t *block[BLOCKS], *again[2 * BLOCKS];
static _Alignas(64) uint64_t victim[32];

static void allocate_all(void) {
    for (int i = 0; i < BLOCKS; i++) {
        block[i] = known(numalloc(SIZE));
        CHECK(block[i] != NULL);
        memset(block[i], 0x11, SIZE);
    }
}
static void free_all(void) {
    for (int i = 0; i < BLOCKS; i++) numalloc_free(block[i]);
}
static void *frees_all(void *unused) {
    free_all();
    return unused;
}
static void in_a_thread(void *(*run)(void *)) {
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, run, NULL), 0);
    pthread_join(thread, NULL);
}

/* Allocates more than was freed; ends the process when what comes is no block or comes twice. */
static void allocate_again(void) {
    alarm(60); /* a list that was turned into a ring */
    for (int i = 0; i < 2 * BLOCKS; i++) {
        again[i] = known(numalloc(SIZE));
        if (again[i] >= victim && again[i] < victim + 32) _exit(VICTIM_HANDED_OUT);
        for (int k = 0; k < i; k++)
            if (again[k] == again[i]) _exit(BLOCK_HANDED_OUT_TWICE);
    }
}

/* ---- bodies: links that are written to -------------------------------------------------------------------- */

/* As a list of the allocator has it: address and count in one word. The victim's own words end that list. */
static uint64_t forged(void) { return (uint64_t)(uintptr_t)victim << NA_LIST_BITS | 1; }

static void link_to_a_victim(void) {
    allocate_all();
    free_all();
    for (int i = 0; i < BLOCKS; i++) write_word(block[i], 0, forged());
    allocate_again();
}
static void link_to_a_victim_plain(void) { /* who takes it for a mere pointer */
    allocate_all();
    free_all();
    for (int i = 0; i < BLOCKS; i++) block[i][0] = (uintptr_t)victim;
    alarm(60);
    for (int i = 0; i < 2 * BLOCKS; i++) (void)known(numalloc(SIZE));
}
static void part_of_a_link(void) { /* the byte that holds the low bits of the address */
    allocate_all();
    free_all();
    for (int i = 0; i < BLOCKS; i++) ((unsigned char *)block[i])[2] ^= SIZE;
    allocate_again();
}
static void mark(void) {
    allocate_all();
    free_all();
    for (int i = 0; i < BLOCKS; i++) block[i][1] = 0;
    allocate_again();
}
static void link_of_former_times(void) { /* a seal that was once right */
    static uint64_t words[BLOCKS][2];
    allocate_all();
    free_all();
    for (int i = 0; i < BLOCKS; i++) memcpy(words[i], known(block[i]), sizeof words[i]);
    for (int i = 0; i < BLOCKS; i++) again[i] = known(numalloc(SIZE));
    for (int i = 0; i < BLOCKS; i++) numalloc_free(again[i]);
    for (int i = 0; i < BLOCKS; i++) memcpy(block[i], words[i], sizeof words[i]);
    allocate_again();
}
static void link_of_a_neighbour(void) { /* a right seal, but of another block */
    allocate_all();
    free_all();
    uint64_t first[2];
    memcpy(first, known(block[0]), sizeof first);
    for (int i = 0; i + 1 < BLOCKS; i++) memcpy(block[i], block[i + 1], sizeof first);
    memcpy(block[BLOCKS - 1], first, sizeof first);
    allocate_again();
}
static void link_of_a_remote_free(void) {
    allocate_all();
    in_a_thread(frees_all);
    for (int i = 0; i < BLOCKS; i++) write_word(block[i], 0, (uintptr_t)victim);
    allocate_again();
}
static void part_of_a_remote_link(void) {
    allocate_all();
    in_a_thread(frees_all);
    for (int i = 0; i < BLOCKS; i++) ((unsigned char *)block[i])[0] ^= SIZE;
    allocate_again();
}
static void *frees_and_writes(void *unused) { /* what a thread keeps of another's blocks, and has not sent home */
    void *own = known(numalloc(SIZE));        /* only who has a heap keeps any */
    for (int i = 0; i < BLOCKS; i++) {
        numalloc_free(block[i]);
        write_word(block[i], 0, (uintptr_t)victim);
        block[i][1] ^= 1;
    }
    numalloc_free(own);
    return unused;
}
static void link_of_a_borrowed_block(void) {
    allocate_all();
    in_a_thread(frees_and_writes);
    allocate_again();
}
static void written_and_left_until_exit(void) {
    void *p = known(numalloc(SIZE));
    numalloc_free(p);
    *(uint64_t *)known(p) = 5;
}
static void written_and_page_given_back(void) {
    enum { MANY = 20000 };
    static uint64_t *many[MANY];
    for (int i = 0; i < MANY; i++) many[i] = known(numalloc(SIZE));
    for (int i = 0; i < MANY; i++) {
        numalloc_free(many[i]);
        if (na_span_at(many[i]) != NULL && na_span_at(many[i])->kind == NA_PAGE) many[i][1] = 7;
    }
    numalloc_purge();
}

/* ---- bodies: frees ----------------------------------------------------------------------------------------- */

static void twice_with_the_mark_gone(void) { /* which is all that tells of the first free without the mode */
    uint64_t *p = known(numalloc(SIZE));
    numalloc_free(p);
    write_word(p, 1, 0);
    numalloc_free(known(p));
    allocate_again();
}
static void twice(void) {
    void *p = known(numalloc(SIZE));
    numalloc_free(p);
    numalloc_free(known(p));
}
static void *frees_first(void *unused) {
    numalloc_free(block[0]);
    write_word(block[0], 1, 0);
    return unused;
}
static void twice_by_two_threads(void) {
    allocate_all();
    in_a_thread(frees_first);
    numalloc_free(known(block[0]));
    allocate_again();
}
static void *frees_first_twice(void *unused) {
    (void)frees_first(NULL);
    numalloc_free(known(block[0]));
    return unused;
}
static void twice_by_another_thread(void) {
    allocate_all();
    in_a_thread(frees_first_twice);
    allocate_again();
}
static void inner_pointer(void) {
    char *p = known(numalloc(SIZE));
    numalloc_free(known(p + 16));
}
static void odd_pointer(void) {
    char *p = known(numalloc(SIZE));
    p[9] = 0;
    numalloc_free(known(p + 1));
}
static void never_handed_out(void) { /* a block of a live page that nobody has */
    char *p = known(numalloc(50000));
    const na_span *page = na_span_at(p);
    for (uint32_t i = 0; i < page->capacity; i++)
        if (page->start + i * page->block_size != (uintptr_t)p) {
            ((uint64_t *)(page->start + i * page->block_size))[1] = 0;
            numalloc_free(known((void *)(page->start + i * page->block_size)));
            return;
        }
}
static void realloc_with_the_mark_gone(void) {
    uint64_t *p = known(numalloc(SIZE));
    numalloc_free(p);
    write_word(p, 1, 0);
    p = numalloc_realloc(known(p), 500);
    _exit(p != NULL ? BLOCK_HANDED_OUT_TWICE : 0);
}
static void large_twice(void) {
    void *p = known(numalloc(3000000));
    numalloc_free(p);
    numalloc_free(known(p));
}
static void foreign(void) {
    int local = 0;
    numalloc_free(known(&local));
}

/* Two threads free the same blocks at the same time: each block is freed once and refused once. */
static pthread_barrier_t start;
static void *races(void *size) {
    for (int i = 0; i < BLOCKS; i++) {
        pthread_barrier_wait(&start);
        numalloc_free(block[i]);
    }
    return size;
}
static void race_of(size_t size) {
    pthread_t other;
    for (int i = 0; i < BLOCKS; i++) block[i] = known(numalloc(size));
    pthread_barrier_init(&start, NULL, 2);
    CHECK_EQUAL(pthread_create(&other, NULL, races, NULL), 0);
    races(NULL);
    pthread_join(other, NULL);
    numalloc_cleanup();
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    CHECK_EQUAL(stats.allocated_bytes, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}
static void race_small(void) { race_of(SIZE); }
static void race_large(void) { race_of(200000); }

/* ---- bodies: order ------------------------------------------------------------------------------------------ */

static size_t place_of(const void *p) { return ((uintptr_t)p - na_span_at(p)->start) / na_span_at(p)->block_size; }

static void first_blocks(void) {
    for (int i = 0; i < 100; i++) fprintf(stderr, "%zu ", place_of(known(numalloc(SIZE))));
}
static void neighbours(void) { /* a spray wants its objects side by side */
    allocate_all();
    int beside = 0;
    for (int i = 1; i < BLOCKS; i++) beside += labs((char *)block[i] - (char *)block[i - 1]) == SIZE;
    if (beside > BLOCKS / 10) _exit(ORDER_IS_PREDICTABLE);
}
static void freed_and_next(void) { /* a dangling pointer wants its block to be the next one handed out */
    static const size_t sizes[] = {16, 64, 1024, 5000, 65536};
    for (int s = 0; s < 5; s++) {
        int same = 0;
        for (int i = 0; i < 2000; i++) {
            void *p = known(numalloc(sizes[s]));
            numalloc_free(p);
            void *q = known(numalloc(sizes[s]));
            same += p == q;
            numalloc_free(q);
        }
        if (same > 200) _exit(ORDER_IS_PREDICTABLE);
    }
}
/* Parent and child of a fork must not go on alike. */
static void child_goes_on_alike(void) {
    size_t places[2][64];
    int ends[2];
    void *p = known(numalloc(48));
    CHECK_EQUAL(pipe(ends), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    for (int i = 0; i < 64; i++) places[0][i] = (uintptr_t)known(numalloc(80));
    if (child == 0) _exit(write(ends[1], places[0], sizeof places[0]) != sizeof places[0]);
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(read(ends[0], places[1], sizeof places[1]), sizeof places[1]);
    numalloc_free(p);
    if (memcmp(places[0], places[1], sizeof places[0]) == 0) _exit(ORDER_IS_PREDICTABLE);
}

/* ---- bodies: going on --------------------------------------------------------------------------------------- */

static uint64_t lost(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats.lost_blocks;
}

static void warned(void) {
    CHECK_EQUAL(lost(), 0);
    link_to_a_victim();
    uint64_t small = lost();
    CHECK(small > 0 && small < 3 * BLOCKS);
    link_of_a_remote_free();
    CHECK(lost() > small);
    CHECK_EQUAL(numalloc_verify(), EINVAL); /* what is held back of the damaged ones; */
    numalloc_purge();                       /* this looks at each of them */
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_free(known((char *)again[0] + 16));
    numalloc_free(again[0]);
    numalloc_free(known(again[0]));
    memset(victim, 0, sizeof victim);
    allocate_all();
    free_all();
}

static void zeroed(void) {
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = (size_t)(i % 40) * 50 + 1;
            block[i] = known(numalloc_calloc(1, size));
            for (size_t k = 0; k < size; k++) CHECK_EQUAL(((char *)block[i])[k], 0);
            memset(block[i], 0xee, size);
        }
        free_all();
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void all_in_use_is_known(void) { /* usable sizes, infos and inner pointers */
    char *p = known(numalloc(SIZE)), *large = known(numalloc(1000000));
    CHECK_EQUAL(numalloc_usable_size(p), SIZE);
    CHECK(numalloc_node_of(p + 40) != NUMALLOC_NODE_FOREIGN);
    CHECK(numalloc_node_of(large + 40000) != NUMALLOC_NODE_FOREIGN);
    large = numalloc_realloc(large, 50000000);
    large[49999999] = 1;
    large = numalloc_realloc(large, 100000);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_usable_size(known(p)), 0);
    numalloc_free(large);
    void *spread = numalloc_interleaved(3000000, NULL);
    numalloc_free(numalloc_realloc(spread, 6000000));
    CHECK_EQUAL(numalloc_verify(), 0);
    char json[1 << 16];
    CHECK(numalloc_stats_json(json, sizeof json) < sizeof json);
    CHECK(strstr(json, "\"secure\": true") != NULL && strstr(json, "\"lost_blocks\": 0") != NULL);
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

/* Stopped and named, and without the mode not. */
#define STOPPED(body, text)                                                                                            \
    do {                                                                                                               \
        RUN(ABORTED, body, "NUMALLOC_SECURE=1");                                                                       \
        SAID(text);                                                                                                    \
        int code_ = run_watched(body, ENVIRONMENT("NUMALLOC_SECURE=0"));                                               \
        if (code_ == ABORTED) printf("%s: stopped without the mode: %s\n", body, said);                                \
        CHECK(code_ != ABORTED);                                                                                       \
    } while (0)

static void written_links_are_stopped(void) {
    STOPPED("link_to_a_victim", "link was overwritten, in the free list of the page");
    STOPPED("link_to_a_victim_plain", "link was overwritten, in the free list of the page");
    STOPPED("part_of_a_link", "link was overwritten, in the free list of the page");
    STOPPED("mark", "link was overwritten, in the free list of the page");
    STOPPED("link_of_former_times", "link was overwritten");
    STOPPED("link_of_a_neighbour", "link was overwritten");
    STOPPED("written_and_left_until_exit", "link was overwritten, in the freed blocks held back of the page");
}

static void written_links_of_others_are_stopped(void) {
    STOPPED("link_of_a_remote_free", "link was overwritten, in the remote frees of the page");
    STOPPED("part_of_a_remote_link", "link was overwritten, in the remote frees of the page");
    RUN(ABORTED, "link_of_a_borrowed_block", "NUMALLOC_SECURE=1");
    SAID("link was overwritten, in the freed blocks held back of the page");
}

static void the_message_says_what_to_do(void) {
    RUN(ABORTED, "link_to_a_victim", "NUMALLOC_SECURE=1");
    SAID("numalloc: numalloc(0x");
    SAID("is a free block of 64 bytes");
    SAID("free blocks given up: ");
    SAID("remedy: do not write to a block after it is freed; NUMALLOC_GUARD=1");
}

static void without_the_mode_the_attacks_work(void) {
    RUN(VICTIM_HANDED_OUT, "link_to_a_victim", "NUMALLOC_SECURE=0");
    RUN(BLOCK_HANDED_OUT_TWICE, "twice_with_the_mark_gone", "NUMALLOC_SECURE=0");
    RUN(ORDER_IS_PREDICTABLE, "neighbours", "NUMALLOC_SECURE=0");
    RUN(ORDER_IS_PREDICTABLE, "freed_and_next", "NUMALLOC_SECURE=0");
    RUN(ORDER_IS_PREDICTABLE, "child_goes_on_alike", "NUMALLOC_SECURE=0");
}

static void wrong_frees_are_always_found(void) {
    STOPPED("twice_with_the_mark_gone", "freed before");
    STOPPED("twice_by_two_threads", "freed before");
    STOPPED("twice_by_another_thread", "freed before");
    STOPPED("never_handed_out", "freed before");
    STOPPED("realloc_with_the_mark_gone", "freed before");
    STOPPED("inner_pointer", "is not the start of a block");
    STOPPED("odd_pointer", "is not the start of a block");
    RUN(ABORTED, "large_twice", "NUMALLOC_SECURE=1");
    RUN(ABORTED, "foreign", "NUMALLOC_SECURE=1");
    SAID("is not from this allocator");
}

static int lines(void) {
    int count = 0;
    for (const char *c = said; *c != '\0'; c++) count += *c == '\n';
    return count;
}

static void of_two_frees_at_a_time_one_is_refused(void) {
    RUN(0, "race_small", "NUMALLOC_SECURE=1", "NUMALLOC_ON_ERROR=warn");
    CHECK_EQUAL(lines(), BLOCKS);
#if !defined(__SANITIZE_THREAD__) /* the refused one looks at a span that the other is giving back */
    RUN(0, "race_large", "NUMALLOC_SECURE=1", "NUMALLOC_ON_ERROR=warn");
    CHECK_EQUAL(lines(), BLOCKS);
#endif
}

static void order_is_not_predictable(void) {
    static char first[sizeof said];
    RUN(0, "first_blocks", "NUMALLOC_SECURE=0");
    memcpy(first, said, sizeof said);
    RUN(0, "first_blocks", "NUMALLOC_SECURE=0");
    CHECK(strcmp(first, said) == 0); /* so it would be seen */
    for (int i = 0; i < 3; i++) {
        memcpy(first, said, sizeof said);
        RUN(0, "first_blocks", "NUMALLOC_SECURE=1");
        CHECK(strcmp(first, said) != 0);
    }
    RUN(0, "neighbours", "NUMALLOC_SECURE=1");
    RUN(0, "freed_and_next", "NUMALLOC_SECURE=1");
    RUN(0, "child_goes_on_alike", "NUMALLOC_SECURE=1");
}

static void a_warning_goes_on(void) {
    RUN(0, "warned", "NUMALLOC_SECURE=1", "NUMALLOC_ON_ERROR=warn");
    SAID("in the free list of the page");
    SAID("in the remote frees of the page");
    SAID("in the freed blocks held back of the page");
    SAID("is not the start of a block");
}

/* What costs nothing is seen without the mode too. */
static void damage_is_named_when_a_page_goes(void) {
    RUN(ABORTED, "written_and_page_given_back", "NUMALLOC_SECURE=0");
    SAID("link was overwritten, in a page that is given back");
    RUN(ABORTED, "written_and_page_given_back", "NUMALLOC_SECURE=1");
    SAID("link was overwritten");
}

static void correct_programs_see_nothing(void) {
    RUN(0, "zeroed", "NUMALLOC_SECURE=1");
    RUN(0, "all_in_use_is_known", "NUMALLOC_SECURE=1");
    CHECK_EQUAL(said[0], '\0');
}

/* Other modes look at blocks above it, and both find what is theirs. */
static void other_modes_combine(void) {
    static const char *const modes[] = {"NUMALLOC_GUARD=1", "NUMALLOC_GUARD=2", "NUMALLOC_LEAKS=/dev/null",
                                        "NUMALLOC_PROFILE=/dev/null"};
    for (int m = 0; m < 4; m++) {
        RUN(ABORTED, "twice", "NUMALLOC_SECURE=1", modes[m]);
        SAID("freed before");
        RUN(0, "zeroed", "NUMALLOC_SECURE=1", modes[m]);
        if (m >= 2) RUN(ABORTED, "link_to_a_victim", "NUMALLOC_SECURE=1", modes[m]);
    }
}

#define CASE(name)                                                                                                     \
    { #name, name }
static const check_case cases[] = {
    CASE(written_links_are_stopped),
    CASE(written_links_of_others_are_stopped),
    CASE(the_message_says_what_to_do),
    CASE(without_the_mode_the_attacks_work),
    CASE(wrong_frees_are_always_found),
    CASE(of_two_frees_at_a_time_one_is_refused),
    CASE(order_is_not_predictable),
    CASE(a_warning_goes_on),
    CASE(damage_is_named_when_a_page_goes),
    CASE(correct_programs_see_nothing),
    CASE(other_modes_combine),
};
static const check_case bodies[] = {
    CASE(link_to_a_victim),
    CASE(link_to_a_victim_plain),
    CASE(part_of_a_link),
    CASE(mark),
    CASE(link_of_former_times),
    CASE(link_of_a_neighbour),
    CASE(link_of_a_remote_free),
    CASE(part_of_a_remote_link),
    CASE(link_of_a_borrowed_block),
    CASE(written_and_left_until_exit),
    CASE(written_and_page_given_back),
    CASE(twice_with_the_mark_gone),
    CASE(twice),
    CASE(twice_by_two_threads),
    CASE(twice_by_another_thread),
    CASE(inner_pointer),
    CASE(odd_pointer),
    CASE(never_handed_out),
    CASE(realloc_with_the_mark_gone),
    CASE(large_twice),
    CASE(foreign),
    CASE(race_small),
    CASE(race_large),
    CASE(first_blocks),
    CASE(neighbours),
    CASE(freed_and_next),
    CASE(child_goes_on_alike),
    CASE(warned),
    CASE(zeroed),
    CASE(all_in_use_is_known),
};
WATCHED_MAIN(cases, bodies)
