/* SPDX-License-Identifier: BSD-3-Clause */
/* unload PLUGIN: a library with libnumalloc.a inside is closed while threads that used it live on; they end, the program
 * forks, and it opens the library again. More often than there are keys of thread-specific data left. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_barrier_t used, closed;
static int (*allocates)(void);

static void *uses(void *unused) {
    if (allocates() != 0) return &used;
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&closed);
    return unused; /* its end must not reach what is gone */
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    enum { LEFT = 20 };
    pthread_key_t key[LEFT], other;
    for (int i = 0; i < LEFT; i++)
        if (pthread_key_create(&key[i], NULL) != 0) return 1;
    while (pthread_key_create(&other, NULL) == 0) {}
    for (int i = 0; i < LEFT; i++) pthread_key_delete(key[i]);
    for (int round = 0; round < 2 * LEFT; round++) {
        int threads = round % 10 == 0 ? 2 : 0;
        pthread_t thread[2];
        void *result = NULL, *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (plugin == NULL || (allocates = (int (*)(void))dlsym(plugin, "plugin_allocates")) == NULL) {
            fprintf(stderr, "round %d: %s\n", round, dlerror());
            return 1;
        }
        if (allocates() != 0) return 1;
        pthread_barrier_init(&used, NULL, 3);
        pthread_barrier_init(&closed, NULL, 3);
        for (int i = 0; i < threads; i++)
            if (pthread_create(&thread[i], NULL, uses, NULL) != 0) return 1;
        if (threads != 0) pthread_barrier_wait(&used);
        dlclose(plugin);
        if (getenv("NUMALLOC_PURGER") == NULL && dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL) {
            fprintf(stderr, "it was not closed\n");
            return 1;
        }
        if (threads != 0) pthread_barrier_wait(&closed);
        for (int i = 0; i < threads; i++)
            if (pthread_join(thread[i], &result) != 0 || result != NULL) return 1;
        if (threads == 0) continue;
        int status = 0;
        pid_t child = fork(); /* its handlers must not reach what is gone either */
        if (child == 0) _exit(0);
        if (waitpid(child, &status, 0) != child || status != 0) return 1;
    }
    puts("unload: ok");
    return 0;
}
