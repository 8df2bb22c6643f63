// A bundle's model and settings, as decoders take them.
#pragma once

#include "bundle/bundle.h"
#include "diffulex_edge/generation.h"

namespace diffulex_edge {

ArtefactFacts artefact_facts(const BundledModel& model);

// What a bundle of such a model says of decoding.
BundledDecoding bundled_decoding(const ModelConfig& model);

// A request's options as the bundle has them, with the tokens that end a text. Throws Error{kInvalidArgument} for an
// unknown name.
DiffusionGenerationConfig generation_config(const Bundle& bundle);

}  // namespace diffulex_edge
