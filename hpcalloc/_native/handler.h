/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the files of the module _handler share: handler.c (data handlers and their capsules), arrays.c (arrays made with
 * one of them), shortcut.c (creation functions' common calls), module.c (the module).
 *
 * Terms. A *handler* is NumPy's struct of callbacks (NEP 49) plus a numalloc_request to which each allocation adds its
 * size: one handler per placement policy. Its Python owner is a *capsule*. NumPy keeps the active capsule in a context
 * variable; an array keeps a reference to the capsule that made it and is resized and freed through it, so a handler
 * lives as long as its last array, and the array owns its block (OWNDATA, no base).
 *
 * Threads: any; no state but the module's, the registry (its own lock) and thread-locals. Works without the GIL. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION /* the first with data handlers */
#define PY_ARRAY_UNIQUE_SYMBOL hpcalloc_numpy
#ifndef IMPORTS_NUMPY /* module.c does, for all */
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "numa_alloc.h"

#if NPY_ABI_VERSION < 0x02000000 /* NumPy 1 has no accessor */
#define PyDataType_ELSIZE(dtype) ((dtype)->elsize)
#endif

#define CAPSULE "mem_handler" /* the name NumPy asks for */
#define TRACE_DOMAIN 389047   /* NumPy's domain in tracemalloc (numpy.lib.tracemalloc_domain) */

typedef struct handler {
    PyDataMem_Handler numpy;    /* first: the capsule's pointer */
    numalloc_request_t request; /* template; size is set per call */
    numalloc_nodemask_t nodes;  /* request.nodes points here, or is NULL */
    int plain;                  /* local, no flags: the shortest way is open */
} handler;

typedef struct module_state {
    PyObject *empty_like; /* numpy.empty_like */
    PyObject *current;    /* handler of arrays made without a policy; NULL: none is known, or it needs the shape */
    PyObject *kept;       /* set of all handlers that ever were `current` */
    PyObject *shortcut_type, *method_type;
} module_state;

/* ---- handler.c ---- */

/* The last failed callback of the thread. */
typedef struct handler_failure {
    int error;   /* errno; 0: none since last asked */
    size_t size; /* bytes wanted; SIZE_MAX: more than a size_t holds */
} handler_failure;
extern _Thread_local handler_failure handler_failed;

/* Set while a call makes an array that has to be zero by a NumPy function that asks for uninitialised memory. */
extern _Thread_local int handler_zero_next;

int handler_add(PyObject *module);                                      /* before all else; -1 with an exception */
void *handler_obtain(const handler *self, size_t size, unsigned flags); /* a block; NULL: see handler_failed */
void handler_free(void *context, void *block, size_t size);             /* gives it back */
PyObject *handler_checked(PyObject *capsule, const char *call);         /* itself, borrowed; NULL with a TypeError */
extern PyMethodDef handler_methods[], arrays_methods[], shortcut_methods[]; /* functions of the module */

/* ---- arrays.c ---- */

/* 0 with an exception. */
int arrays_read_order(PyObject *object, int *fortran);

/* An array of an ordinary shape and dtype; NULL without an exception: not ordinary, or no memory. */
PyObject *arrays_adopt(PyObject *capsule, PyArray_Dims shape, PyArray_Descr *dtype, int fortran, int zero);

/* Likewise of the shape of `prototype`; NULL without an exception also when its axes lie in another order. */
PyObject *arrays_adopt_like(PyObject *capsule, PyArrayObject *prototype, PyArray_Descr *dtype, PyObject *order,
                            int zero);

/* Moves the data of a fresh array of NumPy's to a block of the handler's; NULL without an exception where it can't. */
PyObject *arrays_rehome(PyObject *capsule, PyObject *array);

/* ---- shortcut.c ---- */

int shortcut_add(PyObject *module); /* makes the types of module_state; -1 with an exception */
