// What each file of bindings adds to the module diffulex_edge._core.
#pragma once

#include <nanobind/nanobind.h>

namespace diffulex_edge::python {

// Turns diffulex_edge::Error into the exceptions of diffulex_edge/_errors.py.
void bind_errors();

// Workspace and copy_artefact: temporary artefacts, and copies of them.
void bind_artefacts(nanobind::module_& module);

// ModuleGraph: export of what the Python frontend reads from a torch module.
void bind_export(nanobind::module_& module);

// TextModel: text from a model's folder, for diffulex_edge/_generation.py.
void bind_generation(nanobind::module_& module);

// Layers of a module through the planner and the kernels, for diffulex_edge/quant.
void bind_quantization(nanobind::module_& module);

}  // namespace diffulex_edge::python
