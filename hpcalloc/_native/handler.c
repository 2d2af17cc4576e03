/* SPDX-License-Identifier: BSD-3-Clause
 *
 * handler.c: owns the NumPy data handlers (NEP 49) through which array memory comes from libnumalloc, and the calls
 * that make an array with one of them.
 *
 * Terms. A *handler* is NumPy's struct of callbacks plus a numalloc_request to which each allocation adds its size:
 * one handler per placement policy. Its Python owner is a *capsule*. NumPy keeps the active capsule in a context
 * variable; an array keeps a reference to the capsule that made it and is resized and freed through it, so a handler
 * lives as long as its last array, and the array owns its block (OWNDATA, no base).
 *
 * Invariants. An array-making call leaves the context variable as it was, whatever happens. Callbacks never call
 * Python: they may run during interpreter shutdown. A failed callback leaves errno and size in a thread-local record
 * for the exception that Python makes of it.
 *
 * Threads: any; no state but the registry (its own lock) and thread-locals. Works without the GIL.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION /* the first with data handlers */
#include <numpy/arrayobject.h>

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "numa_alloc.h"
#include "registry.h"
#include "scope.h"

#if NPY_ABI_VERSION < 0x02000000 /* NumPy 1 has no accessor */
#define PyDataType_ELSIZE(dtype) ((dtype)->elsize)
#endif

#define CAPSULE "mem_handler"        /* the name NumPy asks for */
#define TRACE_DOMAIN 389047          /* NumPy's domain in tracemalloc (numpy.lib.tracemalloc_domain) */
#define DETACH_MIN ((size_t)1 << 20) /* bytes faulted in before a call returns: other threads run meanwhile */

typedef struct handler {
    PyDataMem_Handler numpy;    /* first: the capsule's pointer */
    numalloc_request_t request; /* template; size is set per call */
    numalloc_nodemask_t nodes;  /* request.nodes points here, or is NULL */
    int plain;                  /* local, no flags: the shortest way is open */
} handler;

/* The last failed callback of the thread. */
static _Thread_local struct {
    int error;   /* errno; 0: none since last asked */
    size_t size; /* bytes wanted; SIZE_MAX: more than a size_t holds */
} failure;

/* Set while a call makes an array that has to be zero by a NumPy function that asks for uninitialised memory. */
static _Thread_local int zero_next;

/* ---- callbacks --------------------------------------------------------------------------------------------- */

static void *failed(int error, size_t size) {
    failure.error = error;
    failure.size = size;
    return NULL;
}

