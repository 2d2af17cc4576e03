/* SPDX-License-Identifier: BSD-3-Clause
 *
 * handler.c: the NumPy data handlers through which array memory comes from libnumalloc, their capsules, and what became
 * of their allocations.
 *
 * Invariants. Callbacks never call Python: they may run during interpreter shutdown. A failed callback leaves errno and
 * size in a thread-local record for the exception that Python makes of it. */
#include "handler.h"

#include <errno.h>
#include <string.h>

#include "registry.h"

#define DETACH_MIN ((size_t)1 << 20) /* bytes faulted in before a call returns: other threads run meanwhile */

_Thread_local handler_failure handler_failed;
_Thread_local int handler_zero_next;

/* ---- callbacks --------------------------------------------------------------------------------------------- */

static void *failed(int error, size_t size) {
    handler_failed.error = error;
    handler_failed.size = size;
    return NULL;
}

void *handler_obtain(const handler *self, size_t size, unsigned flags) {
    void *block;
    if (size == 0) size = 1;
    if (self->plain && (flags & ~(unsigned)NUMALLOC_ZERO) == 0) {
        block = flags == 0 ? numalloc(size) : numalloc_calloc(1, size);
    } else {
        numalloc_request_t request = self->request;
        request.size = size;
        request.flags |= flags;
        int slow = size >= DETACH_MIN && (request.flags & (NUMALLOC_STRICT | NUMALLOC_POPULATE)) != 0;
        if (slow && PyGILState_Check()) {
            PyThreadState *state = PyEval_SaveThread();
            block = numalloc_request(&request);
            int error = errno;
            PyEval_RestoreThread(state);
            errno = error;
        } else {
            block = numalloc_request(&request);
        }
    }
    if (block == NULL) return failed(errno, size);
    if (size >= REGISTRY_MIN) registry_add(block, size);
    return block;
}

static void *handler_malloc(void *context, size_t size) {
    return handler_obtain(context, size, handler_zero_next ? NUMALLOC_ZERO : 0);
}

static void *handler_calloc(void *context, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return failed(ENOMEM, SIZE_MAX);
    return handler_obtain(context, bytes, NUMALLOC_ZERO);
}

static void *handler_realloc(void *context, void *block, size_t size) {
    if (block == NULL) return handler_malloc(context, size);
    if (size == 0) size = 1; /* numalloc_realloc would free the block that the array still has */
    size_t before = registry_remove(block);
    void *moved = numalloc_realloc(block, size);
    int error = errno;
    if (moved != NULL) registry_add(moved, size);
    else if (before != 0) registry_add(block, before);
    return moved != NULL ? moved : failed(error, size);
}

void handler_free(void *context, void *block, size_t size) {
    (void)context;
    if (block != NULL && size >= REGISTRY_MIN) (void)registry_remove(block);
    numalloc_free(block);
}

/* ---- handlers and capsules --------------------------------------------------------------------------------- */

static void capsule_delete(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, CAPSULE)); }

/* nodes: None (all allowed) or a sequence of node ids. -1 with an exception. */
static int read_nodes(PyObject *nodes, handler *self) {
    if (nodes == Py_None) return 0;
    PyObject *sequence = PySequence_Fast(nodes, "make_handler: nodes must be None or a sequence of node ids");
    if (sequence == NULL) return -1;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(sequence); i++) {
        long node = PyLong_AsLong(PySequence_Fast_GET_ITEM(sequence, i));
        if (node < 0 || node >= NUMALLOC_MAX_NODES) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "make_handler: node %ld is not within 0..%d", node,
                             NUMALLOC_MAX_NODES - 1);
            Py_DECREF(sequence);
            return -1;
        }
        self->nodes.word[node / 64] |= UINT64_C(1) << (node % 64);
    }
    Py_DECREF(sequence);
    self->request.nodes = &self->nodes;
    return 0;
}

