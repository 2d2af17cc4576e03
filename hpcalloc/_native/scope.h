/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What scope.c gives to the module _handler. */
#pragma once

#include <Python.h>

int scope_add(PyObject *module);    /* add the type Scope; -1 with an exception set */
extern PyMethodDef scope_methods[]; /* functions of the module */
