#include "quant/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace diffulex_edge {
namespace {

using Groups = std::vector<std::vector<KnapsackOption>>;

// By trying every choice.
double least_cost(const Groups& groups, double limit, std::size_t group = 0) {
  if (limit < 0.0) {
    return std::numeric_limits<double>::infinity();
  }
  if (group == groups.size()) {
    return 0.0;
  }
  double best = std::numeric_limits<double>::infinity();
  for (const KnapsackOption& option : groups[group]) {
    best = std::min(best, option.cost + least_cost(groups, limit - option.weight, group + 1));
  }
  return best;
}

Groups random_groups(std::mt19937& random, std::size_t count, std::size_t options, int most_weight) {
  std::uniform_int_distribution<int> weight(1, most_weight);
  std::uniform_int_distribution<int> cost(0, 1000);
  Groups groups(count);
  for (auto& group : groups) {
    for (std::size_t i = 0; i < options; ++i) {
      group.push_back({.cost = cost(random) / 8.0, .weight = static_cast<double>(weight(random))});
    }
  }
  return groups;
}

void expect_consistent(const Groups& groups, const KnapsackSolution& solution, double limit) {
  ASSERT_EQ(solution.chosen.size(), groups.size());
  double cost = 0.0;
  double weight = 0.0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    cost += groups[i][solution.chosen[i]].cost;
    weight += groups[i][solution.chosen[i]].weight;
  }
  EXPECT_NEAR(cost, solution.cost, 1e-6 * (1.0 + cost));
  EXPECT_NEAR(weight, solution.weight, 1e-9 * (1.0 + weight));
  EXPECT_LE(weight, limit);
  EXPECT_LE(solution.lower_bound, solution.cost + 1e-9);
}

TEST(Knapsack, IsAsGoodAsTryingEverything) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Groups groups = random_groups(random, 6, 4, 20);
    const double limit = std::uniform_int_distribution<int>(20, 110)(random);
    const double best = least_cost(groups, limit);
    const auto solution = solve_knapsack(groups, limit);
    ASSERT_EQ(solution.has_value(), std::isfinite(best)) << trial;
    if (solution) {
      expect_consistent(groups, *solution, limit);
      EXPECT_DOUBLE_EQ(solution->cost, best) << trial;
      EXPECT_DOUBLE_EQ(solution->lower_bound, best) << trial;
    }
  }
}

TEST(Knapsack, TakesDominatedAndEqualOptions) {
  const Groups groups = {{{.cost = 5, .weight = 2}, {.cost = 6, .weight = 3}, {.cost = 5, .weight = 2}},
                         {{.cost = 0, .weight = 0}},
                         {{.cost = 1, .weight = 4}, {.cost = 1, .weight = 4}}};
  const auto solution = solve_knapsack(groups, 6.0);
  ASSERT_TRUE(solution);
  expect_consistent(groups, *solution, 6.0);
  EXPECT_DOUBLE_EQ(solution->cost, 6.0);
  EXPECT_FALSE(solve_knapsack(groups, 5.5));
}

TEST(Knapsack, TakesTheCheapestOfAllWhereEverythingFits) {
  std::mt19937 random(2);
  const Groups groups = random_groups(random, 30, 5, 100);
  const auto solution = solve_knapsack(groups, 1e6);
  ASSERT_TRUE(solution);
  double cost = 0.0;
  for (const auto& group : groups) {
    cost += std::ranges::min(group, {}, &KnapsackOption::cost).cost;
  }
  EXPECT_DOUBLE_EQ(solution->cost, cost);
  EXPECT_DOUBLE_EQ(solution->lower_bound, cost);
}

// As many layers as an 8B model has, with weights that have no common measure.
TEST(Knapsack, StaysNearItsBoundForALargeModel) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> share(0.2, 1.0);
  Groups groups(300);
  for (auto& group : groups) {
    const double parameters = 1e6 * share(random);
    const double sensitivity = share(random) * share(random);
    for (const double bits : {4.06, 4.12, 4.25, 4.5, 8.0, 16.0, 32.0}) {
      group.push_back(
          {.cost = sensitivity * std::exp2(-2.0 * bits) * share(random), .weight = parameters * bits / 8.0});
    }
  }
  const double limit = 300 * 0.6e6 * 5.0 / 8.0;
  const auto solution = solve_knapsack(groups, limit);
  ASSERT_TRUE(solution);
  expect_consistent(groups, *solution, limit);
  EXPECT_GT(solution->lower_bound, 0.999 * solution->cost);
  EXPECT_GT(solution->weight, 0.999 * limit);
}

}  // namespace
}  // namespace diffulex_edge