static void *obtain(const handler *self, size_t size, unsigned flags) {
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

static void *handler_malloc(void *context, size_t size) { return obtain(context, size, zero_next ? NUMALLOC_ZERO : 0); }

static void *handler_calloc(void *context, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return failed(ENOMEM, SIZE_MAX);
    return obtain(context, bytes, NUMALLOC_ZERO);
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

static void handler_free(void *context, void *block, size_t size) {
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

static PyObject *checked_capsule(PyObject *capsule, const char *call) {
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
    if (checked_capsule(capsule, "describe") == NULL) return NULL;
    const handler *self = PyCapsule_GetPointer(capsule, CAPSULE);
    PyObject *nodes = self->request.nodes == NULL ? Py_NewRef(Py_None) : nodes_list(&self->nodes);
    if (nodes == NULL) return NULL;
    return Py_BuildValue("iiNnI", self->request.policy, self->request.node, nodes, (Py_ssize_t)self->request.stripe,
                         self->request.flags);
}

/* ---- making arrays ----------------------------------------------------------------------------------------- */

#if PY_VERSION_HEX >= 0x030C0000
static PyObject *error_take(void) { return PyErr_GetRaisedException(); }
static void error_put(PyObject *error) { PyErr_SetRaisedException(error); }
#else
static PyObject *error_take(void) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}
static void error_put(PyObject *error) { PyErr_SetObject((PyObject *)Py_TYPE(error), error), Py_DECREF(error); }
#endif

/* Makes `previous` the handler again; takes the references. An exception that is set stays set. */
static PyObject *restore(PyObject *previous, PyObject *array) {
    PyObject *error = array == NULL ? error_take() : NULL;
    PyObject *ours = PyDataMem_SetHandler(previous);
    Py_DECREF(previous);
    if (ours == NULL) Py_CLEAR(array);
    Py_XDECREF(ours);
    if (error != NULL) {
        PyErr_Clear();
        error_put(error);
    }
    return array;
}

static int without_references(PyArray_Descr *dtype, const char *call) {
    if (!PyDataType_REFCHK(dtype)) return 1;
    PyErr_Format(PyExc_TypeError,
                 "%s: dtype=%R holds references to Python objects, and only raw data can be placed; "
                 "use numpy.%s for it, or a dtype without object fields",
                 call, dtype, call);
    return 0;
}

/* 0 with an exception. */
static int read_order(PyObject *object, int *fortran) {
    NPY_ORDER order = NPY_CORDER;
    if (!PyArray_OrderConverter(object, &order)) return 0;
    if (order != NPY_CORDER && order != NPY_FORTRANORDER) {
        PyErr_SetString(PyExc_ValueError, "only 'C' or 'F' order is permitted");
        return 0;
    }
    *fortran = order == NPY_FORTRANORDER;
    return 1;
}

/* The array of an ordinary shape and dtype around a block of our own; hands over the block. This does what NumPy does
 * with the active handler, but for a third of the time: switching the context variable to and fro costs more than all
 * the rest. NULL without an exception: not ordinary (overflowing, flexible dtype) or no memory; NumPy shall try and say
 * what is wrong. */
static PyObject *adopt(PyObject *capsule, PyArray_Dims shape, PyArray_Descr *dtype, int fortran, int zero) {
    static npy_intp no_strides[NPY_MAXDIMS]; /* NumPy's of an array without elements */
    handler *self = PyCapsule_GetPointer(capsule, CAPSULE);
    size_t bytes = (size_t)PyDataType_ELSIZE(dtype);
    int empty = 0;
    if (bytes == 0 || PyDataType_HASSUBARRAY(dtype)) return NULL;
    for (int i = 0; i < shape.len; i++) {
        empty |= shape.ptr[i] == 0;
        if (shape.ptr[i] < 0 || __builtin_mul_overflow(bytes, (size_t)shape.ptr[i] + !shape.ptr[i], &bytes))
            return NULL;
    }
    if (bytes > PTRDIFF_MAX || shape.len > NPY_MAXDIMS) return NULL;
    if (empty) bytes = 1; /* as NumPy */
    void *block = obtain(self, bytes, zero ? NUMALLOC_ZERO : 0);
    if (block == NULL) return NULL;
    Py_INCREF(dtype); /* taken by the call */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, dtype, shape.len, shape.ptr, empty ? no_strides : NULL, block,
                                           fortran ? NPY_ARRAY_FARRAY : NPY_ARRAY_CARRAY, NULL);
    if (array == NULL) {
        PyErr_Clear();
        handler_free(self, block, bytes);
        return NULL;
    }
    (void)PyTraceMalloc_Track(TRACE_DOMAIN, (uintptr_t)block, bytes); /* a no-op unless tracing */
    Py_INCREF(capsule);
    ((PyArrayObject_fields *)array)->mem_handler = capsule;
    PyArray_ENABLEFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA);
    return array;
}

typedef struct module_state {
    PyObject *empty_like; /* numpy.empty_like */
    PyObject *current;    /* handler of arrays made without a policy; NULL: none is known, or it needs the shape */
    PyObject *kept;       /* set of all handlers that ever were `current` */
    PyObject *shortcut_type, *method_type;
} module_state;

static PyObject *new_array(PyObject *const *args, Py_ssize_t count, int zero) {
    const char *call = zero ? "zeros" : "empty";
    if (count != 4) return PyErr_Format(PyExc_TypeError, "%s: expected (handler, shape, dtype, order)", call);
    if (checked_capsule(args[0], call) == NULL) return NULL;
    PyArray_Dims shape = {NULL, 0};
    PyArray_Descr *dtype = NULL;
    PyObject *array = NULL;
    int fortran = 0;
    if (!PyArray_DescrConverter(args[2], &dtype)) return NULL;
    if (without_references(dtype, call) && read_order(args[3], &fortran) && PyArray_IntpConverter(args[1], &shape)) {
        failure.error = 0;
        array = adopt(args[0], shape, dtype, fortran, zero);
        PyObject *previous = array == NULL ? PyDataMem_SetHandler(args[0]) : NULL;
        if (previous != NULL) {
            Py_INCREF(dtype); /* taken by the call */
            array = zero ? PyArray_Zeros(shape.len, shape.ptr, dtype, fortran)
                         : PyArray_NewFromDescr(&PyArray_Type, dtype, shape.len, shape.ptr, NULL, NULL,
                                                fortran ? NPY_ARRAY_F_CONTIGUOUS : 0, NULL);
            array = restore(previous, array);
        }
    }
    PyDimMem_FREE(shape.ptr);
    Py_DECREF(dtype);
    return array;
}

