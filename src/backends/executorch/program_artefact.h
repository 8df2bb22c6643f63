// ExecuTorch programs, as artefacts of the backends that write them.
#pragma once

#include "diffulex_edge/backend_description.h"

namespace diffulex_edge::executorch {

ArtefactReader program_artefact();

}  // namespace diffulex_edge::executorch
