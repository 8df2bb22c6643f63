// Whether a model can write what a request asks for, whoever runs the model.
#pragma once

#include <cstdint>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/model.h"
#include "diffusion/decoding_settings.h"

namespace diffulex_edge {

// The request's options with the family's defaults. `max_tokens`: of prompt and text together. Errors: those of
// DiffusionEngine::generate() about options, prompt, suffix and length.
DecodingSettings checked_settings(const ModelConfig& model, std::int64_t max_tokens, const GenerationRequest& request);

// Tokens of the canvas as the decoder fills it up.
std::int64_t canvas_length(const GenerationRequest& request, const DecodingSettings& settings);

}  // namespace diffulex_edge
