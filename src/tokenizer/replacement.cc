#include "tokenizer/replacement.h"

#include "tokenizer/bounded_text.h"

namespace diffulex_edge {

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

Replacement::Replacement(const Fields& fields) : content_(fields.text("content")) {
  const Fields pattern = fields.object("pattern");
  if (pattern.has("String") && !pattern.text("String").empty()) {
    literal_ = pattern.text("String");
  } else {
    pattern_.emplace(read_pattern(fields));
  }
}

std::size_t Replacement::bytes_removed_from_start(std::string_view text) const {
  if (!content_.empty() || text.empty()) {
    return 0;
  }
  if (!pattern_) {
    return text.starts_with(literal_) ? literal_.size() : 0;
  }
  const Span first = pattern_->cut(text).front();
  return first.is_match ? first.end : 0;
}

std::string Replacement::apply(std::string_view text, std::size_t limit) const {
  if (!pattern_) {
    return replace_all(text, literal_, content_, limit);
  }
  std::string result;
  for (const Span& span : text.empty() ? std::vector<Span>() : pattern_->cut(text)) {
    append_within(result, span.is_match ? std::string_view(content_) : text.substr(span.begin, span.end - span.begin),
                  limit);
  }
  return result;
}

std::string replace_all(std::string_view text, std::string_view literal, std::string_view content, std::size_t limit) {
  std::string result;
  result.reserve(text.size());
  std::size_t done = 0;
  for (std::size_t found = text.find(literal); found != std::string_view::npos; found = text.find(literal, done)) {
    result += text.substr(done, found - done);
    append_within(result, content, limit);
    done = found + literal.size();
  }
  result += text.substr(done);
  return result;
}

}  // namespace diffulex_edge