/* weights: for each of `nodes`, ascending, 1 to 255; they lie behind the handler. -1 with an exception. */
static int read_weights(PyObject *weights, handler *self) {
    numalloc_weights_t *own = (numalloc_weights_t *)(self + 1);
    Py_ssize_t count = PyBytes_GET_SIZE(weights), at = 0;
    if (count == 0) return 0;
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++)
        if ((self->nodes.word[node / 64] >> (node % 64) & 1) != 0 && at++ < count)
            own->of[node] = (uint8_t)PyBytes_AS_STRING(weights)[at - 1];
    if (at != count) {
        PyErr_Format(PyExc_ValueError, "make_handler: %zd weights for %zd nodes", count, at);
        return -1;
    }
    self->request.weights = own;
    return 0;
}

PyDoc_STRVAR(
    make_handler_doc,
    "make_handler(name, policy, node, nodes, stripe, flags, weights=b'')\n--\n\n"
    "A capsule for numalloc_request's (policy, node, nodes, stripe, flags, weights); `name` is what NumPy's\n"
    "get_handler_name shows, at most 126 bytes. Whether the nodes exist is found out by the first allocation.");

static PyObject *make_handler(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    int policy, node;
    unsigned flags;
    PyObject *nodes;
    Py_ssize_t stripe;
    PyObject *weights = NULL;
    if (!PyArg_ParseTuple(args, "siiOnI|S:make_handler", &name, &policy, &node, &nodes, &stripe, &flags, &weights))
        return NULL;
    if (strlen(name) >= sizeof((PyDataMem_Handler *)0)->name || stripe < 0)
        return PyErr_Format(PyExc_ValueError, "make_handler: name '%s' too long or stripe %zd negative", name, stripe);
    handler *self = calloc(1, sizeof *self + (weights != NULL ? sizeof(numalloc_weights_t) : 0));
    if (self == NULL) return PyErr_NoMemory();
    strcpy(self->numpy.name, name);
    self->numpy.version = 1;
    self->numpy.allocator = (PyDataMemAllocator){self, handler_malloc, handler_calloc, handler_realloc, handler_free};
    self->request.policy = policy;
    self->request.node = node;
    self->request.stripe = (size_t)stripe;
    self->request.flags = flags;
    self->plain = policy == NUMALLOC_LOCAL && flags == 0;
    int read = read_nodes(nodes, self) == 0 && (weights == NULL || read_weights(weights, self) == 0);
    PyObject *capsule = read ? PyCapsule_New(self, CAPSULE, capsule_delete) : NULL;
    if (capsule == NULL) free(self);
    return capsule;
}

/* True if the capsule is one of ours; NumPy's own and other packages' handlers have other callbacks. */
static int is_ours(PyObject *capsule) {
    if (capsule == NULL || !PyCapsule_IsValid(capsule, CAPSULE)) return 0;
    const PyDataMem_Handler *numpy = PyCapsule_GetPointer(capsule, CAPSULE);
    return numpy->allocator.free == handler_free;
}

PyObject *handler_checked(PyObject *capsule, const char *call) {
    if (is_ours(capsule)) return capsule;
    return PyErr_Format(PyExc_TypeError, "%s: %R is not a handler made by make_handler", call, capsule);
}

PyDoc_STRVAR(set_handler_doc,
             "set_handler(capsule_or_None)\n--\n\n"
             "Makes the handler (None: NumPy's own) the one of the current context and returns the one before.\n"
             "Any capsule that get_handler or set_handler returned is accepted.");

static PyObject *set_handler(PyObject *module, PyObject *capsule) {
    (void)module;
    if (capsule == Py_None) return PyDataMem_SetHandler(NULL);
    if (!PyCapsule_IsValid(capsule, CAPSULE))
        return PyErr_Format(PyExc_TypeError, "set_handler: %R is not a NumPy data handler", capsule);
    return PyDataMem_SetHandler(capsule);
}

PyDoc_STRVAR(get_handler_doc, "get_handler()\n--\n\nThe handler of the current context.");

static PyObject *get_handler(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyDataMem_GetHandler();
}

PyDoc_STRVAR(handler_of_doc,
             "handler_of(array)\n--\n\n"
             "The hpcalloc handler that owns the block of `array` (not of its base), None if it is not one of ours.");

