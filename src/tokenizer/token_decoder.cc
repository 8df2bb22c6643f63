#include "tokenizer/token_decoder.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "tokenizer/bounded_text.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/byte_tokens.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/replacement.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::string joined(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) {
    text += token;
  }
  return text;
}

void decode_byte_level(std::vector<std::string>& tokens, TokenDecoder::Part part) {
  std::string bytes;
  for (const std::string& token : tokens) {
    bytes += from_byte_characters(token).value_or(token);
  }
  if (!part.is_end) {
    bytes.resize(bytes.size() - unfinished_bytes(bytes));
  }
  tokens = {replace_invalid_utf8(bytes)};
}

// Tokens of bytes that stand side by side are text together, or none of them is.
void decode_byte_fallback(std::vector<std::string>& tokens, TokenDecoder::Part part) {
  std::vector<std::string> texts;
  std::string bytes;
  const auto close_run = [&] {
    if (invalid_utf8(bytes)) {
      texts.insert(texts.end(), bytes.size(), std::string(kReplacement));
    } else if (!bytes.empty()) {
      texts.push_back(bytes);
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const std::optional<std::uint8_t> byte = byte_of_token(token)) {
      bytes += static_cast<char>(*byte);
    } else {
      close_run();
      texts.push_back(std::move(token));
    }
  }
  if (part.is_end) {
    close_run();
  }
  tokens = std::move(texts);
}

// What WordPiece's decoder writes without the space before it, token by token.
std::string cleaned_up(std::string text, std::size_t limit) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kShorter = {{{" .", "."},
                                                                                       {" ?", "?"},
                                                                                       {" !", "!"},
                                                                                       {" ,", ","},
                                                                                       {" ' ", "'"},
                                                                                       {" n't", "n't"},
                                                                                       {" 'm", "'m"},
                                                                                       {" do not", " don't"},
                                                                                       {" 's", "'s"},
                                                                                       {" 've", "'ve"},
                                                                                       {" 're", "'re"}}};
  for (const auto& [longer, shorter] : kShorter) {
    text = replace_all(text, longer, shorter, limit);
  }
  return text;
}

auto word_piece_step(const Fields& fields) {
  const std::string prefix = fields.text_or("prefix", "##");
  const bool cleans_up = fields.flag("cleanup", true);
  return [prefix, cleans_up](std::vector<std::string>& tokens, TokenDecoder::Part part, std::size_t limit) {
    bool is_first = part.is_start;
    for (std::string& token : tokens) {
      if (!is_first) {
        if (token.starts_with(prefix)) {
          token.erase(0, prefix.size());
        } else {
          token.insert(0, " ");
        }
      }
      is_first = false;
      token = cleans_up ? cleaned_up(std::move(token), limit) : std::move(token);
    }
  };
}

auto metaspace_step(const Fields& fields) {
  const std::string replacement = read_character(fields, "replacement");
  const bool has_prefix = read_metaspace_prefix(fields) != MetaspacePrefix::kNever;
  return [replacement, has_prefix](std::vector<std::string>& tokens, TokenDecoder::Part part, std::size_t limit) {
    bool is_first = part.is_start && has_prefix;
    for (std::string& token : tokens) {
      token = replace_all(token, replacement, is_first ? "" : " ", limit);
      is_first = false;
    }
  };
}

auto suffix_step(const Fields& fields) {
  const std::string suffix = fields.text_or("suffix", "</w>");
  if (suffix.empty()) {
    fields.fail_unsupported("an empty 'suffix' is not supported");
  }
  return [suffix](std::vector<std::string>& tokens, TokenDecoder::Part /*part*/, std::size_t limit) {
    for (std::string& token : tokens) {
      token = replace_all(token, suffix, &token == &tokens.back() ? "" : " ", limit);
    }
  };
}

