/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tls.c: a library that takes TLS_BYTES of the static TLS when it is loaded, as OpenMP runtimes do; see loading.c.
 */
static _Thread_local volatile char bytes[TLS_BYTES] __attribute__((tls_model("initial-exec"))) = {1};

int tls_sum(void) { return bytes[0] + bytes[TLS_BYTES - 1]; }