static PyObject *handler_of(PyObject *module, PyObject *array) {
    (void)module;
    if (!PyArray_Check(array))
        return PyErr_Format(PyExc_TypeError, "handler_of: expected a numpy.ndarray, not %s", Py_TYPE(array)->tp_name);
    PyArrayObject *a = (PyArrayObject *)array;
    PyObject *capsule = PyArray_CHKFLAGS(a, NPY_ARRAY_OWNDATA) ? PyArray_HANDLER(a) : NULL;
    if (!is_ours(capsule)) Py_RETURN_NONE;
    Py_INCREF(capsule);
    return capsule;
}

static PyObject *nodes_list(const numalloc_nodemask_t *nodes) {
    PyObject *list = PyList_New(0);
    for (long node = 0; list != NULL && node < NUMALLOC_MAX_NODES; node++) {
        if ((nodes->word[node / 64] >> (node % 64) & 1) == 0) continue;
        PyObject *id = PyLong_FromLong(node);
        if (id == NULL || PyList_Append(list, id) != 0) Py_CLEAR(list);
        Py_XDECREF(id);
    }
    return list;
}

PyDoc_STRVAR(describe_doc,
             "describe(capsule)\n--\n\n(policy, node, nodes or None, stripe, flags) as given to make_handler.");

static PyObject *describe(PyObject *module, PyObject *capsule) {
    (void)module;
    if (handler_checked(capsule, "describe") == NULL) return NULL;
    const handler *self = PyCapsule_GetPointer(capsule, CAPSULE);
    PyObject *nodes = self->request.nodes == NULL ? Py_NewRef(Py_None) : nodes_list(&self->nodes);
    if (nodes == NULL) return NULL;
    return Py_BuildValue("iiNnI", self->request.policy, self->request.node, nodes, (Py_ssize_t)self->request.stripe,
                         self->request.flags);
}

/* ---- what happened ----------------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    last_failure_doc,
    "last_failure()\n--\n\n"
    "(errno, bytes) of the calling thread's last allocation that failed, None if none failed since last asked.");

static PyObject *last_failure(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (handler_failed.error == 0) Py_RETURN_NONE;
    int error = handler_failed.error;
    handler_failed.error = 0;
    return Py_BuildValue("iK", error, (unsigned long long)handler_failed.size);
}

PyDoc_STRVAR(live_blocks_doc,
             "live_blocks()\n--\n\n"
             "([(address, bytes), ...], missed) of all live array blocks of at least MIN_TRACKED bytes, in no order;\n"
             "`missed` counts those that could not be tracked for want of memory. A block may be freed at any time.");

static PyObject *live_blocks(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    registry_entry *entries;
    size_t count;
    uint64_t missed;
    if (registry_snapshot(&entries, &count, &missed) != 0) return PyErr_NoMemory();
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *item =
            Py_BuildValue("KK", (unsigned long long)entries[i].address, (unsigned long long)entries[i].size);
        if (item == NULL) Py_CLEAR(list);
        else PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    free(entries);
    return list == NULL ? NULL : Py_BuildValue("NK", list, (unsigned long long)missed);
}

/* ---- what module.c has ------------------------------------------------------------------------------------- */

PyMethodDef handler_methods[] = {
    {"make_handler", make_handler, METH_VARARGS, make_handler_doc},
    {"set_handler", set_handler, METH_O, set_handler_doc},
    {"get_handler", get_handler, METH_NOARGS, get_handler_doc},
    {"handler_of", handler_of, METH_O, handler_of_doc},
    {"describe", describe, METH_O, describe_doc},
    {"last_failure", last_failure, METH_NOARGS, last_failure_doc},
    {"live_blocks", live_blocks, METH_NOARGS, live_blocks_doc},
    {NULL, NULL, 0, NULL},
};

int handler_add(PyObject *module) {
    static int ready; /* the import lock serialises this */
    int error = ready ? 0 : registry_init();
    ready = error == 0;
    if (!ready) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    const struct {
        const char *name;
        long value;
    } constants[] = {
        {"LOCAL", NUMALLOC_LOCAL},     {"ON_NODE", NUMALLOC_ONNODE}, {"INTERLEAVE", NUMALLOC_INTERLEAVE},
        {"BLOCKED", NUMALLOC_BLOCKED}, {"STRICT", NUMALLOC_STRICT},  {"POPULATE", NUMALLOC_POPULATE},
        {"MIN_TRACKED", REGISTRY_MIN},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) != 0) return -1;
    return 0;
}
