// The configuration dataclass of diffulex_edge/quant/_config.py as the library's.
#pragma once

#include <nanobind/nanobind.h>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::python {

// Reads the attributes of a `QuantizationConfig`, whose enum members are strings. Whatever has these attributes will
// do.
QuantizationConfig to_cpp(nanobind::handle config);

// Reads the attributes `data` (a path, or "self"), `length`, `sequences`, `seed`, `observer`, `percentile`,
// `mask_weight`.
CalibrationOptions calibration_options(nanobind::handle options);

// The ranges that the same object brings with it, in `activations` and, if it has that, `graph_activations`.
CalibrationFindings findings_of(nanobind::handle config);

}  // namespace diffulex_edge::python
