// Text of tokens that come one after another, never cut inside a character.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge {

class TextStream {
 public:
  // Keeps a reference to `tokenizer`. `hidden` tokens give no text. Text ends before the first of `stops`, none of them
  // empty.
  TextStream(const Tokenizer& tokenizer, std::set<std::int64_t> hidden, std::vector<std::string> stops);

  // All tokens so far, those of the last call among them. The text that is new and final: what may still become part of
  // a character or of a stop text is held back.
  std::string take(std::span<const std::int64_t> tokens);
  // What was held back.
  std::string finish();

  bool is_stopped() const { return is_stopped_; }
  const std::string& text() const { return given_; }

 private:
  std::string give(std::string_view text);

  const Tokenizer& tokenizer_;
  std::set<std::int64_t> hidden_;
  std::vector<std::string> stops_;
  std::vector<std::int64_t> shown_;  // tokens that give text
  std::string settled_;              // of them, what no later token changes
  std::string given_;                // a beginning of it
  bool is_stopped_ = false;
};

}  // namespace diffulex_edge
