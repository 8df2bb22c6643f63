// A value is among the k largest of its row if fewer than k are larger, or equal and before it. What is larger is told
// by differences: multiplied by a large number and clamped to [0, 1], they count.

#include "graph/decompose_route.h"

#include <utility>

namespace diffulex_edge {
namespace {

// A difference of two scores in float32 that is not 0, times this, is more than 2, unless both are below 1e-29.
constexpr float kMuchMore = 1e30F;
// What takes an expert out of the choice: scores lie in [0, 1], and biases are of their size.
constexpr float kOutOfReach = 1e6F;
constexpr float kLeastSum = 1e-20F;  // as the CPU runtime's

class RouteBuilder {
 public:
  RouteBuilder(Graph& graph, const RouteAttributes& attributes, const std::string& name)
      : graph_(graph), attributes_(attributes), name_(name) {}

  ValueId run(const std::vector<ValueId>& in) {
    tokens_ = graph_.shape(in[0]);
    const std::int64_t experts = tokens_.back().value;
    tokens_.pop_back();
    const Op score = attributes_.score == RouteAttributes::Score::kSigmoid ? Op::kSigmoid : Op::kSoftmax;
    const ValueId scores = graph_.add(score, {in[0]});
    const ValueId biased = in.size() == 1 ? scores : graph_.add(Op::kAdd, {scores, in[1]}, NoAttributes{}, name_);
    ValueId reachable = biased;
    if (attributes_.groups != attributes_.groups_per_token) {
      const ValueId missing = plus(best_groups(biased, experts), -1.0F);
      reachable = graph_.add(Op::kAdd, {biased, times(missing, kOutOfReach)});
    }
    const ValueId chosen = is_among_largest(reachable, tokens_, experts, attributes_.experts_per_token);
    ValueId weights = graph_.add(Op::kMultiply, {attributes_.has_biased_weights ? biased : scores, chosen});
    if (attributes_.normalizes) {
      weights = graph_.add(Op::kDivide, {weights, plus(sum(weights, experts), kLeastSum)});
    }
    return attributes_.scale == 1.0F ? weights : times(weights, attributes_.scale);
  }

 private:
  ValueId scalar(float value) { return graph_.constant({value}, {{.value = 1}}); }
  ValueId times(ValueId x, float factor) {
    const ValueId number = scalar(factor);
    return graph_.add(Op::kMultiply, {x, number});
  }
  ValueId plus(ValueId x, float term) {
    const ValueId number = scalar(term);
    return graph_.add(Op::kAdd, {x, number});
  }
  ValueId clamped(ValueId x) { return graph_.add(Op::kClamp, {x}, ClampAttributes{.min = 0.0F, .max = 1.0F}); }
  ValueId reshape(ValueId x, Shape shape) {
    return graph_.add(Op::kReshape, {x}, ShapeAttributes{.shape = std::move(shape)});
  }
  // Over the last dimension, which stays with size 1.
  ValueId sum(ValueId x, std::int64_t size) {
    return times(graph_.add(Op::kReduceMean, {x}), static_cast<float>(size));
  }

  static Shape with(Shape shape, std::initializer_list<std::int64_t> sizes) {
    for (const std::int64_t size : sizes) {
      shape.push_back({.value = size});
    }
    return shape;
  }

  // 1 for the `count` largest of each row of `x` [leading..., size], 0 for the others.
  ValueId is_among_largest(ValueId x, const Shape& leading, std::int64_t size, std::int64_t count) {
    const ValueId row = reshape(x, with(leading, {1, size}));
    const ValueId column = reshape(x, with(leading, {size, 1}));
    const ValueId difference = times(graph_.add(Op::kSubtract, {row, column}), kMuchMore);
    std::vector<float> is_before;  // [of, by]: an equal value that comes first counts as larger
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t k = 0; k < size; ++k) {
        is_before.push_back(k < i ? 1.0F : 0.0F);
      }
    }
    const ValueId ties = graph_.constant(std::move(is_before), {{.value = size}, {.value = size}});
    const ValueId larger = clamped(graph_.add(Op::kAdd, {difference, ties}));
    const ValueId rank = sum(larger, size);  // [leading..., size, 1]
    const ValueId negative = graph_.add(Op::kNegate, {rank});
    // Half-way between the integers, where sums' rounding does not matter, then to 0 or 1.
    const ValueId margin = times(plus(negative, static_cast<float>(count) - 0.5F), 4.0F);
    return reshape(clamped(margin), with(leading, {size}));
  }

  // 1 for the experts of the best groups, 0 for the others.
  ValueId best_groups(ValueId biased, std::int64_t experts) {
    const std::int64_t groups = attributes_.groups;
    const std::int64_t size = experts / groups;
    const Shape by_group = with(tokens_, {groups});
    const ValueId members = reshape(biased, with(by_group, {size}));
    const ValueId best_two = is_among_largest(members, by_group, size, 2);
    const ValueId scores = sum(graph_.add(Op::kMultiply, {members, best_two}), size);
    const ValueId chosen = is_among_largest(reshape(scores, by_group), tokens_, groups, attributes_.groups_per_token);
    const ValueId ones = graph_.constant(std::vector<float>(static_cast<std::size_t>(size), 1.0F), {{.value = size}});
    const ValueId spread = graph_.add(Op::kMultiply, {reshape(chosen, with(by_group, {1})), ones});
    return reshape(spread, with(tokens_, {experts}));
  }

  Graph& graph_;
  const RouteAttributes& attributes_;
  const std::string& name_;
  Shape tokens_;  // of a value without its last dimension
};

}  // namespace

ValueId decompose_route(Graph& graph, const std::vector<ValueId>& in, const RouteAttributes& attributes,
                        const std::string& name) {
  return RouteBuilder(graph, attributes, name).run(in);
}

}  // namespace diffulex_edge
