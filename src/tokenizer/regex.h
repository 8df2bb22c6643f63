// Regular expressions, run by PCRE2. Those of a tokenizer.json are written for Oniguruma, by which Hugging Face runs
// them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

// A part of a text: a match, or what lies between two.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool is_match = false;
};

// Immutable, for any number of threads.
class Regex {
 public:
  // Throws Error{kUnsupported} for a construct that the two libraries read differently or that PCRE2 refuses.
  static Regex from_pattern(const std::string& pattern, const std::string& where);
  // One that is written for PCRE2: `man pcre2pattern`. Classes such as \w and \d are Unicode's.
  static Regex from_pcre2(const std::string& pattern, const std::string& where);
  static Regex from_literal(const std::string& text, const std::string& where);

  // The spans of valid UTF-8, in order and without holes. An empty match gives an empty span, except right behind
  // another match. Throws Error{kUnsupported} where the pattern backtracks without end.
  std::vector<Span> cut(std::string_view text) const;

 private:
  struct Code;
  Regex(const std::string& pattern, std::uint32_t options, const std::string& where);

  std::shared_ptr<const Code> code_;
  std::string where_;
};

}  // namespace diffulex_edge
