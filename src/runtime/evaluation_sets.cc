// Reads and makes the sequences that a model is evaluated on.

#include <algorithm>
#include <charconv>
#include <cstring>

#include "checkpoint/tensor_source.h"
#include "core/mapped_file.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "models/logit_positions.h"
#include "models/special_tokens.h"
#include "runtime/diffusion_states.h"
#include "runtime/model_tokens.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kInputs = "input_ids_";
constexpr std::string_view kTargets = "target_ids_";

TokenSequences read_ids(const TensorView& tensor, std::int64_t vocab_size, bool is_target) {
  if (tensor.dtype != DType::kI64 || tensor.shape.size() != 2 || tensor.bytes.empty()) {
    throw Error(ErrorCode::kBadFile, tensor.where(), "must be int64 of the shape [sequences, length], and not empty");
  }
  const auto length = static_cast<std::size_t>(tensor.shape[1]);
  TokenSequences sequences(static_cast<std::size_t>(tensor.shape[0]), std::vector<std::int64_t>(length));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    std::memcpy(sequences[i].data(), tensor.bytes.data() + i * length * 8, length * 8);
    for (const std::int64_t id : sequences[i]) {
      const bool is_ignored = is_target && id == kIgnoredTarget;
      if ((id < 0 || id >= vocab_size) && !is_ignored) {
        throw Error(
            ErrorCode::kBadFile, tensor.where(),
            "token " + std::to_string(id) + " is not in the model's vocabulary of " + std::to_string(vocab_size),
            "was it made for another model?");
      }
    }
  }
  MappedFile::check(tensor.bytes.data());
  return sequences;
}

// Numbers by value, then everything else by name.
bool label_before(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& text) {
    double value = 0.0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
    return end.ec == std::errc() && end.ptr == text.data() + text.size() ? std::optional(value) : std::nullopt;
  };
  const auto left = number(a);
  const auto right = number(b);
  if (left && right && *left != *right) {
    return *left < *right;
  }
  return left.has_value() != right.has_value() ? left.has_value() : a < b;
}

void add(EvaluationSet& set, DiffusionState state) {
  set.inputs.push_back(std::move(state.input));
  set.targets.push_back(std::move(state.target));
}

}  // namespace

std::vector<EvaluationSet> read_evaluation_sets(const std::filesystem::path& file, std::int64_t vocab_size) {
  const SafetensorsFile tensors(file);
  const auto find = [&](const std::string& name) {
    return std::ranges::find(tensors.tensors(), name, [](const TensorView& tensor) { return tensor.name; });
  };
  std::vector<EvaluationSet> sets;
  for (const TensorView& inputs : tensors.tensors()) {
    if (!inputs.name.starts_with(kInputs)) {
      continue;
    }
    EvaluationSet set{.label = inputs.name.substr(kInputs.size())};
    const std::string target_name = std::string(kTargets) + set.label;
    const auto targets = find(target_name);
    if (targets == tensors.tensors().end()) {
      throw Error(ErrorCode::kBadFile, inputs.where(), "has no '" + target_name + "' beside it");
    }
    set.inputs = read_ids(inputs, vocab_size, false);
    set.targets = read_ids(*targets, vocab_size, true);
    if (inputs.shape != targets->shape) {
      throw Error(ErrorCode::kBadFile, targets->where(), "has another shape than '" + inputs.name + "'");
    }
    const auto counted = [](const std::vector<std::int64_t>& ids) {
      return std::ranges::any_of(ids, [](std::int64_t id) { return id != kIgnoredTarget; });
    };
    if (!std::ranges::any_of(set.targets, counted)) {
      throw Error(ErrorCode::kBadFile, targets->where(), "has no target that counts: all are -100");
    }
    sets.push_back(std::move(set));
  }
  if (sets.empty()) {
    throw Error(ErrorCode::kBadFile, file.string(), "has no pair input_ids_R, target_ids_R");
  }
  std::ranges::sort(sets,
                    [](const EvaluationSet& a, const EvaluationSet& b) { return label_before(a.label, b.label); });
  return sets;
}

std::vector<EvaluationSet> make_evaluation_sets(const Model& model, const TokenSequences& text, std::uint64_t seed) {
  std::vector<EvaluationSet> sets;
  if (is_autoregressive(model.config)) {
    EvaluationSet& set = sets.emplace_back(EvaluationSet{.label = "next"});
    for (const auto& tokens : text) {
      add(set, next_tokens(tokens));
    }
    return sets;
  }
  ModelConfig config = model.config;
  config.mask_token_id = find_mask_token(model);
  Random random(seed);
  for (const int percent : {15, 50, 90}) {
    EvaluationSet& set = sets.emplace_back(EvaluationSet{.label = std::to_string(percent)});
    for (const auto& tokens : text) {
      add(set, mask_tokens(config, tokens, percent / 100.0, random));
    }
  }
  // The bound: the number of masked tokens is uniform in 1..L, here stratified over the sequences.
  EvaluationSet& bound = sets.emplace_back(EvaluationSet{.label = "bound", .mean_of_sequences = true});
  for (std::size_t i = 0; i < text.size(); ++i) {
    const double ratio = (static_cast<double>(i) + random.uniform()) / static_cast<double>(text.size());
    add(bound, mask_tokens(config, text[i], ratio, random));
  }
  return sets;
}

std::vector<EvaluationSet> make_evaluation_sets(const Model& model, const std::filesystem::path& file,
                                                const EvaluationTextOptions& options) {
  const TokenSequences sequences = read_model_tokens(
      model, file,
      {.length = options.length, .max_sequences = options.max_sequences, .vocab_size = model.config.vocab_size});
  return make_evaluation_sets(model, sequences, options.seed);
}

}  // namespace diffulex_edge
