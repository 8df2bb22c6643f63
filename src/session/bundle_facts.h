// What an artefact will say of its language model, before it is made.
#pragma once

#include <string>

#include "bundle/bundle.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Errors: those of read_cache_plan(), find_mask_token() and their kin; kInvalidArgument for a diffusion model whose
// mask token nobody says, and for logits of last tokens only, which don't do for one.
BundledModel bundle_facts(const Model& model, const BackendDescription& backend, const BackendConfig& config);

// What a backend's artefact is called in a bundle.
std::string artefact_name(const BackendDescription& backend, const BackendConfig& config);

}  // namespace diffulex_edge