PyDoc_STRVAR(empty_doc,
             "empty(handler, shape, dtype, order)\n--\n\n"
             "As numpy.empty, through `handler`. dtype None is float64. On MemoryError last_failure() says why.");

static PyObject *empty(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return new_array(args, count, 0);
}

PyDoc_STRVAR(zeros_doc, "zeros(handler, shape, dtype, order)\n--\n\n"
                        "As numpy.zeros, through `handler`: fresh pages are known to be zero and stay untouched.");

static PyObject *zeros(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return new_array(args, count, 1);
}

/* As adopt(), of the shape of `prototype`; NULL without an exception also when its axes lie in another order. */
static PyObject *adopt_like(PyObject *capsule, PyArrayObject *prototype, PyArray_Descr *dtype, PyObject *order_name,
                            int zero) {
    NPY_ORDER order = NPY_KEEPORDER;
    if (!PyArray_OrderConverter(order_name, &order)) {
        PyErr_Clear();
        return NULL;
    }
    if (order == NPY_ANYORDER || order == NPY_KEEPORDER) {
        if (PyArray_IS_C_CONTIGUOUS(prototype)) order = NPY_CORDER;
        else if (PyArray_IS_F_CONTIGUOUS(prototype)) order = NPY_FORTRANORDER;
        else return NULL;
    }
    PyArray_Dims shape = {PyArray_DIMS(prototype), PyArray_NDIM(prototype)};
    return adopt(capsule, shape, dtype, order == NPY_FORTRANORDER, zero);
}

PyDoc_STRVAR(
    like_doc,
    "like(handler, prototype, dtype, order, shape, zero)\n--\n\n"
    "As numpy.empty_like(prototype, dtype, order, False, shape), through `handler`; zeroed if `zero`, without\n"
    "touching fresh pages. `prototype` must be exactly a numpy.ndarray, so that no foreign code runs meanwhile.");

static PyObject *like(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    const module_state *state = PyModule_GetState(module);
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "like: expected (handler, prototype, dtype, order, shape, zero)");
    if (checked_capsule(args[0], "like") == NULL) return NULL;
    if (!PyArray_CheckExact(args[1])) return PyErr_Format(PyExc_TypeError, "like: prototype must be a numpy.ndarray");
    int zero = PyObject_IsTrue(args[5]);
    PyArray_Descr *dtype = NULL;
    if (zero < 0 || !PyArray_DescrConverter2(args[2], &dtype)) return NULL;
    PyArray_Descr *effective = dtype != NULL ? dtype : PyArray_DESCR((PyArrayObject *)args[1]);
    PyObject *array = NULL;
    if (without_references(effective, zero ? "zeros_like" : "empty_like")) {
        failure.error = 0;
        if (args[4] == Py_None) array = adopt_like(args[0], (PyArrayObject *)args[1], effective, args[3], zero);
        PyObject *previous = array == NULL ? PyDataMem_SetHandler(args[0]) : NULL;
        failure.error = 0;
        if (previous != NULL) {
            PyObject *const numpy_args[] = {args[1], dtype != NULL ? (PyObject *)dtype : Py_None, args[3], Py_False,
                                            args[4]};
            zero_next = zero;
            array = PyObject_Vectorcall(state->empty_like, numpy_args, 5, NULL);
            zero_next = 0;
            array = restore(previous, array);
        }
    }
    Py_XDECREF(dtype);
    return array;
}

/* ---- the short way ------------------------------------------------------------------------------------------
 * A creation function of Python's with its common calls in front of it: the current policy, an ordinary dtype. What
 * that does not serve, errors included, the Python function does, from the beginning. */

/* Parameters of all creation functions; each function has some, under names of its own. */
typedef enum slot { FIRST, FILL, DTYPE, ORDER, SUBOK, COPY, NDMIN, OTHER, SLOTS } slot; /* OTHER: not served here */

typedef enum kind { OF_SHAPE, OF_PROTOTYPE, OF_DATA } kind;

enum { WORDS = 9 };

typedef struct form {
    const char *name;
    kind kind;
    int zero, one;  /* filled with */
    int positional; /* the first parameters, which may be given by position */
    int copies;     /* a new array unless copy= says otherwise */
    struct {
        const char *word;
        slot slot;
    } parameter[WORDS];
} form;

#define BY_SHAPE                                                                                                       \
    {"shape", FIRST}, {"dtype", DTYPE}, { "order", ORDER }
