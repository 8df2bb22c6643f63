// Routed experts: who computes which tokens, and what becomes of the results.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "diffulex_edge/error.h"
#include "runtime/operators/operators.h"

namespace diffulex_edge {

std::vector<std::int64_t> chosen_tokens(const Activations& routes, std::int64_t expert) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t token = 0; token < routes.rows; ++token) {
    if (routes.data[static_cast<std::size_t>(token * routes.width + expert)] != 0.0F) {
      tokens.push_back(token);
    }
  }
  return tokens;
}

namespace operators {
namespace {

// Keeps a sum of weights from 0, as LLaDA 2's gate does; no other sum in float32 changes by it.
constexpr float kLeastSum = 1e-20F;

void score_row(std::span<const float> logits, RouteAttributes::Score score, std::span<float> scores) {
  if (score == RouteAttributes::Score::kSigmoid) {
    std::ranges::transform(logits, scores.begin(), [](float x) { return 1.0F / (1.0F + std::exp(-x)); });
    return;
  }
  const float largest = *std::ranges::max_element(logits);
  std::ranges::transform(logits, scores.begin(), [=](float x) { return std::exp(x - largest); });
  const float sum = std::accumulate(scores.begin(), scores.end(), 0.0F);
  std::ranges::for_each(scores, [=](float& value) { value /= sum; });
}

// The places of the `count` largest of the allowed values, of equal ones the first.
std::vector<std::size_t> largest_of(std::span<const float> values, std::vector<bool> is_allowed, std::size_t count) {
  std::vector<std::size_t> places;
  while (places.size() < count) {
    std::size_t best = values.size();
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (is_allowed[i] && (best == values.size() || values[i] > values[best])) {
        best = i;
      }
    }
    is_allowed[best] = false;
    places.push_back(best);
  }
  return places;
}

// The sum of a group's two best.
float group_score(std::span<const float> values) {
  const std::vector<std::size_t> best = largest_of(values, std::vector<bool>(values.size(), true), 2);
  return values[best[0]] + values[best[1]];
}

// Which experts a token may choose.
std::vector<bool> allowed_experts(std::span<const float> biased, const RouteAttributes& route) {
  if (route.groups == route.groups_per_token) {
    return std::vector<bool>(biased.size(), true);
  }
  const auto groups = static_cast<std::size_t>(route.groups);
  const std::size_t size = biased.size() / groups;
  std::vector<float> scores;
  for (std::size_t group = 0; group < groups; ++group) {
    scores.push_back(group_score(biased.subspan(group * size, size)));
  }
  std::vector<bool> result(biased.size(), false);
  for (const std::size_t group :
       largest_of(scores, std::vector<bool>(groups, true), static_cast<std::size_t>(route.groups_per_token))) {
    std::fill_n(result.begin() + static_cast<std::ptrdiff_t>(group * size), size, true);
  }
  return result;
}

void route_row(std::span<const float> logits, std::span<const float> bias, const RouteAttributes& route,
               std::span<float> weights) {
  std::vector<float> scores(logits.size());
  score_row(logits, route.score, scores);
  std::vector<float> biased = scores;
  for (std::size_t i = 0; i < bias.size(); ++i) {
    biased[i] += bias[i];
  }
  const std::vector<std::size_t> chosen =
      largest_of(biased, allowed_experts(biased, route), static_cast<std::size_t>(route.experts_per_token));
  const std::vector<float>& source = route.has_biased_weights ? biased : scores;
  float divisor = 1.0F;
  if (route.normalizes) {
    divisor = std::accumulate(chosen.begin(), chosen.end(), kLeastSum,
                              [&](float sum, std::size_t expert) { return sum + source[expert]; });
  }
  std::ranges::fill(weights, 0.0F);
  for (const std::size_t expert : chosen) {
    weights[expert] = source[expert] / divisor * route.scale;
  }
}

void route(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& logits = context.value(node.inputs[0]);
  const std::vector<float> bias = node.inputs.size() > 1 ? context.vector(node.inputs[1]) : std::vector<float>();
  const auto& attributes = std::get<RouteAttributes>(node.attributes);
  for_each_row(result.rows, result.width * attributes.experts_per_token, context.control, [&](std::int64_t row) {
    route_row(logits.row(row), bias, attributes,
              {result.data.data() + row * result.width, static_cast<std::size_t>(result.width)});
  });
}

void dispatch(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& x = context.value(node.inputs[0]);
  const std::vector<std::int64_t> tokens =
      chosen_tokens(context.value(node.inputs[1]), std::get<ExpertAttributes>(node.attributes).expert);
  for_each_row(result.rows, result.width, context.control, [&](std::int64_t row) {
    std::ranges::copy(x.row(tokens[static_cast<std::size_t>(row)]), result.data.begin() + row * result.width);
  });
}

void combine(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& y = context.value(node.inputs[0]);
  const Activations& routes = context.value(node.inputs[1]);
  const std::int64_t expert = std::get<ExpertAttributes>(node.attributes).expert;
  if (!context.has_taken_input && node.inputs.size() == 3) {
    std::ranges::copy(context.value(node.inputs[2]).data, result.data.begin());
  } else if (!context.has_taken_input) {
    std::ranges::fill(result.data, 0.0F);
  }
  const std::vector<std::int64_t> tokens = chosen_tokens(routes, expert);
  // Of a graph in which nothing is dispatched, all tokens are there.
  const bool is_routed = context.plan.route(node.inputs[0]) >= 0;
  for_each_row(static_cast<std::int64_t>(tokens.size()), result.width, context.control, [&](std::int64_t i) {
    const std::int64_t token = tokens[static_cast<std::size_t>(i)];
    const float weight = routes.row(token)[static_cast<std::size_t>(expert)];
    const std::span<const float> row = y.row(is_routed ? i : token);
    float* target = result.data.data() + token * result.width;
    for (std::size_t k = 0; k < row.size(); ++k) {
      target[k] += weight * row[k];
    }
  });
}

}  // namespace

Kernel expert_kernel(const Node& node) {
  switch (node.op) {
    case Op::kRoute:
      return {"route", route};
    case Op::kDispatch:
      return {"dispatch", dispatch};
    case Op::kCombine:
      return {"combine", combine};
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has no kernel of experts");
  }
}

}  // namespace operators
}  // namespace diffulex_edge
