// Text to token ids and back: byte pair encoding, unigram models and WordPiece, from the files of a Hugging Face
// folder.
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

struct TokenizerSource;

// The files of a folder that its tokenizer is read from, the main one first; none where there is no tokenizer. In this
// order: tokenizer.json; vocab.json with merges.txt; tokenizer.model (SentencePiece); vocab.txt (WordPiece). All but
// the first come with tokenizer_config.json, special_tokens_map.json and added_tokens.json, as far as they are there,
// and with config.json where no tokenizer_config.json names the class.
std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& folder);

// Gives the ids of Hugging Face's `tokenizers`. Which components it knows: docs/USER_GUIDE.md. Immutable: one object
// serves any number of threads, copies are cheap. Format: https://huggingface.co/docs/tokenizers
class Tokenizer {
 public:
  // `path` is a folder, or the main file of its tokenizer. Throws Error{kBadFile} for a broken file and
  // Error{kUnsupported}, naming the component, for a well-formed one that needs something else.
  explicit Tokenizer(const std::filesystem::path& path);
  // From what other files say, as src/tokenizer/tokenizer_source.h has it. The same errors.
  explicit Tokenizer(TokenizerSource source);

  // The ids that Hugging Face's `encode(text, add_special_tokens=False)` gives, without truncation or padding; added
  // tokens inside the text are recognized. Throws Error{kInvalidArgument} where `utf8` is not valid UTF-8.
  std::vector<std::int64_t> encode(std::string_view utf8) const;

  // The ids that Hugging Face's `encode(text)` puts before a text's own: a beginning-of-sequence token, or none.
  const std::vector<std::int64_t>& begin_ids() const;

  // The text of all ids, special tokens included; always valid UTF-8: bytes that are not become U+FFFD. Ids without a
  // token give nothing, since models pad their vocabularies.
  std::string decode(std::span<const std::int64_t> ids) const;
  // The beginning of it that stays the same whatever ids follow: without what single bytes at the end
  // may still become.
  std::string decode_settled(std::span<const std::int64_t> ids) const;
  // The same for ids that follow others: a space before the first word, which begins no text, is kept.
  std::string decode_continuation(std::span<const std::int64_t> ids) const;

  // Whether a token marks something, as an end or a mask does, and is no part of the text that people read.
  bool is_special(std::int64_t id) const;
  const std::set<std::int64_t>& special_ids() const;
  std::int64_t vocab_size() const;  // the largest id + 1, added tokens included
  // A token as it is spelled in the file: " the" is "Ġthe" or "▁the".
  std::optional<std::int64_t> id_of(std::string_view token) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace diffulex_edge