std::uint64_t read_count(const Fields& fields, const char* key) {
  const nlohmann::json& value = fields.require(key);
  if (!value.is_number_integer() || value < 0) {
    fields.fail("'" + std::string(key) + "' is " + value.dump() + ", which is no number of characters");
  }
  return value.get<std::uint64_t>();
}

std::string strip_characters(std::string_view text, const std::string& content, std::uint64_t start,
                             std::uint64_t stop) {
  for (; start > 0 && text.starts_with(content); --start) {
    text.remove_prefix(content.size());
  }
  for (; stop > 0 && text.ends_with(content); --stop) {
    text.remove_suffix(content.size());
  }
  return std::string(text);
}

}  // namespace

TokenDecoder::TokenDecoder(const nlohmann::json& value, const std::string& where) {
  if (!value.is_null()) {
    add(value, where);
    return;
  }
  steps_.emplace_back([](std::vector<std::string>& tokens, Part part, std::size_t /*limit*/) {
    for (std::string& token : tokens) {
      if (&token != tokens.data() || !part.is_start) {
        token.insert(0, " ");
      }
    }
  });
}

void TokenDecoder::add(const nlohmann::json& value, const std::string& where) {
  const Fields fields(value, where);
  if (steps_.size() > kMaxSteps) {
    fields.fail("it has more than " + std::to_string(kMaxSteps) + " steps");
  }
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    for (const nlohmann::json& member : fields.list("decoders")) {
      add(member, where);
    }
  } else if (type == "ByteLevel") {
    steps_.emplace_back([](auto& tokens, Part part, std::size_t /*limit*/) { decode_byte_level(tokens, part); });
    is_fused_ = true;
  } else if (type == "ByteFallback") {
    steps_.emplace_back([](auto& tokens, Part part, std::size_t /*limit*/) { decode_byte_fallback(tokens, part); });
  } else if (type == "Fuse") {
    steps_.emplace_back([](auto& tokens, Part /*part*/, std::size_t /*limit*/) { tokens = {joined(tokens)}; });
    is_fused_ = true;
  } else if (type == "Metaspace") {
    steps_.emplace_back(metaspace_step(fields));
  } else if (type == "WordPiece") {
    steps_.emplace_back(word_piece_step(fields));
  } else if (type == "BPEDecoder") {
    steps_.emplace_back(suffix_step(fields));
  } else if (type == "Replace") {
    steps_.emplace_back([replacement = Replacement(fields)](auto& tokens, Part /*part*/, std::size_t limit) {
      for (std::string& token : tokens) {
        token = replacement.apply(token, limit);
      }
    });
  } else if (type == "Strip") {
    add_strip(fields);
  } else {
    fields.fail_unsupported("the decoder '" + type +
                            "' is not supported; supported are ByteLevel, ByteFallback, Fuse, Metaspace, WordPiece, "
                            "BPEDecoder, Replace, Strip and Sequence");
  }
}

// Of tokens that were put together, what is at the beginning belongs to the first one of the whole text.
void TokenDecoder::add_strip(const Fields& fields) {
  const std::string content = read_character(fields, "content");
  const std::uint64_t start = read_count(fields, "start");
  const std::uint64_t stop = read_count(fields, "stop");
  steps_.emplace_back([=, is_fused = is_fused_](auto& tokens, Part part, std::size_t /*limit*/) {
    const bool keeps_start = is_fused && !part.is_start;
    for (std::string& token : tokens) {
      token = strip_characters(token, content, keeps_start ? 0 : start, stop);
    }
  });
}

std::string TokenDecoder::decode(std::vector<std::string> tokens, Part part) const {
  std::size_t bytes = 0;
  for (const std::string& token : tokens) {
    bytes += token.size();
  }
  const std::size_t limit = longest_result(bytes);
  for (const Step& step : steps_) {
    step(tokens, part, limit);
    std::size_t length = 0;
    for (const std::string& token : tokens) {
      length += token.size();
    }
    check_length(length, limit);
  }
  return joined(tokens);
}

}  // namespace diffulex_edge
