/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What scope.c gives to the module _handler. */
#pragma once

#include <Python.h>

int scope_add(PyObject *module); /* add the type Scope; -1 with an exception set */

PyObject *scope_insist(PyObject *module, PyObject *function); /* the module's `insist` */
PyObject *scope_keep(PyObject *module, PyObject *object);     /* its `keep_for_ever` */
