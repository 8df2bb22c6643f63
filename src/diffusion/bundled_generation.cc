#include "diffusion/bundled_generation.h"

#include "diffusion/decoding_settings.h"

namespace diffulex_edge {

ArtefactFacts artefact_facts(const BundledModel& model) {
  ArtefactFacts facts{.config = {},
                      .max_tokens = model.max_tokens,
                      .max_step_tokens = model.max_step_tokens,
                      .has_cache = model.cache != "none"};
  facts.config.family = model.family;
  facts.config.vocab_size = model.vocab_size;
  facts.config.block_length = model.block_length;
  facts.config.mask_token_id = model.mask_token_id;
  facts.config.max_positions = model.max_tokens;
  return facts;
}

BundledDecoding bundled_decoding(const ModelConfig& model) {
  const DiffusionGenerationConfig config = family_defaults(model);
  BundledDecoding decoding{.max_new_tokens = config.max_new_tokens,
                           .temperature = config.temperature,
                           .threshold = config.threshold,
                           .block_length = config.block_length,
                           .sub_block_length = config.sub_block_length};
  if (config.remasking) {
    decoding.remasking = to_string(*config.remasking);
  }
  return decoding;
}

DiffusionGenerationConfig generation_config(const Bundle& bundle) {
  const BundledDecoding& decoding = bundle.decoding;
  DiffusionGenerationConfig config;
  config.max_new_tokens = decoding.max_new_tokens;
  config.temperature = decoding.temperature;
  config.threshold = decoding.threshold;
  config.block_length = decoding.block_length;
  config.sub_block_length = decoding.sub_block_length;
  config.editing_threshold = decoding.editing_threshold;
  config.max_post_steps = decoding.max_post_steps;
  config.expand_id = decoding.expand_id;
  config.initial_masks = decoding.initial_masks;
  if (decoding.remasking) {
    config.remasking = parse_remasking(*decoding.remasking);
  }
  config.eos_ids = bundle.model.eos_ids;
  return config;
}

}  // namespace diffulex_edge
