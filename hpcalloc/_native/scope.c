/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Scope: the base class of what is used in a `with` statement and must be given back.
 *
 * Python runs a signal's handler, which may raise (KeyboardInterrupt), at the first line of any Python function. A
 * `__exit__` in Python can so end before it has begun, and an `__enter__` before the `with` statement has taken hold.
 * These two are C functions, before which no handler runs. A subclass has `_enter()` and `_exit(kind)`; `_exit`
 * must do the rest of its work when it is called again. */
#include "scope.h"

#include <signal.h>

/* Of what is interrupted again and again. In the later tries signals that have handlers wait until it is done: a machine
 * that gives the process less time than there is between two signals would undo each try. */
enum { TRIES = 20, TRIES_WITH_SIGNALS = 10 };

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF};
enum { SIGNALS = sizeof signals / sizeof *signals };
static volatile sig_atomic_t waiting[SIGNALS];

static void note(int number) {
    for (int i = 0; i < SIGNALS; i++)
        if (signals[i] == number) waiting[i] = 1;
}

/* For the process: a signal that one thread blocks is another's. before[i] is what to put back, where changed[i]. */
static void defer_signals(struct sigaction before[SIGNALS], int changed[SIGNALS]) {
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    for (int i = 0; i < SIGNALS; i++) {
        changed[i] = sigaction(signals[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_DFL &&
                     before[i].sa_handler != SIG_IGN && before[i].sa_handler != note &&
                     sigaction(signals[i], &action, NULL) == 0;
    }
}

static void deliver_signals(const struct sigaction before[SIGNALS], const int changed[SIGNALS]) {
    for (int i = 0; i < SIGNALS; i++) {
        if (!changed[i]) continue;
        (void)sigaction(signals[i], &before[i], NULL);
        if (waiting[i]) {
            waiting[i] = 0;
            (void)raise(signals[i]);
        }
    }
}

/* Call `function`, with `kind` unless it is NULL, until it returns; then raise what it raised first, if anything.
 * After an interruption `kind` is that of the interruption. 0 without an error, -1 with one. */
static int insist_on(PyObject *function, PyObject *kind) {
    PyObject *first[3] = {NULL, NULL, NULL};
    struct sigaction before[SIGNALS];
    int changed[SIGNALS];
    for (int i = 0; i < TRIES; i++) {
        int alone = i >= TRIES_WITH_SIGNALS;
        if (alone) defer_signals(before, changed);
        PyObject *result = kind != NULL ? PyObject_CallFunctionObjArgs(function, kind, NULL)
                                        : PyObject_CallFunctionObjArgs(function, NULL);
        if (alone) deliver_signals(before, changed);
        if (result != NULL) {
            Py_DECREF(result);
            break;
        }
        PyObject *error[3];
        PyErr_Fetch(&error[0], &error[1], &error[2]);
        if (first[0] == NULL) {
            first[0] = error[0];
            first[1] = error[1];
            first[2] = error[2];
            if (kind != NULL) kind = first[0];
        } else {
            for (int k = 0; k < 3; k++) Py_XDECREF(error[k]);
        }
    }
    if (first[0] == NULL) return 0;
    PyErr_Restore(first[0], first[1], first[2]);
    return -1;
}

static PyObject *scope_insist(PyObject *module, PyObject *function) {
    (void)module;
    if (insist_on(function, NULL) != 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *scope_keep(PyObject *module, PyObject *object) {
    (void)module;
    Py_INCREF(object);
    Py_RETURN_NONE;
}

static PyObject *scope_exit(PyObject *self, PyObject *arguments) {
    PyObject *kind = Py_None;
    if (!PyArg_ParseTuple(arguments, "|OOO:__exit__", &kind, &(PyObject *){NULL}, &(PyObject *){NULL})) return NULL;
    PyObject *function = PyObject_GetAttrString(self, "_exit");
    if (function == NULL) return NULL;
    int failed = insist_on(function, kind);
    Py_DECREF(function);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyObject *scope_enter(PyObject *self, PyObject *unused) {
    (void)unused;
    PyObject *entered = PyObject_CallMethod(self, "_enter", NULL);
    if (entered != NULL) {
        Py_DECREF(entered);
        return Py_NewRef(self);
    }
    /* Not entered, so nobody will call __exit__. */
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *function = PyObject_GetAttrString(self, "_exit");
    if (function == NULL || insist_on(function, type) != 0) PyErr_Clear(); /* the first error says more */
    Py_XDECREF(function);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static PyMethodDef methods[] = {
    {"__enter__", scope_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nCall _enter()."},
    {"__exit__", scope_exit, METH_VARARGS, "__exit__($self, /, *error)\n--\n\nCall _exit(kind) until it returns."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What is used in a `with` statement and given back whatever interrupts it."},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hpcalloc._native._handler.Scope",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int scope_add(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "Scope", type);
    Py_DECREF(type);
    return failed;
}

PyMethodDef scope_methods[] = {
    {"keep_for_ever", scope_keep, METH_O, "keep_for_ever(object, /)\n--\n\nKeep it beyond the end of the interpreter."},
    {"insist", scope_insist, METH_O,
     "insist(function, /)\n--\n\nCall it until it returns; then raise what it raised first."},
    {NULL, NULL, 0, NULL},
};
