// The multiple-choice knapsack problem: one option of each group, least total cost under a limit on total weight.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace diffulex_edge {

struct KnapsackOption {
  double cost = 0.0;
  double weight = 0.0;
};

struct KnapsackSolution {
  std::vector<std::size_t> chosen;  // of each group, in order
  double cost = 0.0;
  double weight = 0.0;
  // No choice within the limit costs less than this. Equal to `cost` where the solution is proven to be the best.
  double lower_bound = 0.0;
};

// Costs and weights are finite and not negative; no group is empty. nullopt where even the lightest options exceed
// `limit`.
//
// Dynamic programming over undominated (weight, cost) pairs, pruned by the Lagrangian bound (Kellerer, Pferschy and
// Pisinger, Knapsack Problems, 2004, chapter 11). Where more than 2^14 pairs survive a group they are thinned out, and
// `lower_bound` is that of the linear relaxation.
std::optional<KnapsackSolution> solve_knapsack(std::span<const std::vector<KnapsackOption>> groups, double limit);

}  // namespace diffulex_edge
