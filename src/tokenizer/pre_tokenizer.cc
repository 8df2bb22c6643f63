#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "tokenizer/bounded_text.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/regex.h"
#include "tokenizer/replacement.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

// What happens to a match and to the text around it.
enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

// GPT-2's pattern (Radford et al. 2019, released code): contractions, words, numbers, the rest, spaces.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Behavior read_behavior(const Fields& fields) {
  const std::string& name = fields.text("behavior");
  if (name == "Isolated") {
    return Behavior::kIsolated;
  }
  if (name == "Removed") {
    return Behavior::kRemoved;
  }
  if (name == "MergedWithPrevious") {
    return Behavior::kMergedWithPrevious;
  }
  if (name == "MergedWithNext") {
    return Behavior::kMergedWithNext;
  }
  if (name == "Contiguous") {
    return Behavior::kContiguous;
  }
  fields.fail_unsupported("the behavior '" + name + "' is not supported");
}

// Joins a span to the one before it where `joins(is_match, previous_is_match)`.
template <typename Joins>
std::vector<Span> merge(const std::vector<Span>& spans, Joins joins) {
  std::vector<Span> merged;
  bool previous_is_match = false;
  for (const Span& span : spans) {
    if (!merged.empty() && joins(span.is_match, previous_is_match)) {
      merged.back().begin = std::min(merged.back().begin, span.begin);
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
    previous_is_match = span.is_match;
  }
  return merged;
}

std::vector<Span> apply(Behavior behavior, std::vector<Span> spans) {
  const auto first_match = [](bool is_match, bool previous_is_match) { return is_match && !previous_is_match; };
  switch (behavior) {
    case Behavior::kIsolated:
      break;
    case Behavior::kRemoved:
      std::erase_if(spans, [](const Span& span) { return span.is_match; });
      break;
    case Behavior::kMergedWithPrevious:
      return merge(spans, first_match);
    case Behavior::kMergedWithNext:
      std::ranges::reverse(spans);
      spans = merge(spans, first_match);
      std::ranges::reverse(spans);
      break;
    case Behavior::kContiguous:
      return merge(spans, [](bool is_match, bool previous_is_match) { return is_match == previous_is_match; });
  }
  return spans;
}

// The spans of a text, matches and what lies between them, in order and without holes.
using Cutter = std::function<std::vector<Span>(std::string_view text)>;

auto splitter(Cutter cutter, Behavior behavior, bool invert = false) {
  return [cutter = std::move(cutter), behavior, invert](const auto& piece, auto& pieces) {
    std::vector<Span> spans = cutter(piece.text);
    if (invert) {
      for (Span& span : spans) {
        span.is_match = !span.is_match;
      }
    }
    for (const Span& span : apply(behavior, std::move(spans))) {
      if (span.begin < span.end) {
        pieces.push_back({.text = piece.text.substr(span.begin, span.end - span.begin),
                          .begins_input = piece.begins_input && span.begin == 0});
      }
    }
  };
}

Cutter matches_of(Regex regex) {
  return [regex = std::move(regex)](std::string_view text) { return regex.cut(text); };
}

// A match for each character of a kind.
Cutter each_of(std::function<bool(char32_t)> is_of_kind) {
  return [is_of_kind = std::move(is_of_kind)](std::string_view text) {
    std::vector<Span> spans;
    bool is_open = false;  // the last span is no match, and goes on
    for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
      length = character_length(text[i]);
      const bool is_match = is_of_kind(character_at(text, i));
      if (is_open && !is_match) {
        spans.back().end = i + length;
      } else {
        spans.push_back({i, i + length, is_match});
      }
      is_open = !is_match;
    }
    return spans;
  };
}

// Runs of word characters and runs of others are no matches, white space is.
std::vector<Span> words_and_spaces(std::string_view text) {
  enum class Kind { kWhite, kLetter, kOther };
  std::vector<Span> spans;
  std::optional<Kind> last;
  for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
    length = character_length(text[i]);
    const char32_t character = character_at(text, i);
    Kind kind = is_word_character(character) ? Kind::kLetter : Kind::kOther;
    kind = is_white_space(character) ? Kind::kWhite : kind;
    if (kind == last) {
      spans.back().end = i + length;
    } else {
      spans.push_back({i, i + length, kind == Kind::kWhite});
    }
    last = kind;
  }
  return spans;
}

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json& value, const std::string& where) {
  if (!value.is_null()) {
    add(value, where);
  }
}

