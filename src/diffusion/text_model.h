// A model that writes text: its engine, and its tokenizer where it has one; the latter alone for a model that somebody
// else executes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization_session.h"
#include "diffulex_edge/tokenizer.h"
#include "diffusion/text_stream.h"

namespace diffulex_edge {

// How a folder's model is loaded to write text: without a length in `options`, the longest; their block length is that
// of a block-causal model's blocks, and means nothing to others.
ModelOptions text_model_options(const std::filesystem::path& folder, ModelOptions options);

// The folder's chat template. Throws Error{kBadFile} where there is none, and what ChatTemplate::find() does.
ChatTemplate required_chat_template(const std::filesystem::path& folder);

// The tokenizer of a folder, if there is one.
class TextTokens {
 public:
  // Errors: those of Tokenizer.
  explicit TextTokens(const std::filesystem::path& folder);

  const std::set<std::int64_t>& special_tokens() const { return special_; }
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  // Throws Error{kBadFile} where there is none.
  const Tokenizer& tokenizer() const;
  // A text's ids, with the token that begins a sequence where the tokenizer has one.
  std::vector<std::int64_t> encode_prompt(std::string_view text) const;
  // Read anew. Throws what required_chat_template() does.
  ChatTemplate chat_template() const { return required_chat_template(path_); }
  // The text of tokens that are written: without special tokens, ended by `stops`. Keeps a reference to this.
  TextStream stream(std::vector<std::string> stops) const;

 private:
  std::string path_;
  std::optional<Tokenizer> tokenizer_;
  std::set<std::int64_t> special_;
};

class TextModel : public TextTokens {
 public:
  // Reads and packs the model of a folder, loaded as text_model_options() says and quantized as `request` does once the
  // model is known. `packs`: see PackedModel. Errors: those of load_model(), QuantizationSession and DiffusionEngine.
  TextModel(const std::filesystem::path& folder, ModelOptions options,
            const std::function<QuantizationRequest(const Model&)>& request, const RunControl& control,
            const std::filesystem::path& packs = {});

  const DiffusionEngine& engine() const { return *engine_; }
  const std::vector<std::int64_t>& eos_ids() const { return eos_ids_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::vector<std::int64_t> eos_ids_;
  std::vector<std::string> warnings_;
  std::unique_ptr<const DiffusionEngine> engine_;
};

}  // namespace diffulex_edge
