#include "diffulex_edge/version.h"

#include "quant/kernels/kernels.h"

namespace diffulex_edge {

std::string_view version() { return DIFFULEX_EDGE_VERSION; }

std::string_view instruction_set() { return kernels::instruction_set(); }

}  // namespace diffulex_edge
