// Lists as text.
#pragma once

#include <concepts>
#include <functional>
#include <iterator>
#include <ranges>
#include <string>
#include <string_view>

namespace diffulex_edge {

// The words with `separator` between them, and `last` before the last one: "a, b or c". `text_of` makes a string, or a
// view of one, of each element.
template <std::ranges::forward_range Words, typename Text = std::identity>
  requires std::invocable<Text&, std::ranges::range_reference_t<const Words>>
std::string join(const Words& words, std::string_view separator, std::string_view last, Text text_of = {}) {
  std::string text;
  const auto end = std::ranges::end(words);
  for (auto word = std::ranges::begin(words); word != end;) {
    text += std::invoke(text_of, *word);
    if (++word != end) {
      text += std::next(word) == end ? last : separator;
    }
  }
  return text;
}

// "a, b, c"
template <std::ranges::forward_range Words, typename Text = std::identity>
  requires std::invocable<Text&, std::ranges::range_reference_t<const Words>>
std::string join(const Words& words, std::string_view separator, Text text_of = {}) {
  return join(words, separator, separator, text_of);
}

}  // namespace diffulex_edge
