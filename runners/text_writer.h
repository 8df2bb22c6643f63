// A bundle that was opened, and writes text.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "bundle/bundle.h"
#include "diffulex_edge/generation.h"
#include "diffusion/text_tokens.h"
#include "step_model.h"

namespace diffulex_edge::runner {

struct TextRequest {
  std::string prompt;
  bool is_chat = false;  // the prompt is a message, to be answered by the model's chat template
  DiffusionGenerationConfig config;
};

struct WrittenText {
  std::string text;
  GenerationResult result;
};

class TextWriter {
 public:
  using Open = std::function<std::unique_ptr<StepModel>(const Bundle& bundle)>;

  // `trusts_files`: does not hash them, as where an app did it once. Throws Error for a bundle that is none, is of
  // another version or damaged, and for an artefact that contradicts it; and what `open` does.
  TextWriter(const std::filesystem::path& folder, bool trusts_files, const Open& open);

  const Bundle& bundle() const { return bundle_; }
  // The bundle's own settings.
  DiffusionGenerationConfig config() const;
  // Calls `give` with each new piece, none of which ends inside a character; false ends the text. Errors: those of
  // generate(), of the tokenizer and the chat template.
  WrittenText write(const TextRequest& request, const std::function<bool(std::string_view)>& give);

 private:
  std::vector<std::int64_t> tokens_of(const TextRequest& request) const;

  Bundle bundle_;
  TextTokens tokens_;
  std::unique_ptr<StepModel> model_;
};

}  // namespace diffulex_edge::runner
