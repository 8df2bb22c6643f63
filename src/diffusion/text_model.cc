#include "diffusion/text_model.h"

#include <utility>

#include "models/special_tokens.h"
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

TextModel::TextModel(const std::filesystem::path& folder, ModelOptions options,
                     const std::function<QuantizationRequest(const Model&)>& request, const RunControl& control,
                     const std::filesystem::path& packs)
    : TextTokens(find_model_folder(folder)) {
  options = text_model_options(folder, std::move(options));
  Model model = load_model(folder, options);
  eos_ids_ = find_eos_ids(model);
  expand_id_ = find_expand_id(model);
  bos_id_ = find_bos_id(model);
  const QuantizationRequest asked = request(model);
  QuantizationSession session(std::move(model), options, asked);
  session.calibrate(control);
  const QuantizationResult quantized = session.quantize();
  warnings_ = session.original().warnings;
  warnings_.insert(warnings_.end(), quantized.warnings.begin(), quantized.warnings.end());
  engine_ = std::make_unique<DiffusionEngine>(
      session.model(), changes_layers(quantized.plan) ? &quantized.plan : nullptr, control, packs);
}

}  // namespace diffulex_edge
