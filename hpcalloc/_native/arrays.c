/* SPDX-License-Identifier: BSD-3-Clause
 *
 * arrays.c: arrays made with a given handler.
 *
 * Invariant. A call leaves NumPy's context variable as it was, whatever happens. */
#include "handler.h"

#include <string.h>

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
int arrays_read_order(PyObject *object, int *fortran) {
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
PyObject *arrays_adopt(PyObject *capsule, PyArray_Dims shape, PyArray_Descr *dtype, int fortran, int zero) {
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
    void *block = handler_obtain(self, bytes, zero ? NUMALLOC_ZERO : 0);
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

static PyObject *new_array(PyObject *const *args, Py_ssize_t count, int zero) {
    const char *call = zero ? "zeros" : "empty";
    if (count != 4) return PyErr_Format(PyExc_TypeError, "%s: expected (handler, shape, dtype, order)", call);
    if (handler_checked(args[0], call) == NULL) return NULL;
    PyArray_Dims shape = {NULL, 0};
    PyArray_Descr *dtype = NULL;
    PyObject *array = NULL;
    int fortran = 0;
    if (!PyArray_DescrConverter(args[2], &dtype)) return NULL;
    if (without_references(dtype, call) && arrays_read_order(args[3], &fortran) &&
        PyArray_IntpConverter(args[1], &shape)) {
        handler_failed.error = 0;
        array = arrays_adopt(args[0], shape, dtype, fortran, zero);
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

/* As arrays_adopt(), of the shape of `prototype`; NULL without an exception also when its axes lie in another order. */
PyObject *arrays_adopt_like(PyObject *capsule, PyArrayObject *prototype, PyArray_Descr *dtype, PyObject *order_name,
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
    return arrays_adopt(capsule, shape, dtype, order == NPY_FORTRANORDER, zero);
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
    if (handler_checked(args[0], "like") == NULL) return NULL;
    if (!PyArray_CheckExact(args[1])) return PyErr_Format(PyExc_TypeError, "like: prototype must be a numpy.ndarray");
    int zero = PyObject_IsTrue(args[5]);
    PyArray_Descr *dtype = NULL;
    if (zero < 0 || !PyArray_DescrConverter2(args[2], &dtype)) return NULL;
    PyArray_Descr *effective = dtype != NULL ? dtype : PyArray_DESCR((PyArrayObject *)args[1]);
    PyObject *array = NULL;
    if (without_references(effective, zero ? "zeros_like" : "empty_like")) {
        handler_failed.error = 0;
        if (args[4] == Py_None) array = arrays_adopt_like(args[0], (PyArrayObject *)args[1], effective, args[3], zero);
        PyObject *previous = array == NULL ? PyDataMem_SetHandler(args[0]) : NULL;
        handler_failed.error = 0;
        if (previous != NULL) {
            PyObject *const numpy_args[] = {args[1], dtype != NULL ? (PyObject *)dtype : Py_None, args[3], Py_False,
                                            args[4]};
            handler_zero_next = zero;
            array = PyObject_Vectorcall(state->empty_like, numpy_args, 5, NULL);
            handler_zero_next = 0;
            array = restore(previous, array);
        }
    }
    Py_XDECREF(dtype);
    return array;
}

/* Moves the data of a fresh array of NumPy's to a block of ours. */
PyObject *arrays_rehome(PyObject *capsule, PyObject *object) {
    PyArrayObject_fields *array = (PyArrayObject_fields *)object;
    size_t bytes = (size_t)PyArray_NBYTES((PyArrayObject *)object);
    if (array->mem_handler == capsule) return object;
    void *block = NULL;
    if (PyArray_CheckExact(object) && Py_REFCNT(object) == 1 && (array->flags & NPY_ARRAY_OWNDATA) &&
        array->mem_handler != NULL && bytes != 0 && !PyDataType_REFCHK(array->descr))
        block = handler_obtain(PyCapsule_GetPointer(capsule, CAPSULE), bytes, 0);
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

PyMethodDef arrays_methods[] = {
    {"empty", (PyCFunction)(void (*)(void))empty, METH_FASTCALL, empty_doc},
    {"zeros", (PyCFunction)(void (*)(void))zeros, METH_FASTCALL, zeros_doc},
    {"like", (PyCFunction)(void (*)(void))like, METH_FASTCALL, like_doc},
    {NULL, NULL, 0, NULL},
};
