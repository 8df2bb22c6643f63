// Files that a subcommand writes beside its result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"

namespace diffulex_edge::cli {

// Before long work: throws Error{kInvalidArgument} where `path`, which the message calls `what`, would replace a file
// of the model or one of `others` (outputs and data; empty ones are none), and Error{kIo} where no file of `bytes` can
// be written there.
void check_extra_output(const std::string& path, const std::string& what, std::int64_t bytes, const Model& model,
                        const std::vector<std::string>& others);

}  // namespace diffulex_edge::cli
