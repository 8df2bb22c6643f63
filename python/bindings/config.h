// The configuration dataclass of diffulex_edge/quant/_config.py as the library's.
#pragma once

#include <nanobind/nanobind.h>

#include "diffulex_edge/quantization.h"

namespace diffulex_edge::python {

// Reads the attributes of a `QuantizationConfig`, whose enum members are strings. Whatever has these attributes will
// do.
QuantizationConfig to_cpp(nanobind::handle config);

}  // namespace diffulex_edge::python
