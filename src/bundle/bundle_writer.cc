// A Bundle to the text of its generation.json.
#include <nlohmann/json.hpp>

#include "bundle/bundle.h"
#include "bundle/bundle_format.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

template <typename Value>
void add_if_given(Json& json, const char* key, const std::optional<Value>& value) {
  if (value) {
    json[key] = *value;
  }
}

Json model_json(const BundledModel& model) {
  Json json{{"family", model.family}, {"vocab_size", model.vocab_size}, {"block_length", model.block_length}};
  add_if_given(json, "mask_token_id", model.mask_token_id);
  json["eos_ids"] = model.eos_ids;
  add_if_given(json, "bos_id", model.bos_id);
  json["shifted_logits"] = model.has_shifted_logits;
  json["max_tokens"] = model.max_tokens;
  json["max_step_tokens"] = model.max_step_tokens;
  json["step_sizes"] = model.step_sizes;
  json["cache"] = model.cache;
  json["logits"] = model.logits;
  json["tokenizer_sha256"] = model.tokenizer_sha256;
  return json;
}

Json decoding_json(const BundledDecoding& decoding) {
  Json json{{"max_new_tokens", decoding.max_new_tokens}, {"temperature", decoding.temperature}};
  add_if_given(json, "remasking", decoding.remasking);
  add_if_given(json, "threshold", decoding.threshold);
  add_if_given(json, "block_length", decoding.block_length);
  add_if_given(json, "sub_block_length", decoding.sub_block_length);
  add_if_given(json, "editing_threshold", decoding.editing_threshold);
  add_if_given(json, "max_post_steps", decoding.max_post_steps);
  add_if_given(json, "expand_id", decoding.expand_id);
  add_if_given(json, "initial_masks", decoding.initial_masks);
  return json;
}

}  // namespace

std::string to_json(const Bundle& bundle) {
  const BundledArtefact& artefact = bundle.artefact;
  const Json json{{"format", kBundleFormat},
                  {"version", bundle.decoding.expand_id ? kBundleVersion : kPlainVersion},
                  {"artefact",
                   {{"name", artefact.name},
                    {"backend", artefact.backend},
                    {"bytes", artefact.bytes},
                    {"sha256", artefact.sha256}}},
                  {"model", model_json(bundle.model)},
                  {"decoding", decoding_json(bundle.decoding)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace diffulex_edge
