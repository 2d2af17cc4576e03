/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rusage: runs a program and writes its wait status, its seconds from start to end and its peak resident bytes to a file.
 *
 *     rusage FILE PROGRAM [ARGUMENTS]...
 *
 * The kernel counts what a process had before exec into its peak. A large process that starts programs (Python) therefore
 * can't measure small ones itself; this one is small.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fputs("usage: rusage FILE PROGRAM [ARGUMENTS]...\n", stderr);
        return 2;
    }
    /* Measured is the program, not this: what is preloaded comes with its environment. */
    double began = now();
    pid_t child = fork();
    if (child < 0) {
        perror("rusage: fork");
        return 2;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* who ends this program ends the other, too */
        execvp(argv[2], argv + 2);
        fprintf(stderr, "rusage: %s: %s\n", argv[2], strerror(errno));
        _exit(127);
    }
    struct rusage usage;
    int status;
    while (wait4(child, &status, 0, &usage) < 0)
        if (errno != EINTR) return 2;
    double seconds = now() - began;
    FILE *file = fopen(argv[1], "w");
    if (file == NULL) {
        perror(argv[1]);
        return 2;
    }
    fprintf(file, "%d %.9f %lld\n", status, seconds, (long long)usage.ru_maxrss * 1024);
    return fclose(file) == 0 ? 0 : 2;
}
