// A canvas while it is filled in, as text that a page shows.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffusion/text_model.h"

namespace diffulex_edge {

class CanvasPieces {
 public:
  // `model` must outlive this.
  explicit CanvasPieces(const TextModel& model) : model_(model) {}

  // What is written, from left to right: {"text", "new"}, where `new` means since the last call, and {"masks": count}.
  // Characters that have bytes in several tokens are not cut: such pieces count as new together.
  nlohmann::ordered_json take(const GenerationState& state);

 private:
  const TextModel& model_;
  std::vector<bool> was_masked_;  // of the new tokens
};

}  // namespace diffulex_edge
