// Shows a canvas in a terminal while it is written, in place.
#pragma once

#include <cstddef>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge::cli {

class CanvasView {
 public:
  // Keeps a reference to `tokenizer`. Error{kInvalidArgument} where stdout is no terminal.
  explicit CanvasView(const Tokenizer& tokenizer);

  // Draws the new tokens over what was drawn before.
  void show(const GenerationState& state);
  // Removes what was drawn.
  void clear();

 private:
  const Tokenizer& tokenizer_;
  std::size_t lines_ = 0;  // drawn above the cursor
};

}  // namespace diffulex_edge::cli
