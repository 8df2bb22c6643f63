#include "quant/knapsack.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>

namespace diffulex_edge {
namespace {

constexpr std::size_t kMostStates = std::size_t{1} << 14U;

// Indices of a group's options on the lower left convex hull of (weight, cost), from the lightest on.
std::vector<std::size_t> lower_hull(const std::vector<KnapsackOption>& options) {
  std::vector<std::size_t> order(options.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return options[a].weight != options[b].weight ? options[a].weight < options[b].weight
                                                  : options[a].cost < options[b].cost;
  });
  const auto slope = [&](std::size_t from, std::size_t to) {
    return (options[to].cost - options[from].cost) / (options[to].weight - options[from].weight);
  };
  std::vector<std::size_t> hull;
  for (const std::size_t next : order) {
    if (!hull.empty() && options[next].cost >= options[hull.back()].cost) {
      continue;  // dominated
    }
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) >= slope(hull.back(), next)) {
      hull.pop_back();
    }
    hull.push_back(next);
  }
  return hull;
}

// A step from one option of a group to the next heavier one on its hull.
struct Upgrade {
  std::size_t group = 0;
  std::size_t position = 0;  // on the hull, after the step
  double weight = 0.0;       // that it adds
  double saving = 0.0;       // that it takes off the cost
};

struct Relaxation {
  KnapsackSolution rounded;  // a feasible solution near the relaxation's
  double lower_bound = 0.0;  // the relaxation's cost
  double multiplier = 0.0;   // cost that one unit of weight is worth
};

// The linear relaxation, by steps of the best saving for each unit of weight; nullopt where nothing is feasible.
std::optional<Relaxation> relax(std::span<const std::vector<KnapsackOption>> groups, double limit) {
  Relaxation result;
  KnapsackSolution& solution = result.rounded;
  std::vector<Upgrade> upgrades;
  std::vector<std::vector<std::size_t>> hulls;
  for (std::size_t group = 0; group < groups.size(); ++group) {
    const auto& options = groups[group];
    const auto& hull = hulls.emplace_back(lower_hull(options));
    solution.chosen.push_back(hull[0]);
    solution.cost += options[hull[0]].cost;
    solution.weight += options[hull[0]].weight;
    for (std::size_t i = 1; i < hull.size(); ++i) {
      upgrades.push_back({.group = group,
                          .position = i,
                          .weight = options[hull[i]].weight - options[hull[i - 1]].weight,
                          .saving = options[hull[i - 1]].cost - options[hull[i]].cost});
    }
  }
  if (solution.weight > limit) {
    return std::nullopt;
  }
  std::ranges::sort(upgrades, [](const Upgrade& a, const Upgrade& b) {
    const double left = a.saving * b.weight;
    const double right = b.saving * a.weight;
    return left != right ? left > right : std::pair(a.group, a.position) < std::pair(b.group, b.position);
  });
  std::vector<bool> blocked(groups.size(), false);
  bool is_full = false;
  for (const Upgrade& upgrade : upgrades) {
    if (solution.weight + upgrade.weight > limit) {
      if (!is_full) {
        is_full = true;
        result.multiplier = upgrade.saving / upgrade.weight;
        result.lower_bound = solution.cost - (limit - solution.weight) * result.multiplier;
      }
      blocked[upgrade.group] = true;
    }
    if (!blocked[upgrade.group]) {
      solution.chosen[upgrade.group] = hulls[upgrade.group][upgrade.position];
      solution.cost -= upgrade.saving;
      solution.weight += upgrade.weight;
    }
  }
  if (!is_full) {
    result.lower_bound = solution.cost;
  }
  return result;
}

// A choice for the first groups.
struct State {
  double weight = 0.0;
  double cost = 0.0;
  std::uint32_t parent = 0;  // in the states of the group before
  std::uint32_t option = 0;
};

