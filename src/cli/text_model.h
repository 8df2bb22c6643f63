// A model that writes text: its engine, and its tokenizer where it has one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"
#include "cli/runtime_arguments.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/tokenizer.h"
#include "diffusion/text_stream.h"

namespace diffulex_edge::cli {

class TextModel {
 public:
  // Reads and packs the model. `block_length`: of a block-causal model's blocks. Throws Error.
  TextModel(const ModelArguments& model, const RuntimeArguments& runtime, std::optional<std::int64_t> block_length,
            const RunControl& control);

  const DiffusionEngine& engine() const { return *engine_; }
  const std::vector<std::int64_t>& eos_ids() const { return eos_ids_; }
  const std::set<std::int64_t>& special_tokens() const { return special_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  // Throws Error{kBadFile} where there is none.
  const Tokenizer& tokenizer() const;
  // A text's ids, with the token that begins a sequence where the tokenizer has one.
  std::vector<std::int64_t> encode_prompt(std::string_view text) const;
  // The text of tokens that are written: without special tokens, ended by `stops`.
  TextStream stream(std::vector<std::string> stops) const;

 private:
  std::string path_;
  std::optional<Tokenizer> tokenizer_;
  std::set<std::int64_t> special_;
  std::vector<std::int64_t> eos_ids_;
  std::vector<std::string> warnings_;
  std::unique_ptr<DiffusionEngine> engine_;
};

// What --block-length is for a model: of its own blocks (block-causal models), or only of decoding.
ModelOptions text_model_options(const ModelArguments& model, std::optional<std::int64_t> block_length);

}  // namespace diffulex_edge::cli
