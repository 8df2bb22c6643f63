// The tokenizer and the chat template of a folder: a model's, or a bundle's, whose model somebody else executes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/tokenizer.h"
#include "diffusion/text_stream.h"

namespace diffulex_edge {

// The folder's chat template. Throws Error{kBadFile} where there is none, and what ChatTemplate::find() does.
ChatTemplate required_chat_template(const std::filesystem::path& folder);

// Of a request made of texts: where the canvas grows (DreamOn), its authors put the token that begins a text before the
// prompt and one that ends it behind the suffix.
void frame(GenerationRequest& request, std::optional<std::int64_t> bos_id, const std::vector<std::int64_t>& eos_ids);

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

}  // namespace diffulex_edge
