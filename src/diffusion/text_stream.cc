#include "diffusion/text_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace diffulex_edge {
namespace {

// The longest end of `text` that `stop` begins with.
std::size_t overlap(std::string_view text, std::string_view stop) {
  std::size_t length = std::min(text.size(), stop.size() - 1);
  while (!text.ends_with(stop.substr(0, length))) {
    --length;
  }
  return length;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::set<std::int64_t> hidden, std::vector<std::string> stops)
    : tokenizer_(tokenizer), hidden_(std::move(hidden)), stops_(std::move(stops)) {}

// All of `text` that was not given.
std::string TextStream::give(std::string_view text) {
  std::string more(text.substr(std::min(given_.size(), text.size())));
  given_ += more;
  return more;
}

std::string TextStream::take(std::span<const std::int64_t> tokens) {
  if (is_stopped_) {
    return {};
  }
  shown_.clear();
  std::ranges::copy_if(tokens, std::back_inserter(shown_), [&](std::int64_t id) { return !hidden_.contains(id); });
  settled_ = tokenizer_.decode_settled(shown_);
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    end = std::min(end, settled_.find(stop));
  }
  if (end != std::string::npos) {
    is_stopped_ = true;
    return give(std::string_view(settled_).substr(0, end));
  }
  std::size_t held = 0;
  for (const std::string& stop : stops_) {
    held = std::max(held, overlap(settled_, stop));
  }
  return give(std::string_view(settled_).substr(0, settled_.size() - held));
}

std::string TextStream::finish() { return is_stopped_ ? std::string() : give(tokenizer_.decode(shown_)); }

}  // namespace diffulex_edge
