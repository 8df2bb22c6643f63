// Opens a model folder: configuration, checkpoint and graph, with the caller's options checked against them.

#include <algorithm>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/model.h"
#include "models/architecture.h"
#include "models/parsed_config.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kDefaultSeqLen = 1024;
constexpr std::int64_t kMaxSeqLen = std::int64_t{1} << 20U;

std::int64_t choose_seq_len(const ModelConfig& config, const ModelOptions& options,
                            std::vector<std::string>& warnings) {
  if (!options.seq_len) {
    return std::min(config.max_positions, kDefaultSeqLen);
  }
  const std::int64_t seq_len = *options.seq_len;
  if (seq_len < 1 || seq_len > kMaxSeqLen) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", std::to_string(seq_len) + " is not in 1..1048576");
  }
  if (seq_len > config.max_positions) {
    warnings.push_back("the sequence length " + std::to_string(seq_len) + " is beyond the " +
                       std::to_string(config.max_positions) + " positions that the model was made for");
  }
  return seq_len;
}

// Ranges that belong to no layer were measured on another model.
void check_activations(const Model& model) {
  if (!model.stored_quantization) {
    return;
  }
  for (const auto& [layer, unused] : model.stored_quantization->activations) {
    const bool known = std::ranges::any_of(
        model.graph.nodes(), [&](const Node& node) { return node.op == Op::kLinear && node.name == layer; });
    if (!known) {
      throw Error(ErrorCode::kBadFile, (model.path / "config.json").string() + ": 'quantization_config': 'activations'",
                  "names '" + layer + "', which is no linear layer of this model");
    }
  }
}

// A diffusion model in a class of causal ones would load and write nonsense.
void refuse_to_guess(const ParsedConfig& parsed, const std::filesystem::path& folder, const ModelOptions& options) {
  if (parsed.architecture->is_causal && parsed.config.mask_token_id && !options.block_length) {
    throw Error(ErrorCode::kInvalidArgument, (folder / "config.json").string(),
                "has a mask_token_id, as diffusion models have, and the class " + parsed.config.architecture +
                    ", which is causal",
                "say --block-length 1 if it is causal, 0 if every token sees all others, or the length of its blocks");
  }
}

std::shared_ptr<const Checkpoint> open_weights(const std::filesystem::path& folder, const ParsedConfig& parsed,
                                               std::vector<std::string>& warnings) {
  auto checkpoint = std::make_shared<Checkpoint>(folder);
  if (parsed.prequantized) {
    read_prequantized(*checkpoint, *parsed.prequantized);
  }
  if (const PrequantizedLayouts layouts = quantized_layouts(*checkpoint); !layouts.empty()) {
    warnings.push_back(describe(layouts, parsed.prequantized && parsed.prequantized->ignores_activations));
  }
  return checkpoint;
}

}  // namespace

Model load_model(const std::filesystem::path& folder, const ModelOptions& options) {
  const ParsedConfig parsed = parse_config(folder, options);
  refuse_to_guess(parsed, folder, options);
  Model model{.path = folder, .config = parsed.config};
  if (options.mask_token_id) {
    if (*options.mask_token_id < 0 || *options.mask_token_id >= model.config.vocab_size) {
      throw Error(ErrorCode::kInvalidArgument, "mask token",
                  std::to_string(*options.mask_token_id) + " is not in the vocabulary of " +
                      std::to_string(model.config.vocab_size));
    }
    model.config.mask_token_id = options.mask_token_id;
  }
  model.seq_len = choose_seq_len(parsed.config, options, model.warnings);
  model.stored_quantization = parsed.quantization;
  model.checkpoint = open_weights(folder, parsed, model.warnings);
  model.graph = parsed.architecture->build(model.config, *model.checkpoint, model.seq_len);
  check_activations(model);
  return model;
}

}  // namespace diffulex_edge
