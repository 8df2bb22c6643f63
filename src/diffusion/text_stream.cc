#include "diffusion/text_stream.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace diffulex_edge {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD, which decoding gives for half a character

// Where the text ends that no later byte changes.
std::size_t whole_characters(std::string_view text) {
  constexpr int kMostOfOneCharacter = 3;
  for (int i = 0; i < kMostOfOneCharacter && text.ends_with(kReplacement); ++i) {
    text.remove_suffix(kReplacement.size());
  }
  return text.size();
}

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

std::string TextStream::give(std::size_t end) {
  std::string text = all_.substr(given_.size(), end - std::min(end, given_.size()));
  given_ += text;
  return text;
}

std::string TextStream::take(std::span<const std::int64_t> tokens) {
  if (is_stopped_) {
    return {};
  }
  std::vector<std::int64_t> shown;
  std::ranges::copy_if(tokens, std::back_inserter(shown), [&](std::int64_t id) { return !hidden_.contains(id); });
  all_ = tokenizer_.decode(shown);
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    end = std::min(end, all_.find(stop));
  }
  if (end != std::string::npos) {
    is_stopped_ = true;
    return give(end);
  }
  end = whole_characters(all_);
  std::size_t held = 0;
  for (const std::string& stop : stops_) {
    held = std::max(held, overlap(std::string_view(all_).substr(0, end), stop));
  }
  return give(end - held);
}

std::string TextStream::finish() { return is_stopped_ ? std::string() : give(all_.size()); }

}  // namespace diffulex_edge
