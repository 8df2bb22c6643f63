// A canvas while it is filled in, as text that a page shows.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffusion/text_model.h"

namespace diffulex_edge {

class CanvasPieces {
 public:
  // `model` must outlive this.
  explicit CanvasPieces(const TextModel& model) : model_(model) {}

  // What is written, from left to right: {"text", "new"}, where `new` means that another token or a mask was there at
  // the last call, and {"masks": count}. Characters that have bytes in several tokens are not cut: such pieces count as
  // new together.
  nlohmann::ordered_json take(const GenerationState& state);

 private:
  std::vector<bool> find_new(const GenerationState& state);

  const TextModel& model_;
  std::vector<std::int64_t> shown_;  // the new tokens at the last call, -1 for masks
};

}  // namespace diffulex_edge
