/* SPDX-License-Identifier: BSD-3-Clause
 *
 * shortcut.c: a creation function of Python's with its common calls in front of it: the current policy, an ordinary dtype.
 * What that does not serve, errors included, the Python function does, from the beginning. */
#include "handler.h"

#include <string.h>
#include <structmember.h>

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
    if (value[ORDER] != NULL && !arrays_read_order(value[ORDER], &fortran)) return NULL;
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
        array = arrays_adopt(capsule, shape, dtype, fortran, form->zero);
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
        array = arrays_adopt_like(capsule, prototype, dtype, value[ORDER] != NULL ? value[ORDER] : Py_None, form->zero);
    Py_DECREF(dtype);
    return array;
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
            array = arrays_adopt_like(capsule, source, dtype, value[ORDER] != NULL ? value[ORDER] : Py_None, 0);
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
    return array != NULL ? arrays_rehome(capsule, array) : NULL;
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

static PyMethodDef reduce_methods[] = {
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
    {Py_tp_methods, reduce_methods},
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
    if (capsule != Py_None && handler_checked(capsule, "set_current") == NULL) return NULL;
    if (capsule != Py_None && PySet_Add(state->kept, capsule) != 0) return NULL;
    __atomic_store_n(&state->current, capsule == Py_None ? NULL : capsule, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

PyMethodDef shortcut_methods[] = {
    {"shortcut", make_shortcut, METH_VARARGS, shortcut_doc},
    {"set_current", set_current, METH_O, set_current_doc},
    {NULL, NULL, 0, NULL},
};

int shortcut_add(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    state->kept = PySet_New(NULL);
    state->shortcut_type = PyType_FromModuleAndSpec(module, &shortcut_spec, NULL);
    PyType_Spec method_spec = shortcut_spec;
    method_spec.name = "hpcalloc._native._handler.shortcut_method";
    method_spec.flags |= Py_TPFLAGS_METHOD_DESCRIPTOR; /* called without being bound first */
    state->method_type = PyType_FromModuleAndSpec(module, &method_spec, NULL);
    return state->kept != NULL && state->shortcut_type != NULL && state->method_type != NULL ? 0 : -1;
}
