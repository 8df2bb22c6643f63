// What a .pte says of its model in constant methods (docs/USER_GUIDE.md has the table).
#pragma once

#include "bundle/bundle.h"
#include "executorch/program.h"

namespace diffulex_edge::runner {

// Throws Error{kBadFile} for a program that does not say what its model is.
BundledModel read_facts(const Program& program);

}  // namespace diffulex_edge::runner
