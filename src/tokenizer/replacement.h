// "Replace", which normalizers and decoders have: one text in place of each match of another, or of a pattern.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/fields.h"
#include "tokenizer/regex.h"

namespace diffulex_edge {

// The "pattern" of a component: {"String": ...} or {"Regex": ...}. Throws Error{kBadFile} and Error{kUnsupported}.
Regex read_pattern(const Fields& fields);

class Replacement {
 public:
  explicit Replacement(const Fields& fields);

  // How much of what `text` begins with is replaced by nothing.
  std::size_t bytes_removed_from_start(std::string_view text) const;

  // Throws what append_within() does.
  std::string apply(std::string_view text, std::size_t limit) const;

 private:
  std::string literal_;  // what is looked for, unless there is a pattern
  std::optional<Regex> pattern_;
  std::string content_;
};

// `text` with `content` in place of each `literal`, which is not empty. Throws what append_within() does.
std::string replace_all(std::string_view text, std::string_view literal, std::string_view content, std::size_t limit);

}  // namespace diffulex_edge