#define BY_PROTOTYPE(name)                                                                                             \
    {name, FIRST}, {"dtype", DTYPE}, {"order", ORDER}, {"subok", SUBOK}, { "shape", OTHER }
static const form forms[] = {
    {"empty", OF_SHAPE, .positional = 3, .parameter = {BY_SHAPE}},
    {"zeros", OF_SHAPE, .zero = 1, .positional = 3, .parameter = {BY_SHAPE}},
    {"ones", OF_SHAPE, .one = 1, .positional = 3, .parameter = {BY_SHAPE}},
    {"full", OF_SHAPE, .positional = 4,
     .parameter = {{"shape", FIRST}, {"fill_value", FILL}, {"dtype", DTYPE}, {"order", ORDER}}},
    {"empty_like", OF_PROTOTYPE, .positional = 5, .parameter = {BY_PROTOTYPE("prototype")}},
    {"zeros_like", OF_PROTOTYPE, .zero = 1, .positional = 5, .parameter = {BY_PROTOTYPE("a")}},
    {"ones_like", OF_PROTOTYPE, .one = 1, .positional = 5, .parameter = {BY_PROTOTYPE("a")}},
    {"full_like", OF_PROTOTYPE, .positional = 6,
     .parameter =
         {{"a", FIRST}, {"fill_value", FILL}, {"dtype", DTYPE}, {"order", ORDER}, {"subok", SUBOK}, {"shape", OTHER}}},
    {"array", OF_DATA, .positional = 2, .copies = 1,
     .parameter =
         {{"object", FIRST}, {"dtype", DTYPE}, {"copy", COPY}, {"order", ORDER}, {"subok", SUBOK}, {"ndmin", NDMIN}}},
    {"asarray", OF_DATA, .positional = 3,
     .parameter = {{"a", FIRST}, {"dtype", DTYPE}, {"order", ORDER}, {"copy", COPY}}},
};
#undef BY_SHAPE
#undef BY_PROTOTYPE

typedef struct shortcut {
    PyObject ob_base;
    vectorcallfunc vectorcall;
    PyObject *function, *dict;
    PyObject *module;
    PyObject *closed; /* of a method: the attribute of its object that has to be False */
    const form *form;
    PyObject *word[WORDS]; /* the parameters' names, interned; NULL after the last */
} shortcut;

/* False: a parameter that is not served here, too many, or one that must be there is not. */
static int sort_arguments(const shortcut *self, PyObject *const *args, Py_ssize_t count, PyObject *names,
                          PyObject *value[SLOTS]) {
    const form *form = self->form;
    if (count > form->positional) return 0;
    for (Py_ssize_t i = 0; i < count; i++) value[form->parameter[i].slot] = args[i];
    Py_ssize_t named = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        int which = 0;
        while (self->word[which] != NULL && self->word[which] != PyTuple_GET_ITEM(names, i)) which++;
        if (self->word[which] == NULL || value[form->parameter[which].slot] != NULL) return 0;
        value[form->parameter[which].slot] = args[count + i];
    }
    int filled = form->parameter[1].slot == FILL; /* in place of what the memory holds */
    return value[FIRST] != NULL && (!filled || value[FILL] != NULL) &&
           (value[OTHER] == NULL || value[OTHER] == Py_None) && (value[SUBOK] == NULL || value[SUBOK] == Py_False);
}

/* Whether each way to put `value` into an array of the dtype, NumPy's casts and its scalars' conversions, gives the
 * same without a warning. */
static int fills_plainly(PyObject *value, PyArray_Descr *dtype) {
    int type = dtype->type_num, wide = type == NPY_DOUBLE || type == NPY_CDOUBLE;
    if (type > NPY_CLONGDOUBLE && type != NPY_HALF) return 0;
    if (PyBool_Check(value)) return 1;
    if (PyFloat_CheckExact(value)) return wide;
    if (!PyLong_CheckExact(value)) return 0;
    int overflow;
    long number = PyLong_AsLongAndOverflow(value, &overflow);
    return overflow == 0 && ((number >= 0 && number < 128) || wide || type == NPY_LONG);
}

static PyArray_Descr *dtype_of_scalar(PyObject *value) {
    int overflow = 0;
    if (PyFloat_CheckExact(value)) return PyArray_DescrFromType(NPY_DOUBLE);
    if (PyBool_Check(value)) return PyArray_DescrFromType(NPY_BOOL);
    if (!PyLong_CheckExact(value)) return NULL;
    (void)PyLong_AsLongAndOverflow(value, &overflow);
    return overflow == 0 ? PyArray_DescrFromType(NPY_LONG) : NULL;
}

