// Opens a model folder: configuration, checkpoint and graph, with the caller's options checked against them.

#include <algorithm>
#include <string>
#include <utility>

#include "checkpoint/foreign_weights.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/lora.h"
#include "checkpoint/model_folder.h"
#include "core/links.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/model.h"
#include "model_files/gguf_file.h"
#include "model_files/model_files.h"
#include "models/adapter_config.h"
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
  if (config.rope.unscaled_positions > 0 && seq_len > config.rope.unscaled_positions) {
    throw Error(ErrorCode::kUnsupported, "sequence length",
                std::to_string(seq_len) + " reaches positions whose queries this model scales (llama_4_scaling_beta)",
                "take at most " + std::to_string(config.rope.unscaled_positions));
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

// The caller's token, or else the configuration's.
std::optional<std::int64_t> choose_mask_token(const ModelConfig& config, const std::filesystem::path& folder,
                                              const ModelOptions& options) {
  const bool is_given = options.mask_token_id.has_value();
  const std::optional<std::int64_t> token = is_given ? options.mask_token_id : config.mask_token_id;
  if (token && (*token < 0 || *token >= config.vocab_size)) {
    throw Error(is_given ? ErrorCode::kInvalidArgument : ErrorCode::kBadFile,
                is_given ? "mask token" : (folder / "config.json").string() + ": 'mask_token_id'",
                std::to_string(*token) + " is not in the vocabulary of " + std::to_string(config.vocab_size),
                is_given ? "" : "give --mask-token-id");
  }
  return token;
}

// A folder without the usual name may hold something else than its owner thinks.
void note_other_names(const std::filesystem::path& folder, std::vector<std::string>& warnings) {
  const WeightFiles files = find_weight_files(folder);
  if (!files.is_usual()) {
    const std::filesystem::path& taken = files.file.empty() ? files.index : files.file;
    warnings.push_back("the weights are those of " + taken.filename().string() + ": there is no model.safetensors");
  }
}

// Where the model of this name is, with the caller's adapter or the one that it is named by.
ModelPlace find_place(const std::filesystem::path& name, const ModelOptions& options) {
  ModelPlace place = find_model(name);
  if (!options.adapter) {
    return place;
  }
  if (!place.adapter.empty()) {
    throw Error(ErrorCode::kInvalidArgument, name.string(), "is an adapter itself",
                "name the model that both were trained on, and merge one of them first");
  }
  place.adapter = find_folder(*options.adapter);
  return place;
}

bool have_same_file(const std::filesystem::path& a, const std::filesystem::path& b, const char* name) {
  if (!is_present(a / name) || !is_present(b / name)) {
    return true;
  }
  const MappedFile first(a / name);
  const MappedFile second(b / name);
  return std::ranges::equal(first.bytes(), second.bytes());
}

void add_adapter(Checkpoint& checkpoint, const ModelPlace& place, const ModelConfig& config,
                 const ModelOptions& options, std::vector<std::string>& warnings) {
  const MergedLora merged = merge_adapter(checkpoint, place.adapter, config, options.ignored_config_keys);
  warnings.push_back("the adapter " + place.adapter.string() + " is merged while weights are read: " +
                     describe(merged) + " of the model " + place.folder.string());
  if (!have_same_file(place.adapter, place.folder, "tokenizer.json") ||
      !have_same_file(place.adapter, place.folder, "tokenizer_config.json") ||
      !have_same_file(place.adapter, place.folder, "chat_template.jinja")) {
    warnings.emplace_back(
        "the adapter's folder has another tokenizer or chat template than the model, which are not used");
  }
}

std::shared_ptr<const Checkpoint> open_weights(const ModelPlace& place, const ParsedConfig& parsed,
                                               const ModelOptions& options, std::vector<std::string>& warnings) {
  const std::filesystem::path& folder = place.folder;
  auto checkpoint = std::make_shared<Checkpoint>(folder);
  if (!is_gguf(folder)) {
    note_other_names(folder, warnings);
  }
  if (parsed.prequantized) {
    read_prequantized(*checkpoint, *parsed.prequantized);
  }
  refuse_foreign_weights(*checkpoint);  // that are left
  if (const PrequantizedLayouts layouts = quantized_layouts(*checkpoint); !layouts.empty()) {
    warnings.push_back(describe(layouts, parsed.prequantized && parsed.prequantized->ignores_activations));
  }
  if (!place.adapter.empty()) {
    add_adapter(*checkpoint, place, parsed.config, options, warnings);
  }
  return checkpoint;
}

}  // namespace

Model load_model(const std::filesystem::path& name, const ModelOptions& options) {
  const ModelPlace place = find_place(name, options);
  const std::filesystem::path& folder = place.folder;
  const auto documents = hold_documents(folder);
  const ParsedConfig parsed = parse_config(folder, options);
  refuse_to_guess(parsed, folder, options);
  Model model{.path = folder, .config = parsed.config};
  model.config.mask_token_id = choose_mask_token(parsed.config, folder, options);
  model.seq_len = choose_seq_len(parsed.config, options, model.warnings);
  model.stored_quantization = parsed.quantization;
  model.checkpoint = open_weights(place, parsed, options, model.warnings);
  model.graph = parsed.architecture->build(model.config, *model.checkpoint, model.seq_len);
  check_activations(model);
  return model;
}

}  // namespace diffulex_edge
