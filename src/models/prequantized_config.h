// What config.json says of weights that another program has quantized.
#pragma once

#include <string_view>

#include "checkpoint/prequantized/scheme.h"
#include "models/config_reader.h"

namespace diffulex_edge {

// Of config.json's "quantization_config" or GPTQ's quantize_config.json, whose "quant_method" is `method`. Throws
// Error{kUnsupported} for a method or a variant of it that is not read, and says what to do.
PrequantizedScheme read_prequantized_scheme(ConfigReader& quantization, std::string_view method);

}  // namespace diffulex_edge
