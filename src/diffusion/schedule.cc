#include "diffusion/schedule.h"

#include <algorithm>

namespace diffulex_edge {
namespace {

// Point `index` of `steps` + 1 from 1 to `last`: from both ends towards the middle, as torch.linspace does.
float time_of(std::int64_t steps, std::int64_t index, float last) {
  const float distance = (last - 1.0F) / static_cast<float>(steps);
  return index < (steps + 1) / 2 ? 1.0F + distance * static_cast<float>(index)
                                 : last - distance * static_cast<float>(steps - index);
}

}  // namespace

std::int64_t even_share(std::int64_t tokens, std::int64_t steps, std::int64_t step) {
  return tokens / steps + (step < tokens % steps ? 1 : 0);
}

std::int64_t masked_share(std::int64_t tokens, std::int64_t steps, std::int64_t step) {
  const double masked = 1.0 - static_cast<double>(std::min(step + 1, steps)) / static_cast<double>(steps);
  return static_cast<std::int64_t>(static_cast<float>(tokens) * static_cast<float>(masked));
}

float commit_probability(std::int64_t steps, std::int64_t step, double eps) {
  if (step >= steps - 1) {
    return 1.0F;
  }
  const auto last = static_cast<float>(eps);
  return 1.0F - time_of(steps, step + 1, last) / time_of(steps, step, last);
}

std::int64_t time_share(std::int64_t masks, std::int64_t steps, std::int64_t step, double eps) {
  return static_cast<std::int64_t>(static_cast<float>(masks) * commit_probability(steps, step, eps));
}

}  // namespace diffulex_edge
