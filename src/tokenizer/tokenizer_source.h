// What a tokenizer is made of, whichever files it was read from: a Tokenizer is constructed from this.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace diffulex_edge {

// Byte pair encoding. The first merge comes first.
struct BpeSource {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  std::optional<std::string> unknown_token;  // none: characters that are no tokens are dropped
  std::string continuing_prefix;             // of every character of a piece but the first
  std::string end_suffix;                    // of a piece's last character
  bool fuses_unknown = false;                // one unknown token for several characters in a row
  bool has_byte_fallback = false;            // an unknown character becomes "<0xE2>" and so on, if these are tokens
  bool ignores_merges = false;               // a piece that is a token is taken as it is
};

// A unigram language model: the token's position is its id.
struct UnigramSource {
  struct Token {
    std::string text;
    double score = 0.0;  // logarithm of its probability
  };
  std::vector<Token> tokens;
  std::optional<std::size_t> unknown_id;
  bool has_byte_fallback = false;
};

// The longest token first; those inside a word have a prefix.
struct WordPieceSource {
  Vocabulary vocabulary;
  std::string unknown_token = "[UNK]";
  std::string continuing_prefix = "##";
  std::uint64_t max_word_characters = 100;  // longer words are unknown
};

struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool single_word = false;  // not next to a word character
  bool lstrip = false;       // takes the spaces before it
  bool rstrip = false;       // takes the spaces behind it
  bool normalized = false;   // looked for in normalized text
  bool special = false;      // no part of what people read
};

struct TokenizerSource {
  std::string where;  // the file, for messages
  std::variant<BpeSource, UnigramSource, WordPieceSource> model;
  // By rising id. Ids are the vocabulary's for tokens in it, else the next free ones, as Hugging Face's reader gives.
  std::vector<AddedToken> added_tokens;
  // As a tokenizer.json has them; null: none.
  nlohmann::json normalizer;
  nlohmann::json pre_tokenizer;
  nlohmann::json decoder;
  std::vector<std::int64_t> begin_ids;  // what stands before each text
};

}  // namespace diffulex_edge
