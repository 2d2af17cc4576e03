/* SPDX-License-Identifier: BSD-3-Clause
 *
 * module.c: hpcalloc._native._handler, put together of handler.c, arrays.c, shortcut.c and scope.c. */
#define IMPORTS_NUMPY
#include "handler.h"

#include <string.h>
#include <sys/resource.h>

#include "scope.h"

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

static int add_functions(PyObject *module) {
    PyMethodDef *const parts[] = {handler_methods, arrays_methods, shortcut_methods, scope_methods};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (PyModule_AddFunctions(module, parts[i]) != 0) return -1;
    return 0;
}

static int execute(PyObject *module) {
    static int audited; /* the import lock serialises this */
    module_state *state = PyModule_GetState(module);
    import_array1(-1);
    if (handler_add(module) != 0) return -1;
    if (!audited && PySys_AddAuditHook(audit, NULL) != 0) return -1;
    audited = 1;
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (numpy == NULL) return -1;
    state->empty_like = PyObject_GetAttrString(numpy, "empty_like");
    Py_DECREF(numpy);
    if (state->empty_like == NULL || add_functions(module) != 0) return -1;
    return shortcut_add(module) == 0 && scope_add(module) == 0 ? 0 : -1;
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
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__handler(void) { return PyModuleDef_Init(&definition); }
