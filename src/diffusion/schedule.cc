#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

// Point `index` of `count` + 1 from 1 to `eps`: from both ends towards the middle, as torch.linspace does.
float time_of(std::int64_t count, std::int64_t index, float eps) {
  const float distance = (eps - 1.0F) / static_cast<float>(count);
  return index < (count + 1) / 2 ? 1.0F + distance * static_cast<float>(index)
                                 : eps - distance * static_cast<float>(count - index);
}

}  // namespace

std::int64_t even_share(std::int64_t tokens, std::int64_t steps, std::int64_t step) {
  return tokens / steps + (step < tokens % steps ? 1 : 0);
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
