#include "diffusion/text_model.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
ModelOptions text_model_options(const std::filesystem::path& folder, ModelOptions options) {
  const std::optional<std::int64_t> block_length = std::exchange(options.block_length, std::nullopt);
  const ModelConfig config = read_model_config(folder, options);
  if (config.block_length > 1) {
    options.block_length = block_length;
  }
  if (!options.seq_len) {
    options.seq_len = config.max_positions;
  }
  return options;
}

ChatTemplate required_chat_template(const std::filesystem::path& folder) {
  std::optional<ChatTemplate> found = ChatTemplate::find(folder);
  if (!found) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no chat template",
                "put chat_template.jinja beside the weights, or give the whole prompt as text to `generate`");
  }
  return *std::move(found);
}

TextTokens::TextTokens(const std::filesystem::path& folder) : path_(folder.string()) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / "tokenizer.json", ignored)) {
    tokenizer_.emplace(folder);
    for (std::int64_t id = 0; id < tokenizer_->vocab_size(); ++id) {
      if (tokenizer_->is_special(id)) {
        special_.insert(id);
      }
    }
  }
}

TextModel::TextModel(const std::filesystem::path& folder, ModelOptions options,
                     const std::function<QuantizationRequest(const Model&)>& request, const RunControl& control,
                     const std::filesystem::path& packs)
    : TextTokens(folder) {
  options = text_model_options(folder, std::move(options));
  Model model = load_model(folder, options);
  eos_ids_ = find_eos_ids(model);
  const QuantizationRequest asked = request(model);
  QuantizationSession session(std::move(model), options, asked);
  session.calibrate(control);
  const QuantizationResult quantized = session.quantize();
  warnings_ = session.original().warnings;
  warnings_.insert(warnings_.end(), quantized.warnings.begin(), quantized.warnings.end());
  engine_ = std::make_unique<DiffusionEngine>(
      session.model(), changes_layers(quantized.plan) ? &quantized.plan : nullptr, control, packs);
}

const Tokenizer& TextTokens::tokenizer() const {
  if (!tokenizer_) {
    throw Error(ErrorCode::kBadFile, path_, "has no tokenizer.json",
                "give token ids and take some (--prompt-ids with --json), or put the tokenizer beside the weights");
  }
  return *tokenizer_;
}

std::vector<std::int64_t> TextTokens::encode_prompt(std::string_view text) const {
  std::vector<std::int64_t> ids = tokenizer().begin_ids();
  const std::vector<std::int64_t> rest = tokenizer().encode(text);
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

TextStream TextTokens::stream(std::vector<std::string> stops) const {
  return {tokenizer(), special_, std::move(stops)};
}

}  // namespace diffulex_edge
