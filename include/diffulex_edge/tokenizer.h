// Text to token ids and back: byte-level BPE from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

// Reads what LLaDA, Dream, SDAR, Fast-dLLM v2, Qwen, Llama 3 and SmolLM2 use: BPE with ByteLevel, Split and Digits
// pre-tokenizers and the Unicode normal forms. Immutable: one object serves any number of threads, copies are cheap.
// Format: https://huggingface.co/docs/tokenizers
class Tokenizer {
 public:
  // `path` is a tokenizer.json or the folder that holds one. Throws Error{kBadFile} for a broken file and
  // Error{kUnsupported}, naming the component, for a well-formed one that needs something else.
  explicit Tokenizer(const std::filesystem::path& path);

  // The ids that Hugging Face's `encode(text, add_special_tokens=False)` gives, without truncation or padding; added
  // tokens inside the text are recognized. Throws Error{kInvalidArgument} where `utf8` is not valid UTF-8.
  std::vector<std::int64_t> encode(std::string_view utf8) const;

  // The ids that Hugging Face's `encode(text)` puts before a text's own: a beginning-of-sequence token, or none.
  const std::vector<std::int64_t>& begin_ids() const;

  // The text of all ids, special tokens included; always valid UTF-8: bytes that are not become U+FFFD. Ids without a
  // token give nothing, since models pad their vocabularies.
  std::string decode(std::span<const std::int64_t> ids) const;

  // Whether a token marks something, as an end or a mask does, and is no part of the text that people read.
  bool is_special(std::int64_t id) const;
  const std::set<std::int64_t>& special_ids() const;
  std::int64_t vocab_size() const;  // the largest id + 1, added tokens included
  // A token as it is spelled in the file: " the" is "Ġthe".
  std::optional<std::int64_t> id_of(std::string_view token) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace diffulex_edge
