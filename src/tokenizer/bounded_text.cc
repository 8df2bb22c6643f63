#include "tokenizer/bounded_text.h"

#include "diffulex_edge/error.h"

namespace diffulex_edge {

std::size_t longest_result(std::size_t bytes) {
  constexpr std::size_t kAlways = std::size_t{1} << 20U;
  constexpr std::size_t kTimes = 32;  // a ligature's letters are eleven times as long
  return kAlways + kTimes * bytes;
}

void check_length(std::size_t bytes, std::size_t limit) {
  if (bytes > limit) {
    throw Error(
        ErrorCode::kUnsupported, "tokenizer",
        "its steps make more than " + std::to_string(limit) + " bytes of a text, which none of the known ones does");
  }
}

void append_within(std::string& text, std::string_view more, std::size_t limit) {
  check_length(text.size() + more.size(), limit);
  text += more;
}

}  // namespace diffulex_edge