/* As PyArray_DescrConverter2 (NULL for None), and a class of dtypes for the one that stands for it. 0: not read. */
static int read_dtype(PyObject *object, PyArray_Descr **dtype) {
    *dtype = NULL;
    if (object == NULL || object == Py_None) return 1;
    if (!PyType_Check(object) || !PyType_IsSubtype((PyTypeObject *)object, &PyArrayDescr_Type))
        return PyArray_DescrConverter2(object, dtype);
    PyObject *made = PyObject_CallNoArgs(object);
    if (made != NULL && !PyArray_DescrCheck(made)) Py_CLEAR(made);
    *dtype = (PyArray_Descr *)made;
    return made != NULL;
}

/* All of these: NULL with or without an exception where the Python function is to do it. */

static PyObject *short_of_shape(PyObject *capsule, const form *form, PyObject *const value[SLOTS]) {
    npy_intp length;
    PyArray_Dims shape = {&length, 1};
    PyArray_Descr *dtype = NULL;
    int fortran = 0;
    if (value[ORDER] != NULL && !read_order(value[ORDER], &fortran)) return NULL;
    if (PyLong_CheckExact(value[FIRST])) {
        length = PyLong_AsSsize_t(value[FIRST]);
    } else if (PyTuple_CheckExact(value[FIRST]) || PyList_CheckExact(value[FIRST]) ||
               PyArray_IsScalar(value[FIRST], Integer)) {
        shape.ptr = NULL;
        if (!PyArray_IntpConverter(value[FIRST], &shape)) return NULL;
    } else {
        return NULL;
    }
    if (read_dtype(value[DTYPE], &dtype) && dtype == NULL)
        dtype = value[FILL] != NULL && !form->one ? dtype_of_scalar(value[FILL]) : PyArray_DescrFromType(NPY_DOUBLE);
    PyObject *array = NULL;
    if (dtype != NULL && !PyDataType_REFCHK(dtype) && (value[FILL] == NULL || fills_plainly(value[FILL], dtype)))
        array = adopt(capsule, shape, dtype, fortran, form->zero);
    Py_XDECREF(dtype);
    if (shape.ptr != &length) PyDimMem_FREE(shape.ptr);
    return array;
}

static PyObject *short_of_prototype(PyObject *capsule, const form *form, PyObject *const value[SLOTS]) {
    if (!PyArray_CheckExact(value[FIRST])) return NULL;
    PyArrayObject *prototype = (PyArrayObject *)value[FIRST];
    PyArray_Descr *dtype = NULL;
    if (!read_dtype(value[DTYPE], &dtype)) return NULL;
    if (dtype == NULL) {
        dtype = PyArray_DESCR(prototype);
        Py_INCREF(dtype);
    }
    PyObject *array = NULL;
    if (!PyDataType_REFCHK(dtype) && !PyDataType_HASSUBARRAY(dtype) &&
        (value[FILL] == NULL || fills_plainly(value[FILL], dtype)))
        array = adopt_like(capsule, prototype, dtype, value[ORDER] != NULL ? value[ORDER] : Py_None, form->zero);
    Py_DECREF(dtype);
    return array;
}

/* Moves the data of a fresh array of NumPy's to a block of ours. */
static PyObject *rehome(PyObject *capsule, PyObject *object) {
    PyArrayObject_fields *array = (PyArrayObject_fields *)object;
    size_t bytes = (size_t)PyArray_NBYTES((PyArrayObject *)object);
    if (array->mem_handler == capsule) return object;
    void *block = NULL;
    if (PyArray_CheckExact(object) && Py_REFCNT(object) == 1 && (array->flags & NPY_ARRAY_OWNDATA) &&
        array->mem_handler != NULL && bytes != 0 && !PyDataType_REFCHK(array->descr))
        block = obtain(PyCapsule_GetPointer(capsule, CAPSULE), bytes, 0);
    if (block == NULL) {
        Py_DECREF(object);
        return NULL;
    }
    memcpy(block, array->data, bytes);
    const PyDataMem_Handler *before = PyCapsule_GetPointer(array->mem_handler, CAPSULE);
    (void)PyTraceMalloc_Untrack(TRACE_DOMAIN, (uintptr_t)array->data);
    before->allocator.free(before->allocator.ctx, array->data, bytes);
    Py_DECREF(array->mem_handler);
    array->data = block;
    array->mem_handler = Py_NewRef(capsule);
    (void)PyTraceMalloc_Track(TRACE_DOMAIN, (uintptr_t)block, bytes);
    return object;
}