void PreTokenizer::add(const nlohmann::json& value, const std::string& where) {
  const Fields fields(value, where);
  if (steps_.size() > kMaxSteps) {
    fields.fail("it has more than " + std::to_string(kMaxSteps) + " steps");
  }
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    for (const nlohmann::json& member : fields.list("pretokenizers")) {
      add(member, where);
    }
  } else if (type == "ByteLevel") {
    add_byte_level(fields);
  } else if (type == "Metaspace") {
    add_metaspace(fields);
  } else if (type == "Split") {
    steps_.emplace_back(
        splitter(matches_of(read_pattern(fields)), read_behavior(fields), fields.flag("invert", false)));
  } else if (type == "Digits") {
    const bool individual = fields.flag("individual_digits", false);
    steps_.emplace_back(splitter(matches_of(Regex::from_pattern(R"(\p{N})", where)),
                                 individual ? Behavior::kIsolated : Behavior::kContiguous));
  } else if (type == "Whitespace") {
    steps_.emplace_back(splitter(words_and_spaces, Behavior::kRemoved));
  } else if (type == "WhitespaceSplit") {
    steps_.emplace_back(splitter(each_of(is_white_space), Behavior::kRemoved));
  } else if (type == "Punctuation") {
    const Behavior behavior = fields.has("behavior") ? read_behavior(fields) : Behavior::kIsolated;
    steps_.emplace_back(splitter(each_of(is_punctuation), behavior));
  } else if (type == "BertPreTokenizer") {
    steps_.emplace_back(splitter(each_of(is_white_space), Behavior::kRemoved));
    steps_.emplace_back(splitter(each_of(is_punctuation), Behavior::kIsolated));
  } else if (type == "CharDelimiterSplit") {
    const char32_t delimiter = character_at(read_character(fields, "delimiter"), 0);
    const auto is_delimiter = [delimiter](char32_t character) { return character == delimiter; };
    steps_.emplace_back(splitter(each_of(is_delimiter), Behavior::kRemoved));
  } else {
    fields.fail_unsupported("the pre-tokenizer '" + type +
                            "' is not supported; supported are ByteLevel, Metaspace, Split, Digits, Whitespace, "
                            "WhitespaceSplit, Punctuation, BertPreTokenizer, CharDelimiterSplit and Sequence");
  }
}

void PreTokenizer::add_byte_level(const Fields& fields) {
  if (fields.flag("add_prefix_space", true)) {
    steps_.emplace_back([](const Piece& piece, std::vector<Piece>& pieces) {
      pieces.push_back({piece.text.starts_with(' ') ? piece.text : " " + piece.text, piece.begins_input});
    });
  }
  if (fields.flag("use_regex", true)) {
    steps_.emplace_back(splitter(matches_of(Regex::from_pattern(kGpt2Pattern, fields.where())), Behavior::kIsolated));
  }
  steps_.emplace_back([](const Piece& piece, std::vector<Piece>& pieces) {
    pieces.push_back({to_byte_characters(piece.text), piece.begins_input});
  });
}

void PreTokenizer::add_metaspace(const Fields& fields) {
  const std::string replacement = read_character(fields, "replacement");
  const MetaspacePrefix prefix = read_metaspace_prefix(fields);
  steps_.emplace_back([replacement, prefix](const Piece& piece, std::vector<Piece>& pieces) {
    std::string text = replace_all(piece.text, " ", replacement, longest_result(piece.text.size()));
    const bool is_place =
        prefix == MetaspacePrefix::kAlways || (prefix == MetaspacePrefix::kFirst && piece.begins_input);
    const bool is_added = is_place && !text.starts_with(replacement);
    pieces.push_back({is_added ? replacement + text : std::move(text), piece.begins_input});
  });
  if (fields.flag("split", true)) {
    steps_.emplace_back(
        splitter(matches_of(Regex::from_literal(replacement, fields.where())), Behavior::kMergedWithNext));
  }
}

std::vector<std::string> PreTokenizer::cut(std::string_view text, bool begins_input) const {
  std::vector<Piece> pieces;
  if (!text.empty()) {
    pieces.push_back({std::string(text), begins_input});
  }
  const std::size_t limit = longest_result(text.size());
  for (const Step& step : steps_) {
    std::vector<Piece> next;
    std::size_t bytes = 0;
    for (const Piece& piece : pieces) {
      const std::size_t before = next.size();
      step(piece, next);
      for (std::size_t i = before; i < next.size(); ++i) {
        bytes += next[i].text.size();
      }
      check_length(bytes, limit);
    }
    pieces = std::move(next);
  }
  std::vector<std::string> texts;
  texts.reserve(pieces.size());
  for (Piece& piece : pieces) {
    texts.push_back(std::move(piece.text));
  }
  return texts;
}

}  // namespace diffulex_edge
