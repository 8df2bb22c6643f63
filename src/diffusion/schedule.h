// How many tokens each step commits.
#pragma once

#include <cstdint>

namespace diffulex_edge {

// LLaDA, SDAR: `tokens` shared evenly over `steps`, the first steps one more where they don't divide.
std::int64_t even_share(std::int64_t tokens, std::int64_t steps, std::int64_t step);

// Open-dCoder's p2: of `tokens`, how many are masked after a step: floor(tokens * (1 - (step + 1) / steps)), in
// float32, as the published program computes it.
std::int64_t masked_share(std::int64_t tokens, std::int64_t steps, std::int64_t step);

// Dream: with times t_i from 1 to `eps` in even distances, the probability that a masked token is committed in step i
// is 1 - t_{i+1} / t_i; in the last step 1. In float32, as the published program computes it: products of it are cut to
// integers.
float commit_probability(std::int64_t steps, std::int64_t step, double eps);
// Of `masks` tokens: floor(masks * commit_probability()).
std::int64_t time_share(std::int64_t masks, std::int64_t steps, std::int64_t step, double eps);

}  // namespace diffulex_edge