/* The array itself if it is one of this handler's and as wanted. */
static int serves_as_it_is(PyObject *capsule, PyArrayObject *array, PyArray_Descr *dtype, PyObject *order) {
    if (!PyArray_CHKFLAGS(array, NPY_ARRAY_OWNDATA) || PyArray_HANDLER(array) != capsule) return 0;
    return (order == NULL || order == Py_None) && PyArray_EquivTypes(dtype, PyArray_DESCR(array));
}

static PyObject *short_of_data(PyObject *capsule, const form *form, PyObject *const value[SLOTS]) {
    PyObject *object = value[FIRST], *copy = value[COPY];
    if (copy != NULL && copy != Py_None && copy != Py_True) return NULL;
    int copies = copy != NULL ? copy == Py_True : form->copies;
    if (value[NDMIN] != NULL && !(PyLong_CheckExact(value[NDMIN]) && PyLong_AsLong(value[NDMIN]) == 0)) return NULL;
    PyArray_Descr *dtype = NULL;
    if (PyArray_CheckExact(object)) {
        PyArrayObject *source = (PyArrayObject *)object;
        if (!read_dtype(value[DTYPE], &dtype)) return NULL;
        if (dtype == NULL) {
            dtype = PyArray_DESCR(source);
            Py_INCREF(dtype);
        }
        PyObject *array = NULL;
        if (!copies && serves_as_it_is(capsule, source, dtype, value[ORDER])) array = Py_NewRef(object);
        else if (!PyDataType_REFCHK(dtype) && !PyDataType_REFCHK(PyArray_DESCR(source)) &&
                 !PyDataType_HASSUBARRAY(dtype))
            array = adopt_like(capsule, source, dtype, value[ORDER] != NULL ? value[ORDER] : Py_None, 0);
        Py_DECREF(dtype);
        if (array != NULL && array != object && PyArray_CopyInto((PyArrayObject *)array, source) != 0) Py_CLEAR(array);
        return array;
    }
    if (!PyList_CheckExact(object) && !PyTuple_CheckExact(object) && !PyFloat_CheckExact(object) &&
        !PyLong_CheckExact(object))
        return NULL;
    if (value[ORDER] != NULL && value[ORDER] != Py_None) return NULL;
    if (!read_dtype(value[DTYPE], &dtype)) return NULL;
    PyObject *array =
        PyArray_FromAny(object, dtype, 0, 0, NPY_ARRAY_CARRAY | NPY_ARRAY_FORCECAST, NULL); /* takes dtype */
    return array != NULL ? rehome(capsule, array) : NULL;
}

static PyObject *shortcut_try(const shortcut *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    const module_state *state = PyModule_GetState(self->module);
    PyObject *capsule = __atomic_load_n(&state->current, __ATOMIC_ACQUIRE), *value[SLOTS] = {NULL}, *array;
    if (capsule == NULL || !sort_arguments(self, args, count, names, value)) return NULL;
    if (self->form->one) value[FILL] = Py_True;
    switch (self->form->kind) {
    case OF_SHAPE: array = short_of_shape(capsule, self->form, value); break;
    case OF_PROTOTYPE: array = short_of_prototype(capsule, self->form, value); break;
    default: array = short_of_data(capsule, self->form, value);
    }
    if (array != NULL && value[FILL] != NULL && PyArray_FillWithScalar((PyArrayObject *)array, value[FILL]) != 0)
        Py_CLEAR(array);
    return array;
}

static PyObject *shortcut_call(PyObject *object, PyObject *const *args, size_t flagged, PyObject *names) {
    const shortcut *self = (shortcut *)object;
    Py_ssize_t count = PyVectorcall_NARGS(flagged), skip = self->closed != NULL;
    int open = !skip;
    if (skip && count > 0) {
        PyObject *closed = PyObject_GetAttr(args[0], self->closed);
        open = closed == Py_False;
        Py_XDECREF(closed);
    }
    PyObject *array = open ? shortcut_try(self, args + skip, count - skip, names) : NULL;
    if (array != NULL) return array;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL; /* an interrupt */
        PyErr_Clear();
    }
    return PyObject_Vectorcall(self->function, args, flagged, names);
}

/* A method is bound to its object; the others are not, as NumPy's functions in C. */
static PyObject *shortcut_bind(PyObject *object, PyObject *instance, PyObject *type) {
    (void)type;
    int binds = instance != NULL && ((shortcut *)object)->closed != NULL;
    return binds ? PyMethod_New(object, instance) : Py_NewRef(object);
}

