#include "backends/coreml/cached_attention.h"

#include <numeric>

namespace diffulex_edge::coreml {
namespace {

std::string cache_name(std::string_view part, std::int64_t layer) {
  return std::string(part) + "_cache_" + std::to_string(layer);
}

std::string output_name(std::string_view part, std::int64_t layer) {
  return "new_" + std::string(part) + "_" + std::to_string(layer);
}

constexpr std::string_view kKey = "key";
constexpr std::string_view kValue = "value";

}  // namespace

void CachedAttention::take_names(std::int64_t layers) {
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (const std::string_view part : {kKey, kValue}) {
      function().take_name(cache_name(part, layer));
      function().take_name(output_name(part, layer));
    }
  }
}

// A step that is filled up may end behind the last token that fits.
std::int64_t CachedAttention::cache_rows() const {
  const CachePlan& plan = step_.plan();
  return storage_ == CacheStorage::kState ? plan.tokens + plan.block_tokens : plan.tokens;
}

Id CachedAttention::with_cache(std::string_view part, std::int64_t layer, Id fresh) {
  const std::string name = cache_name(part, layer);
  if (storage_ == CacheStorage::kState) {
    return in_state(name, fresh);
  }
  outputs_.emplace_back(fresh, output_name(part, layer));
  return behind_input(name, fresh);
}

std::pair<Id, Id> CachedAttention::write_range() {
  if (!write_range_) {
    const MilType corner{.dtype = MilDtype::kInt32, .shape = {{.value = 4}}};
    const Id start = step_.start();
    const Id length = step_.length();
    const MilType one = function().type(start);
    const Id end = operations_.binary("add", start, length, one);
    const Id heads = operations_.ints({0, 0});
    const Id dims = operations_.ints({0});
    const Id first = operations_.concat({heads, start, dims}, 0, corner, "write_begin");
    const Id last = operations_.concat({heads, end, dims}, 0, corner, "write_end");
    write_range_ = std::pair(first, last);
  }
  return *write_range_;
}

Id CachedAttention::in_state(const std::string& name, Id fresh) {
  const Id stored = operations_.cast(fresh, MilDtype::kFloat16);
  MilType type = function().type(stored);
  type.shape[2] = {.value = cache_rows()};
  bytes_ += 2 * element_count(type.shape);
  const Id state = function().state(name, type);
  const Id before = function().add("read_state", {{"input", {state}}}, type);
  const auto [begin, end] = write_range();
  const Id whole_axes = function().constant(bools_literal({true, true, false, true}));
  const Id after = function().add("slice_update",
                                  {{"x", {before}},
                                   {"update", {old_where_padded(before, stored)}},
                                   {"begin", {begin}},
                                   {"end", {end}},
                                   {"begin_mask", {whole_axes}},
                                   {"end_mask", {whole_axes}}},
                                  type);
  function().add_without_result("write_state", {{"input", {state}}, {"data", {after}}});
  return operations_.cast(function().add("read_state", {{"input", {state}}}, type), operations_.arithmetic());
}

// Under a block-causal mask, nobody sees what lies behind a step's last token before it is written again. Else a step
// in the middle leaves what is behind it as it is.
Id CachedAttention::old_where_padded(Id cache, Id fresh) {
  if (!step_.plan().is_bidirectional) {
    return fresh;
  }
  const MilType type = function().type(fresh);
  const Id old = function().add(
      "gather", {{"x", {cache}}, {"indices", {step_.positions()}}, {"axis", {operations_.integer(2)}}}, type);
  return function().add("select", {{"cond", {step_.counted()}}, {"a", {fresh}}, {"b", {old}}}, type);
}

Id CachedAttention::behind_input(const std::string& name, Id fresh) {
  MilType type = function().type(fresh);
  const Dim tokens = type.shape[2];
  type.shape[2] = {.value = cache_rows()};
  bytes_ += (operations_.is_half() ? 2 : 4) * element_count(type.shape);
  const Id cache = function().input(name, type);
  type.shape[2] = {.value = cache_rows() + tokens.value, .is_sequence = tokens.is_sequence};
  return operations_.concat({cache, fresh}, 2, type);
}

void CachedAttention::add_outputs() {
  for (auto& [value, name] : outputs_) {
    function().output(value, name);
  }
}

