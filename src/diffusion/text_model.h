// A model that writes text: its engine, and its tokenizer where it has one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization_session.h"
#include "diffusion/text_tokens.h"

namespace diffulex_edge {

// How a folder's model is loaded to write text: without a length in `options`, the longest; their block length is that
// of a block-causal model's blocks, and means nothing to others.
ModelOptions text_model_options(const std::filesystem::path& folder, ModelOptions options);

class TextModel : public TextTokens {
 public:
  // Reads and packs the model of a folder, loaded as text_model_options() says and quantized as `request` does once the
  // model is known. `packs`: see PackedModel. Errors: those of load_model(), QuantizationSession and DiffusionEngine.
  TextModel(const std::filesystem::path& folder, ModelOptions options,
            const std::function<QuantizationRequest(const Model&)>& request, const RunControl& control,
            const std::filesystem::path& packs = {});

  const DiffusionEngine& engine() const { return *engine_; }
  const std::vector<std::int64_t>& eos_ids() const { return eos_ids_; }
  std::optional<std::int64_t> expand_id() const { return expand_id_; }
  // diffulex_edge::frame() with the model's tokens.
  void frame(GenerationRequest& request) const { diffulex_edge::frame(request, bos_id_, eos_ids_); }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::vector<std::int64_t> eos_ids_;
  std::optional<std::int64_t> expand_id_;
  std::optional<std::int64_t> bos_id_;
  std::vector<std::string> warnings_;
  std::unique_ptr<const DiffusionEngine> engine_;
};

}  // namespace diffulex_edge