// Sorted by weight; costs fall.
void keep_undominated(std::vector<State>& states) {
  std::ranges::sort(states, [](const State& a, const State& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.cost < b.cost;
  });
  double best = std::numeric_limits<double>::infinity();
  std::erase_if(states, [&](const State& state) {
    if (state.cost >= best) {
      return true;
    }
    best = state.cost;
    return false;
  });
}

// Keeps evenly spread ones, the lightest and the cheapest among them.
void thin_out(std::vector<State>& states) {
  std::vector<State> kept;
  for (std::size_t i = 0; i < kMostStates; ++i) {
    kept.push_back(states[i * (states.size() - 1) / (kMostStates - 1)]);
  }
  states = std::move(kept);
}

class Search {
 public:
  Search(std::span<const std::vector<KnapsackOption>> groups, double limit, const Relaxation& relaxation)
      : groups_(groups), limit_(limit), relaxation_(relaxation), rest_(groups.size() + 1) {
    for (std::size_t group = groups.size(); group-- > 0;) {
      double least_weight = std::numeric_limits<double>::infinity();
      double least_price = std::numeric_limits<double>::infinity();
      for (const KnapsackOption& option : groups[group]) {
        least_weight = std::min(least_weight, option.weight);
        least_price = std::min(least_price, option.cost + relaxation.multiplier * option.weight);
      }
      rest_[group] = {.weight = rest_[group + 1].weight + least_weight, .price = rest_[group + 1].price + least_price};
    }
  }

  KnapsackSolution run() {
    std::vector<std::vector<State>> stages = {{State{}}};
    for (std::size_t group = 0; group < groups_.size(); ++group) {
      stages.push_back(extend(stages.back(), group));
    }
    KnapsackSolution best = relaxation_.rounded;
    best.lower_bound = is_exact_ ? best.cost : relaxation_.lower_bound;
    if (stages.back().empty() || stages.back().back().cost >= best.cost) {
      return best;  // nothing is better
    }
    const State* state = &stages.back().back();
    best.cost = state->cost;
    best.weight = state->weight;
    best.lower_bound = is_exact_ ? best.cost : relaxation_.lower_bound;
    for (std::size_t group = groups_.size(); group-- > 0;) {
      best.chosen[group] = state->option;
      state = &stages[group][state->parent];
    }
    return best;
  }

 private:
  // Of the groups from one on: the least weight, and the least cost where weight has its price.
  struct Rest {
    double weight = 0.0;
    double price = 0.0;
  };

  std::vector<State> extend(const std::vector<State>& states, std::size_t group) {
    std::vector<State> extended;
    const auto& options = groups_[group];
    const Rest& rest = rest_[group + 1];
    for (std::size_t parent = 0; parent < states.size(); ++parent) {
      for (std::size_t option = 0; option < options.size(); ++option) {
        const State state{.weight = states[parent].weight + options[option].weight,
                          .cost = states[parent].cost + options[option].cost,
                          .parent = static_cast<std::uint32_t>(parent),
                          .option = static_cast<std::uint32_t>(option)};
        const double bound = state.cost + rest.price + relaxation_.multiplier * (state.weight - limit_);
        if (state.weight + rest.weight <= limit_ && bound < relaxation_.rounded.cost) {
          extended.push_back(state);
        }
      }
    }
    keep_undominated(extended);
    if (extended.size() > kMostStates) {
      thin_out(extended);
      is_exact_ = false;
    }
    return extended;
  }

  std::span<const std::vector<KnapsackOption>> groups_;
  double limit_;
  const Relaxation& relaxation_;
  std::vector<Rest> rest_;
  bool is_exact_ = true;
};

}  // namespace

std::optional<KnapsackSolution> solve_knapsack(std::span<const std::vector<KnapsackOption>> groups, double limit) {
  const std::optional<Relaxation> relaxation = relax(groups, limit);
  if (!relaxation) {
    return std::nullopt;
  }
  return Search(groups, limit, *relaxation).run();
}

}  // namespace diffulex_edge
