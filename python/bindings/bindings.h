// What each file of bindings adds to the module diffulex_edge._core.
#pragma once

#include <nanobind/nanobind.h>

namespace diffulex_edge::python {

// Turns diffulex_edge::Error into the exceptions of diffulex_edge/_errors.py.
void bind_errors();

}  // namespace diffulex_edge::python
