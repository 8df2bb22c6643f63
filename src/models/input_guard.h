// Keeps outputs off the model that is being read.
#pragma once

#include <filesystem>

#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Throws Error{kInvalidArgument} if writing `target` would destroy a file of the model.
void refuse_input_as_target(const Model& model, const std::filesystem::path& target);

}  // namespace diffulex_edge
