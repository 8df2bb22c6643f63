// What the XNNPACK backend says of itself.
#pragma once

#include "diffulex_edge/backend.h"

namespace diffulex_edge::xnnpack {

const BackendDescription& description();
void add_to(BackendRegistry& registry);

}  // namespace diffulex_edge::xnnpack
