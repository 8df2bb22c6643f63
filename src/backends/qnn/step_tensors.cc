#include "backends/qnn/step_tensors.h"

#include <algorithm>

#include "backends/qnn/lowering.h"
#include "backends/qnn/mask_ranges.h"
#include "quant/static_graph.h"

namespace diffulex_edge::qnn {

std::optional<int> cache_bits(const CacheSettings& settings, std::optional<int> bits) {
  return bits && settings.in_8_bits ? std::optional(8) : bits;
}

// One mask serves all layers: where a layer's scores reach less far, their sum with it saturates at the bottom of its
// own range.
float hiding_score(const Graph& graph, const GraphActivations* covered, int bits) {
  if (covered == nullptr) {
    return kMasked;
  }
  float hiding = 0.0F;
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    if (graph.nodes()[i].op == Op::kAttention) {
      const ActivationRange range = masked_range(covered->scores.at(static_cast<ValueId>(i)), bits);
      hiding = std::min(hiding, range.min - range.max);
    }
  }
  return hiding;
}

MaskValues mask_values(float hiding, std::optional<int> bits) {
  if (!bits) {
    return {.hidden = static_cast<double>(hiding), .visible = 0.0};
  }
  const Encoding encoding = choose_encoding({.min = hiding, .max = 0.0F}, *bits);
  return {.hidden = 0.0, .visible = static_cast<double>(encoding.zero_point)};
}

StepTensors::StepTensors(const CacheSettings& settings, float hiding, OnnxModel& target, ValueWriter& writer,
                         DataStore& data, OnnxDtype arithmetic, std::optional<int> bits)
    : settings_(settings),
      hiding_(hiding),
      target_(target),
      writer_(writer),
      bits_(bits),
      cache_bits_(cache_bits(settings, bits)),
      cache_writer_(target.graph, data, target.encodings, arithmetic, cache_bits_) {
  target.graph.reserve("positions");
  target.graph.reserve("attention_mask");
}

Value StepTensors::rows(const Value& table) {
  if (positions_ < 0) {
    const Sizes flat = {target_.step_tokens};
    const Id given = target_.graph.input("positions", {.dtype = OnnxDtype::kInt32, .sizes = {1, target_.step_tokens}});
    positions_ = target_.graph.add("Reshape", {given, target_.graph.ints(flat)}, {},
                                   {.dtype = OnnxDtype::kInt32, .sizes = flat}, "places");
  }
  return writer_.gather(table, positions_);
}

const Value& StepTensors::mask() {
  if (!mask_) {
    const Sizes sizes = {1, 1, target_.step_tokens, settings_.tokens + target_.step_tokens};
    const ActivationRange range = {.min = hiding_, .max = 0.0F};
    const auto [tensor, value] = writer_.input("attention_mask", sizes, range);
    if (bits_) {
      target_.integers.emplace(tensor, choose_encoding(range, *bits_));
    }
    mask_ = value;
  }
  return *mask_;
}

Value StepTensors::with_past_keys(std::int64_t number, const Value& keys) {
  return with_past("key_" + std::to_string(number), keys, {0, 2, 3, 1}, 3);
}

Value StepTensors::with_past_values(std::int64_t number, const Value& values) {
  return with_past("value_" + std::to_string(number), values, {0, 2, 1, 3}, 2);
}

// What is an output comes before the transpose: ONNX Runtime moves a transpose ahead of an output past its integers'
// scale, which Qualcomm's compiler then misses.
Value StepTensors::with_past(const std::string& name, const Value& fresh, const Sizes& permutation,
                             std::int64_t token_axis) {
  const bool is_converted = cache_bits_ != bits_;
  const Value own = is_converted ? cache_writer_.finish(fresh.id, fresh.range) : fresh;
  const Id stored = (is_converted ? cache_writer_ : writer_).stored(own);
  outputs_.push_back({.value = stored, .name = name});
  const Value turned = cache_writer_.transpose(own, permutation);
  Sizes sizes = writer_.sizes(turned.id);
  sizes[static_cast<std::size_t>(token_axis)] = settings_.tokens;
  const auto [past, past_value] = cache_writer_.input("past_" + name, sizes, fresh.range);
  target_.caches.push_back({.past = past, .fresh = stored, .token_axis = token_axis});
  if (cache_bits_) {
    const Encoding encoding = choose_encoding(fresh.range, *cache_bits_);
    target_.integers.emplace(past, encoding);
    target_.integers.emplace(stored, encoding);
  }
  return cache_writer_.concat({past_value, turned}, token_axis);
}

void StepTensors::add_outputs() {
  for (const Output& output : outputs_) {
    target_.graph.output(output.value, output.name);
  }
}

}  // namespace diffulex_edge::qnn
