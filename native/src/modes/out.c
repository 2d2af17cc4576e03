/* SPDX-License-Identifier: BSD-3-Clause
 *
 * out.c: text to a file, buffered, without allocating: reports are written while the program may be out of memory
 * or in the middle of exit.
 *
 * Threads: an na_out belongs to its caller.
 */
#include "modes/modes.h"
#include "os/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* `name` with %p replaced. false: too long. */
static bool expand(const char *name, char *path, size_t capacity) {
    size_t length = 0;
    for (; *name != '\0'; name++) {
        if (length + 12 >= capacity) return false;
        if (name[0] == '%' && name[1] == 'p') {
            length += (size_t)snprintf(path + length, capacity - length, "%u", os_process_id());
            name++;
        } else {
            path[length++] = *name;
            if (name[0] == '%' && name[1] == '%') name++;
        }
    }
    path[length] = '\0';
    return length != 0;
}

int na_out_open(na_out *out, const char *name) {
    na_path path;
    out->length = 0;
    out->error = 0;
    if (strcmp(name, NA_STANDARD_ERROR) == 0) return os_file_create(NULL, &out->file);
    if (!expand(name, path, sizeof path)) return EINVAL;
    return os_file_create(path, &out->file);
}

static void flush(na_out *out) {
    if (out->error == 0) out->error = os_file_write(out->file, out->text, out->length);
    out->length = 0;
}

static void put_bytes(na_out *out, const char *text, size_t length) {
    while (length != 0) {
        size_t room = sizeof out->text - out->length, now = length < room ? length : room;
        memcpy(out->text + out->length, text, now);
        out->length += now;
        text += now;
        length -= now;
        if (out->length == sizeof out->text) flush(out);
    }
}

void na_out_put(na_out *out, const char *format, ...) {
    va_list arguments;
    for (int turn = 0; turn < 2; turn++) {
        size_t room = sizeof out->text - out->length;
        va_start(arguments, format);
        int wanted = vsnprintf(out->text + out->length, room, format, arguments);
        va_end(arguments);
        if (wanted < 0) return;
        if ((size_t)wanted < room) {
            out->length += (size_t)wanted;
            return;
        }
        if (out->length == 0) { /* longer than the buffer: what fits; names go through na_out_string */
            out->length = room - 1;
            return;
        }
        flush(out);
    }
}

void na_out_string(na_out *out, const char *text) {
    put_bytes(out, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == '"' || c == '\\') na_out_put(out, "\\u%04x", c);
        else put_bytes(out, text, 1);
    }
    put_bytes(out, "\"", 1);
}

void na_out_copy(na_out *out, const char *path) {
    int file, error = os_file_open(path, &file);
    if (error == 0) {
        flush(out);
        size_t length = 0;
        while ((error = os_file_read(file, out->text, sizeof out->text, &length)) == 0 && length != 0) {
            out->length = length;
            flush(out);
        }
        (void)os_file_close(file);
    }
    if (out->error == 0) out->error = error;
}

int na_out_close(na_out *out) {
    flush(out);
    int error = os_file_close(out->file);
    return out->error != 0 ? out->error : error;
}

bool na_name_ends(const char *name, const char *suffix) {
    size_t length = strlen(name), tail = strlen(suffix);
    return length >= tail && strcmp(name + length - tail, suffix) == 0;
}
