#include "chat/limits.h"

#include "chat/failure.h"

namespace diffulex_edge::chat {

void check_text(std::size_t bytes) {
  if (bytes > kMaxText) {
    throw Failure("a text would have more than " + std::to_string(kMaxText) + " bytes");
  }
}

void check_items(std::size_t count) {
  if (count > kMaxItems) {
    throw Failure("a list would have more than " + std::to_string(kMaxItems) + " items");
  }
}

void Budget::take(std::uint64_t steps) {
  if (steps > left_) {
    left_ = 0;
    throw Failure("rendering takes more than " + std::to_string(kMaxSteps) + " steps");
  }
  left_ -= steps;
}

void append(std::string& text, std::string_view piece) {
  check_text(text.size() + piece.size());
  text += piece;
}

}  // namespace diffulex_edge::chat
