#include "backends/qnn/mask_ranges.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "quant/static_graph.h"

namespace diffulex_edge::qnn {
namespace {

bool moves_values(Op op) { return op == Op::kReshape || op == Op::kTranspose || op == Op::kSlice || op == Op::kConcat; }

}  // namespace

bool has_block_mask(const Graph& graph, const Node& attention) {
  if (attention.op != Op::kAttention || attention.inputs.size() < 4) {
    return false;
  }
  const Node& mask = graph.node(attention.inputs[3]);
  return mask.op == Op::kBlockCausalMask && graph.node(mask.inputs[0]).op == Op::kPositions;
}

KnownValues::KnownValues(const Graph& graph, const PositionValues& positions) : positions_(positions) {
  for (const Node& user : graph.nodes()) {
    for (const ValueId input : user.inputs) {
      const Node& mask = graph.node(input);
      const std::vector<float>* places = mask.op == Op::kBlockCausalMask ? positions.find(mask.inputs[0]) : nullptr;
      if (places == nullptr || has_block_mask(graph, user) || masks_.contains(input)) {
        continue;
      }
      const auto length = static_cast<float>(std::get<BlockCausalMaskAttributes>(mask.attributes).block_length);
      const auto block = [length](float place) { return std::floor((place + 0.5F) / length); };
      std::vector<float>& values = masks_[input];
      for (const float query : *places) {
        for (const float key : *places) {
          values.push_back(block(key) > block(query) ? kMaskedScore : 0.0F);
        }
      }
    }
  }
}

const std::vector<float>* KnownValues::find(ValueId value) const {
  const auto found = masks_.find(value);
  return found == masks_.end() ? positions_.find(value) : &found->second;
}

MaskRanges::MaskRanges(const Graph& graph, const KnownValues& known, const GraphActivations* covered, int bits)
    : graph_(graph),
      known_(known),
      users_(graph.nodes().size()),
      are_scores_(users_.size(), false),
      least_(users_.size()) {
  for (std::size_t i = 0; i < users_.size(); ++i) {
    for (const ValueId input : graph.nodes()[i].inputs) {
      users_[static_cast<std::size_t>(input)].push_back(static_cast<ValueId>(i));
    }
  }
  find_scores();
  if (covered != nullptr) {
    find_sums(*covered, bits);
  }
  find_least(covered != nullptr);
}

void MaskRanges::find_scores() {
  for (std::size_t i = users_.size(); i-- > 0;) {
    are_scores_[i] = !users_[i].empty() && static_cast<ValueId>(i) != graph_.output() &&
                     std::ranges::all_of(users_[i], [&](ValueId user) {
                       const Op op = graph_.node(user).op;
                       return op == Op::kSoftmax ||
                              ((op == Op::kAdd || moves_values(op)) && are_scores_[static_cast<std::size_t>(user)]);
                     });
  }
}

// In every row, the greatest score stays what it is: the row's greatest number in the mask decides how far below the
// scores the bottom has to lie.
ActivationRange MaskRanges::sum_of(const ActivationRange& scores, ValueId mask, int bits) const {
  ActivationRange sum = masked_range(scores, bits);
  const std::vector<float>* values = known_.find(mask);
  const Shape& shape = graph_.shape(mask);
  if (values != nullptr && !shape.empty()) {
    const auto row = static_cast<std::ptrdiff_t>(shape.back().value);
    const float hidden = sum.min - scores.max;
    float lowest = 0.0F;
    for (auto begin = values->begin(); begin != values->end(); begin += row) {
      const float greatest = *std::max_element(begin, begin + row);
      lowest = greatest > hidden ? std::min(lowest, greatest) : lowest;
    }
    sum.min += lowest;
  }
  sum.max += std::max(0.0F, range(mask).max);
  return sum;
}

void MaskRanges::find_sums(const GraphActivations& covered, int bits) {
  ranges_ = covered.values;
  const auto add_sum = [&](ValueId user, const ActivationRange& scores, ValueId mask) {
    const ActivationRange sum = sum_of(scores, mask, bits);
    sums_.emplace(user, sum);
    hiding_.emplace(user, sum.min - scores.max);
    return sum;
  };
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    const auto value = static_cast<ValueId>(i);
    const Node& node = graph_.nodes()[i];
    if (const std::vector<float>* values = known_.find(value); values != nullptr) {
      range(value) = range_of(*values);
    } else if (moves_values(node.op)) {
      range(value) = range(node.inputs[0]);
      for (const ValueId input : node.inputs) {
        range(value).min = std::min(range(value).min, range(input).min);
        range(value).max = std::max(range(value).max, range(input).max);
      }
    } else if (node.op == Op::kAdd && are_scores_[i]) {
      auto [scores, mask] = std::pair(node.inputs[0], node.inputs[1]);
      if (range(scores).min < range(mask).min) {
        std::swap(scores, mask);
      }
      // Only where some score is hidden; else what was observed is all there is.
      if (std::isfinite(range(scores).min) &&
          range(mask).min <= masked_range(range(scores), bits).min - range(scores).max) {
        range(value) = add_sum(value, range(scores), mask);
      }
    } else if (node.op == Op::kAttention && node.inputs.size() == 4 && !has_block_mask(graph_, node)) {
      add_sum(value, covered.scores.at(value), node.inputs[3]);
    }
  }
}

// For one use of a value; nullopt where it is no mask there.
std::optional<float> MaskRanges::least_of_use(ValueId user, std::size_t input, bool is_static) const {
  const Node& node = graph_.node(user);
  const std::optional<float> own = least_[static_cast<std::size_t>(user)];
  if (node.op == Op::kAttention) {
    const bool is_mask = input == 3 && !has_block_mask(graph_, node);
    return is_mask ? std::optional(is_static ? hiding_.at(user) : kMasked) : std::nullopt;
  }
  if (moves_values(node.op)) {
    return own;
  }
  if (node.op != Op::kAdd) {
    return std::nullopt;
  }
  if (!is_static) {
    return are_scores_[static_cast<std::size_t>(user)] ? std::optional(kMasked) : std::nullopt;
  }
  const ActivationRange& other = range(node.inputs[1 - input]);
  const auto hiding = hiding_.find(user);
  if (hiding != hiding_.end() && range(node.inputs[input]).min < other.min) {
    return hiding->second;
  }
  return own ? std::optional(*own - std::max(0.0F, other.max)) : std::nullopt;
}

void MaskRanges::find_least(bool is_static) {
  for (std::size_t i = users_.size(); i-- > 0;) {
    std::optional<float> least;
    bool is_mask = !users_[i].empty() && static_cast<ValueId>(i) != graph_.output();
    for (const ValueId user : users_[i]) {
      const std::vector<ValueId>& inputs = graph_.node(user).inputs;
      for (std::size_t input = 0; input < inputs.size(); ++input) {
        if (inputs[input] == static_cast<ValueId>(i)) {
          const std::optional<float> of_use = least_of_use(user, input, is_static);
          is_mask = is_mask && of_use.has_value();
          least = std::min(least.value_or(0.0F), of_use.value_or(0.0F));
        }
      }
    }
    least_[i] = is_mask ? least : std::nullopt;
  }
}

}  // namespace diffulex_edge::qnn
