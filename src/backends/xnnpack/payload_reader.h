// Reads what the delegate "XnnpackBackend" of an ExecuTorch program holds.
#pragma once

#include "diffulex_edge/backend_description.h"

namespace diffulex_edge::xnnpack {

// Checks header, flatbuffer and every constant's place. Throws Error{kBadFile}.
DelegateContents read_payload(const DelegatePayload& payload);

}  // namespace diffulex_edge::xnnpack
