#include "cli/text_model.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization_session.h"

namespace diffulex_edge::cli {

ModelOptions text_model_options(const ModelArguments& model, std::optional<std::int64_t> block_length) {
  ModelOptions options = model.options();
  const ModelConfig config = read_model_config(model.path, options);
  if (config.block_length > 1) {
    options.block_length = block_length;
  }
  options.seq_len = config.max_positions;
  return options;
}

TextModel::TextModel(const ModelArguments& model, const RuntimeArguments& runtime,
                     std::optional<std::int64_t> block_length, const RunControl& control)
    : path_(model.path) {
  const ModelOptions options = text_model_options(model, block_length);
  Model loaded = load_model(model.path, options);
  std::error_code ignored;
  if (std::filesystem::exists(loaded.path / "tokenizer.json", ignored)) {
    tokenizer_.emplace(loaded.path);
    for (std::int64_t id = 0; id < tokenizer_->vocab_size(); ++id) {
      if (tokenizer_->is_special(id)) {
        special_.insert(id);
      }
    }
  }
  eos_ids_ = find_eos_ids(loaded);
  const QuantizationRequest request = runtime.request(loaded, {});
  QuantizationSession session(std::move(loaded), options, request);
  session.calibrate(control);
  const QuantizationResult quantized = session.quantize();
  warnings_ = session.original().warnings;
  warnings_.insert(warnings_.end(), quantized.warnings.begin(), quantized.warnings.end());
  const bool changes = std::ranges::any_of(
      quantized.plan.layers, [](const LayerPlan& layer) { return layer.dtype != QuantizationDtype::FP32; });
  engine_ = std::make_unique<DiffusionEngine>(session.model(), changes ? &quantized.plan : nullptr, control);
}

const Tokenizer& TextModel::tokenizer() const {
  if (!tokenizer_) {
    throw Error(ErrorCode::kBadFile, path_, "has no tokenizer.json",
                "give --prompt-ids, or put the tokenizer beside the weights");
  }
  return *tokenizer_;
}

std::vector<std::int64_t> TextModel::encode_prompt(std::string_view text) const {
  std::vector<std::int64_t> ids = tokenizer().begin_ids();
  const std::vector<std::int64_t> rest = tokenizer().encode(text);
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

TextStream TextModel::stream(std::vector<std::string> stops) const { return {tokenizer(), special_, std::move(stops)}; }

}  // namespace diffulex_edge::cli