Id CachedAttention::numbers(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0F);
  return function().constant(floats_literal(MilDtype::kFloat32, values, {{.value = count}}), "cache_positions");
}

Id CachedAttention::single(float value) { return function().constant(float_literal(MilDtype::kFloat32, value)); }

Id CachedAttention::combined(std::string_view operation, Id x, Id y, Shape type) {
  return operations_.binary(operation, x, y, {.dtype = MilDtype::kFloat32, .shape = std::move(type)});
}

Id CachedAttention::hidden_from(Id places, Id bound) {
  const Id end = number(bound);
  const Id one = single(1.0F);
  const Id last = combined("sub", end, one, shape(bound));
  return operations_.clip(combined("sub", last, places, shape(places)), -1.0F, 0.0F);
}

Id CachedAttention::blocks(Id positions, std::int64_t block_length) {
  return block_length == 1 ? positions : operations_.block_of(positions, block_length);
}

CachedAttention::Rows CachedAttention::rows() {
  const Id places = numbers(cache_rows());
  if (storage_ == CacheStorage::kState) {
    return {.positions = places, .hidden = hidden_from(places, step_.seen())};
  }
  const Shape cached = shape(places);
  Id hidden = hidden_from(places, step_.start());
  if (step_.plan().is_bidirectional) {  // what lies behind the step is seen too
    const Id end = number(step_.end());
    const Id before_end = operations_.clip(combined("sub", places, end, cached), -1.0F, 0.0F);
    const Id unseen = hidden_from(places, step_.seen());
    const Id outside = combined("minimum", before_end, unseen, cached);
    hidden = combined("maximum", hidden, outside, cached);
  }
  const Id own = number(step_.positions());
  const Id own_hidden = hidden_from(own, step_.end());
  const Dim tokens = shape(own).front();
  const MilType all{.dtype = MilDtype::kFloat32,
                    .shape = {{.value = cache_rows() + tokens.value, .is_sequence = tokens.is_sequence}}};
  const Id positions = operations_.concat({places, own}, 0, all);
  return {.positions = positions, .hidden = operations_.concat({hidden, own_hidden}, 0, all)};
}

Id CachedAttention::mask(std::int64_t block_length, std::int64_t group) {
  const auto [position, inserted] = masks_.emplace(std::pair(block_length, group), 0);
  if (!inserted) {
    return position->second;
  }
  const Rows keys = rows();
  Id hidden = operations_.expand_dims(keys.hidden, 0);
  if (block_length > 0) {
    const Id own = operations_.expand_dims(blocks(number(step_.positions()), block_length), 1);
    const Id others = operations_.expand_dims(blocks(keys.positions, block_length), 0);
    const Shape square = {shape(own)[0], shape(others)[1]};
    const Id later = operations_.clip(combined("sub", own, others, square), -1.0F, 0.0F);
    hidden = combined("minimum", later, hidden, square);
  }
  const Id weight = single(-kMasked);
  const Id scaled = combined("mul", hidden, weight, shape(hidden));
  Id result = operations_.cast(scaled, operations_.arithmetic());
  if (block_length > 0 && group > 1) {
    MilType repeated = function().type(result);
    repeated.shape[0].value *= group;
    result = operations_.concat(std::vector<Id>(static_cast<std::size_t>(group), result), 0, repeated);
  }
  position->second = result;
  return result;
}

CachedAttention::Seen CachedAttention::see(const Operands& operands, std::int64_t layer, std::int64_t block_length) {
  const Shape queries = shape(operands.queries);
  const std::int64_t kv_heads = shape(operands.keys)[1].value;
  const std::int64_t group = queries[1].value / kv_heads;
  const Dim rows = {.value = group * queries[2].value, .is_sequence = queries[2].is_sequence};
  Seen seen;
  seen.queries = group == 1
                     ? operands.queries
                     : operations_.reshape(operands.queries, {queries[0], {.value = kv_heads}, rows, queries[3]});
  seen.keys = with_cache(kKey, layer, operands.keys);
  seen.values = with_cache(kValue, layer, operands.values);
  seen.mask = mask(block_length, group);
  return seen;
}

}  // namespace diffulex_edge::coreml