static int shortcut_traverse(PyObject *object, visitproc visit, void *arg) {
    shortcut *self = (shortcut *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    Py_VISIT(self->module);
    return 0;
}

static int shortcut_clear(PyObject *object) {
    shortcut *self = (shortcut *)object;
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->module);
    Py_CLEAR(self->closed);
    for (int i = 0; i < WORDS; i++) Py_CLEAR(self->word[i]);
    return 0;
}

static void shortcut_delete(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    (void)shortcut_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

/* By its name, as functions are pickled. */
static PyObject *shortcut_reduce(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyMethodDef shortcut_methods[] = {
    {"__reduce__", shortcut_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef shortcut_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(shortcut, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(shortcut, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef shortcut_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot shortcut_slots[] = {
    {Py_tp_call, (void *)(uintptr_t)PyVectorcall_Call},
    {Py_tp_descr_get, (void *)(uintptr_t)shortcut_bind},
    {Py_tp_traverse, (void *)(uintptr_t)shortcut_traverse},
    {Py_tp_clear, (void *)(uintptr_t)shortcut_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)shortcut_delete},
    {Py_tp_methods, shortcut_methods},
    {Py_tp_members, shortcut_members},
    {Py_tp_getset, shortcut_getset},
    {0, NULL},
};

static PyType_Spec shortcut_spec = {
    .name = "hpcalloc._native._handler.shortcut_function",
    .basicsize = sizeof(shortcut),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = shortcut_slots,
};

PyDoc_STRVAR(
    shortcut_doc,
    "shortcut(function, name, closed)\n--\n\n"
    "`function`, the creation function `name`, with its common calls in C. With `closed`, not None but the name of an\n"
    "attribute, it is a method, and `function` serves all calls while that attribute is not False.");

static PyObject *make_shortcut(PyObject *module, PyObject *args) {
    module_state *state = PyModule_GetState(module);
    PyObject *function, *closed;
    const char *name;
    if (!PyArg_ParseTuple(args, "OsO:shortcut", &function, &name, &closed)) return NULL;
    if (closed != Py_None && !PyUnicode_CheckExact(closed))
        return PyErr_Format(PyExc_TypeError, "shortcut: closed is %R, not a name", closed);
    const form *form = NULL;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(forms[i].name, name) == 0) form = &forms[i];
    if (form == NULL) return PyErr_Format(PyExc_ValueError, "shortcut: no creation function is called %s", name);
    PyTypeObject *type = (PyTypeObject *)(closed != Py_None ? state->method_type : state->shortcut_type);
    shortcut *self = (shortcut *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->vectorcall = shortcut_call;
    self->function = Py_NewRef(function);
    self->module = Py_NewRef(module);
    self->form = form;
    if (closed != Py_None) {
        self->closed = Py_NewRef(closed);
        PyUnicode_InternInPlace(&self->closed);
    }
    for (int i = 0; i < WORDS && form->parameter[i].word != NULL; i++) {
        self->word[i] = PyUnicode_InternFromString(form->parameter[i].word);
        if (self->word[i] == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(set_current_doc,
             "set_current(capsule_or_None)\n--\n\n"
             "The handler that shortcuts use. It is never let go, since another thread may be about to use it.");

static PyObject *set_current(PyObject *module, PyObject *capsule) {
    module_state *state = PyModule_GetState(module);
    if (capsule != Py_None && checked_capsule(capsule, "set_current") == NULL) return NULL;
    if (capsule != Py_None && PySet_Add(state->kept, capsule) != 0) return NULL;
    __atomic_store_n(&state->current, capsule == Py_None ? NULL : capsule, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

/* ---- what happened ----------------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    last_failure_doc,
    "last_failure()\n--\n\n"
    "(errno, bytes) of the calling thread's last allocation that failed, None if none failed since last asked.");

static PyObject *last_failure(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (failure.error == 0) Py_RETURN_NONE;
    int error = failure.error;
    failure.error = 0;
    return Py_BuildValue("iK", error, (unsigned long long)failure.size);
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

/* ---- module ------------------------------------------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"make_handler", make_handler, METH_VARARGS, make_handler_doc},
    {"set_handler", set_handler, METH_O, set_handler_doc},
    {"get_handler", get_handler, METH_NOARGS, get_handler_doc},
    {"handler_of", handler_of, METH_O, handler_of_doc},
    {"describe", describe, METH_O, describe_doc},
    {"empty", (PyCFunction)(void (*)(void))empty, METH_FASTCALL, empty_doc},
    {"zeros", (PyCFunction)(void (*)(void))zeros, METH_FASTCALL, zeros_doc},
    {"like", (PyCFunction)(void (*)(void))like, METH_FASTCALL, like_doc},
    {"shortcut", make_shortcut, METH_VARARGS, shortcut_doc},
    {"set_current", set_current, METH_O, set_current_doc},
    {"last_failure", last_failure, METH_NOARGS, last_failure_doc},
    {"live_blocks", live_blocks, METH_NOARGS, live_blocks_doc},
    {"keep_for_ever", scope_keep, METH_O, "keep_for_ever(object, /)\n--\n\nKeep it beyond the end of the interpreter."},
    {"insist", scope_insist, METH_O,
     "insist(function, /)\n--\n\nCall it until it returns; then raise what it raised first."},
    {NULL, NULL, 0, NULL},
};

/* Before the program limits its address space (resource.setrlimit): what is only reserved would count. */
static int audit(const char *event, PyObject *args, void *unused) {
    (void)unused;
    if (strncmp(event, "resource.", 9) != 0) return 0;
    int at = strcmp(event, "resource.setrlimit") == 0 ? 0 : strcmp(event, "resource.prlimit") == 0 ? 1 : -1;
    if (at < 0 || !PyTuple_Check(args) || PyTuple_GET_SIZE(args) <= at + 1) return 0;
    if (PyTuple_GET_ITEM(args, at + 1) == Py_None) return 0; /* prlimit asks only */
    long resource = PyLong_AsLong(PyTuple_GET_ITEM(args, at));
    if (resource == RLIMIT_AS) numalloc_release_address_space();
    PyErr_Clear();
    return 0;
}

static int execute(PyObject *module) {
    static int registry_ready; /* the import lock serialises this */
    module_state *state = PyModule_GetState(module);
    import_array1(-1);
    if (!registry_ready) {
        int error = registry_init();
        if (error != 0) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PySys_AddAuditHook(audit, NULL) != 0) return -1;
        registry_ready = 1;
    }
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (numpy == NULL) return -1;
    state->empty_like = PyObject_GetAttrString(numpy, "empty_like");
    Py_DECREF(numpy);
    if (state->empty_like == NULL) return -1;
    state->kept = PySet_New(NULL);
    state->shortcut_type = PyType_FromModuleAndSpec(module, &shortcut_spec, NULL);
    PyType_Spec method_spec = shortcut_spec;
    method_spec.name = "hpcalloc._native._handler.shortcut_method";
    method_spec.flags |= Py_TPFLAGS_METHOD_DESCRIPTOR; /* called without being bound first */
    state->method_type = PyType_FromModuleAndSpec(module, &method_spec, NULL);
    if (state->kept == NULL || state->shortcut_type == NULL || state->method_type == NULL || scope_add(module) != 0)
        return -1;
    if (PyModule_AddIntConstant(module, "LOCAL", NUMALLOC_LOCAL) != 0 ||
        PyModule_AddIntConstant(module, "ON_NODE", NUMALLOC_ONNODE) != 0 ||
        PyModule_AddIntConstant(module, "INTERLEAVE", NUMALLOC_INTERLEAVE) != 0 ||
        PyModule_AddIntConstant(module, "BLOCKED", NUMALLOC_BLOCKED) != 0 ||
        PyModule_AddIntConstant(module, "STRICT", NUMALLOC_STRICT) != 0 ||
        PyModule_AddIntConstant(module, "POPULATE", NUMALLOC_POPULATE) != 0 ||
        PyModule_AddIntConstant(module, "MIN_TRACKED", (long)REGISTRY_MIN) != 0)
        return -1;
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *state = PyModule_GetState(module);
    if (state == NULL) return 0;
    Py_VISIT(state->empty_like);
    Py_VISIT(state->kept);
    Py_VISIT(state->shortcut_type);
    Py_VISIT(state->method_type);
    return 0;
}

static int clear(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    if (state == NULL) return 0;
    state->current = NULL;
    Py_CLEAR(state->empty_like);
    Py_CLEAR(state->kept);
    Py_CLEAR(state->shortcut_type);
    Py_CLEAR(state->method_type);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED}, /* as NumPy */
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hpcalloc._native._handler",
    .m_doc = "NumPy data handlers on libnumalloc, and array creation through them.",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__handler(void) { return PyModuleDef_Init(&definition); }
