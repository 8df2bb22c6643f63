#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/fields.h"
#include "tokenizer/regex.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxSteps = 64;  // each costs time for every text

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

auto splitter(Regex regex, Behavior behavior, bool invert) {
  return [regex = std::move(regex), behavior, invert](const std::string& piece, std::vector<std::string>& pieces) {
    std::vector<Span> spans = regex.cut(piece);
    if (invert) {
      for (Span& span : spans) {
        span.is_match = !span.is_match;
      }
    }
    for (const Span& span : apply(behavior, std::move(spans))) {
      if (span.begin < span.end) {
        pieces.push_back(piece.substr(span.begin, span.end - span.begin));
      }
    }
  };
}

Regex read_pattern(const Fields& fields) {
  const Fields pattern = fields.object("pattern");
  if (pattern.has("String")) {
    if (pattern.text("String").empty()) {
      pattern.fail_unsupported("an empty string is not supported");
    }
    return Regex::from_literal(pattern.text("String"), pattern.where());
  }
  return Regex::from_pattern(pattern.text("Regex"), pattern.where());
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
    if (fields.flag("add_prefix_space", true)) {
      steps_.emplace_back([](const std::string& piece, std::vector<std::string>& pieces) {
        pieces.push_back(piece.starts_with(' ') ? piece : " " + piece);
      });
    }
    if (fields.flag("use_regex", true)) {
      steps_.emplace_back(splitter(Regex::from_pattern(kGpt2Pattern, where), Behavior::kIsolated, false));
    }
    steps_.emplace_back([](const std::string& piece, std::vector<std::string>& pieces) {
      pieces.push_back(to_byte_characters(piece));
    });
  } else if (type == "Split") {
    steps_.emplace_back(splitter(read_pattern(fields), read_behavior(fields), fields.flag("invert", false)));
  } else if (type == "Digits") {
    const bool individual = fields.flag("individual_digits", false);
    steps_.emplace_back(splitter(Regex::from_pattern(R"(\p{N})", where),
                                 individual ? Behavior::kIsolated : Behavior::kContiguous, false));
  } else {
    fields.fail_unsupported("the pre-tokenizer '" + type +
                            "' is not supported; supported are ByteLevel, Split, Digits and Sequence");
  }
}

std::vector<std::string> PreTokenizer::cut(std::string_view text) const {
  std::vector<std::string> pieces;
  if (!text.empty()) {
    pieces.emplace_back(text);
  }
  for (const Step& step : steps_) {
    std::vector<std::string> next;
    for (const std::string& piece : pieces) {
      step(piece, next);
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace diffulex_edge
