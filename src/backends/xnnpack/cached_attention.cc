#include "backends/xnnpack/cached_attention.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "backends/xnnpack/program_operators.h"
#include "quant/affine_scale.h"

namespace diffulex_edge::xnnpack {
namespace {

using executorch::ProgramBuilder;
using executorch::schema::ScalarType;
using Dims = std::vector<std::uint32_t>;

// A row's fractions of its greatest magnitude, and a magnitude for rows of zeros.
constexpr AffineScale kFractions = {.scale = 1.0F / 127.0F};
constexpr float kLeastMagnitude = 1e-30F;

std::uint32_t size_of(const Shape& shape, std::size_t axis) { return static_cast<std::uint32_t>(shape.at(axis).value); }

}  // namespace

void CachedAttention::begin(std::int32_t token_count) {
  ProgramBuilder& program = values_.program();
  const auto positions = program.planned_tensor(ScalarType::LONG, {{.value = plan_.block_tokens, .is_sequence = true}});
  program.set_input(positions);
  const auto start = program.view(positions, 0, {1});
  std::int32_t context = -1;
  if (plan_.is_bidirectional) {
    context = program.planned_tensor(ScalarType::LONG, {{.value = 1}});
    program.set_input(context);
  }
  if (plan_.logits == CachePlan::Logits::kRows) {
    rows_ =
        program.planned_tensor(ScalarType::LONG, {{.value = 1}, {.value = plan_.block_tokens, .is_sequence = true}});
    program.set_input(rows_);
  }
  count_ = token_count;
  begin_ = checked_number(start, plan_.tokens);
  end_ = program.integer(0);
  one_ = program.integer(1);
  program.kernel_call("executorch_prim::add", "Scalar", {begin_, token_count, end_});
  seen_ = end_;
  if (plan_.is_bidirectional) {
    seen_ = checked_number(context, plan_.tokens + 1);
  }
  // Tokens beyond the capacity end the execution here, before any work.
  const auto& nodes = values_.graph().nodes();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].op == Op::kAttention) {
      const Shape& keys = values_.node(nodes[i].inputs[1]).shape;
      Layer& layer = layers_[static_cast<ValueId>(i)];
      for (Part& part : layer) {
        part = make_part(keys);
      }
    }
  }
  const auto tokens = numbers(ScalarType::LONG, plan_.block_tokens, begin_);
  row_indices_ = program.optional_tensors({-1, tokens});
  if (is_quantized()) {
    magnitude_indices_ = program.optional_tensors({tokens});
  }
}

std::int32_t CachedAttention::checked_number(std::int32_t tensor, std::int64_t limit) {
  ProgramBuilder& program = values_.program();
  const auto nothing = values_.computed_segment({0.0F}, DType::kF32);
  check_ids(program, tensor, {{.value = 1}, {.value = 1}}, limit, values_.program_constant(nothing, 0));
  const auto number = program.integer(0);
  program.kernel_call("aten::_local_scalar_dense", "", {tensor, number});
  return number;
}

CachedAttention::Part CachedAttention::make_part(const Shape& keys) {
  ProgramBuilder& program = values_.program();
  const std::int64_t heads = keys.at(1).value;
  const std::int64_t dim = keys.at(2).value;
  const ScalarType type = scalar_type(plan_.dtype);
  const std::int64_t head_bytes = plan_.tokens * dim * executorch::element_bytes(type);
  Part part;
  part.buffer = program.buffer(type, {heads, plan_.tokens, dim});
  for (std::int64_t head = 0; head < heads; ++head) {
    part.views.push_back(seen_rows(part.buffer, head * head_bytes, dim));
  }
  if (is_quantized()) {
    part.magnitudes = program.buffer(ScalarType::FLOAT, {plan_.tokens, heads});
    part.seen_magnitudes = seen_rows(part.magnitudes, 0, heads);
  }
  return part;
}

std::int32_t CachedAttention::seen_rows(std::int32_t buffer, std::int64_t offset, std::int64_t width) {
  ProgramBuilder& program = values_.program();
  const auto [sizes, is_new] = seen_sizes_.emplace(width, -1);
  if (is_new) {
    sizes->second = program.integers({seen_, program.integer(width)});
  }
  const auto view = program.view(buffer, offset, {plan_.tokens, width});
  program.kernel_call("aten::empty", "out", {sizes->second, program.null(), view, view});  // only its size
  return view;
}

std::int32_t CachedAttention::numbers(ScalarType type, std::int64_t longest, std::int32_t begin) {
  ProgramBuilder& program = values_.program();
  const auto tensor = program.planned_tensor(type, {{.value = longest, .is_sequence = true}});
  program.kernel_call("aten::arange", "start_out", {begin, end_, one_, tensor, tensor});
  return tensor;
}

void CachedAttention::positions(ValueId value) {
  values_.delegate_input(value, numbers(ScalarType::FLOAT, plan_.block_tokens, begin_), DType::kF32);
}

XnnId CachedAttention::blocks(XnnId positions, std::int64_t block_length) {
  if (block_length == 1) {
    return positions;
  }
  // As the graph's own decomposition of the mask has it: floor((position + 1/2) / block).
  const float reciprocal = 1.0F / static_cast<float>(block_length);
  const Dims dims = delegate().dims(positions);
  const XnnId scaled = delegate().value(Datatype::fp32, dims);
  const XnnId shifted = delegate().value(Datatype::fp32, dims);
  const XnnId floor = delegate().value(Datatype::fp32, dims);
  const auto scalar = [&](float number) { return values_.computed_operand({number}, {1}, DType::kF32); };
  delegate().binary(NodeUnion::Multiply, positions, scalar(reciprocal), scaled);
  delegate().binary(NodeUnion::Add, scaled, scalar(0.5F * reciprocal), shifted);
  delegate().unary(NodeUnion::Floor, shifted, floor);
  return floor;
}

void CachedAttention::mask(ValueId value) {
  const Node& node = values_.node(value);
  const auto block_length = std::get<BlockCausalMaskAttributes>(node.attributes).block_length;
  const auto& nodes = values_.graph().nodes();
  const auto user = std::ranges::find_if(nodes, [&](const Node& other) {
    return other.op == Op::kAttention && other.inputs.size() == 4 && other.inputs[3] == value;
  });
  if (user == nodes.end()) {
    return;
  }
  ProgramBuilder& program = values_.program();
  const auto group = static_cast<std::size_t>(values_.node(user->inputs[0]).shape[1].value /
                                              values_.node(user->inputs[1]).shape[1].value);
  const auto tokens = static_cast<std::uint32_t>(plan_.block_tokens);
  const auto capacity = static_cast<std::uint32_t>(plan_.tokens);
  const auto keys = numbers(ScalarType::FLOAT, plan_.tokens, program.integer(0));
  const auto row = program.view(keys, 0, {1, plan_.tokens});
  program.kernel_call("aten::empty", "out", {program.integers({one_, end_}), program.null(), row, row});

  const XnnId query_column = delegate().value(Datatype::fp32, {tokens, 1});
  delegate().reshape(values_.get(node.inputs[0], DType::kF32), query_column, {0, 1});
  const XnnId query_blocks = blocks(query_column, block_length);
  const XnnId key_blocks = blocks(values_.tensor_input(row, DType::kF32, {1, capacity}), block_length);
  const Dims dims = {tokens, capacity};
  const XnnId distance = delegate().value(Datatype::fp32, dims);
  const XnnId masked = delegate().value(Datatype::fp32, dims);
  delegate().binary(NodeUnion::Subtract, key_blocks, query_blocks, distance);
  delegate().clamp(distance, masked, 0.0F, 1.0F);
  const auto rows = static_cast<std::int64_t>(group) * plan_.block_tokens;
  const auto tensor = program.planned_tensor(
      ScalarType::FLOAT, {{.value = rows, .is_sequence = true}, {.value = plan_.tokens, .is_sequence = true}});
  masks_.emplace(value, tensor);
  const XnnId result = values_.tensor_output(tensor, DType::kF32, {static_cast<std::uint32_t>(rows), capacity});
  const XnnId once = group == 1 ? result : delegate().value(Datatype::fp32, dims);
  delegate().binary(NodeUnion::Multiply, masked, values_.computed_operand({kMaskedScore}, {1}, DType::kF32), once);
  if (group > 1) {
    delegate().concatenate(std::vector<XnnId>(group, once), result, 0);
  }
}

XnnId CachedAttention::in_type(XnnId x, DType from, DType to) {
  if (from == to) {
    return x;
  }
  const XnnId converted = delegate().value(datatype(to), delegate().dims(x));
  delegate().unary(NodeUnion::Convert, x, converted);
  return converted;
}

CachedAttention::Fresh CachedAttention::fresh_tensors(std::size_t part, const Shape& keys) {
  const auto [found, is_new] = fresh_.emplace(std::tuple(part, keys[1].value, keys[2].value), Fresh{});
  if (is_new) {
    found->second.rows = values_.program().planned_tensor(scalar_type(plan_.dtype), {keys[1], keys[0], keys[2]});
    if (is_quantized()) {
      found->second.magnitudes = values_.program().planned_tensor(ScalarType::FLOAT, {keys[0], keys[1]});
    }
  }
  return found->second;
}

void CachedAttention::give_to_cache(ValueId value, const Fresh& fresh) {
  if (is_quantized()) {
    return give_fractions(value, fresh);
  }
  const DType type = values_.mapped(value).native;
  const XnnId x = values_.get(value, type);
  Dims dims = delegate().dims(x);
  std::swap(dims[0], dims[1]);
  const XnnId result = values_.tensor_output(fresh.rows, plan_.dtype, dims);
  const XnnId by_head = type == plan_.dtype ? result : delegate().value(datatype(type), dims);
  delegate().transpose(x, by_head, {1, 0, 2});
  if (by_head != result) {
    delegate().unary(NodeUnion::Convert, by_head, result);
  }
}

void CachedAttention::give_fractions(ValueId value, const Fresh& fresh) {
  const XnnId x = values_.get(value, DType::kF32);
  const Dims dims = delegate().dims(x);
  const std::uint32_t tokens = dims[0];
  const std::uint32_t heads = dims[1];
  const std::uint32_t dim = dims[2];
  const XnnId magnitude = delegate().value(Datatype::fp32, dims);
  const XnnId columns = delegate().value(Datatype::fp32, {tokens * heads, dim, 1, 1});
  const XnnId greatest = delegate().value(Datatype::fp32, {tokens * heads, 1, 1, 1});
  const XnnId divisor = delegate().value(Datatype::fp32, {tokens, heads, 1});
  const XnnId fractions = delegate().value(Datatype::fp32, dims);
  const XnnId rounded = delegate().quantized_value(Datatype::qint8, dims, kFractions);
  delegate().unary(NodeUnion::Abs, x, magnitude);
  delegate().reshape(magnitude, columns, {0, dim, 1, 1});
  delegate().column_maximum(columns, greatest, kLeastMagnitude);
  delegate().reshape(greatest, values_.tensor_output(fresh.magnitudes, DType::kF32, {tokens, heads}), {0, heads});
  delegate().reshape(greatest, divisor, {0, heads, 1});
  delegate().binary(NodeUnion::Div, x, divisor, fractions);
  delegate().unary(NodeUnion::Convert, fractions, rounded);
  delegate().transpose(rounded, values_.tensor_output(fresh.rows, DType::kI8, {heads, tokens, dim}, kFractions),
                       {1, 0, 2});
}

XnnId CachedAttention::magnitudes(const Part& part, std::uint32_t kv_heads, DType type) {
  const auto capacity = static_cast<std::uint32_t>(plan_.tokens);
  const XnnId by_token = values_.tensor_input(part.seen_magnitudes, DType::kF32, {capacity, kv_heads});
  const XnnId by_head = delegate().value(Datatype::fp32, {kv_heads, capacity});
  delegate().transpose(by_token, by_head, {1, 0});
  return in_type(by_head, DType::kF32, type);
}

XnnId CachedAttention::scaled(XnnId x, XnnId magnitudes, std::uint32_t head, DType type) {
  const XnnId row = delegate().value(datatype(type), {1, delegate().dims(magnitudes)[1]});
  const XnnId product = delegate().value(datatype(type), delegate().dims(x));
  delegate().slice(magnitudes, row, {head, 0}, {1, 0});
  delegate().binary(NodeUnion::Multiply, x, row, product);
  return product;
}

XnnId CachedAttention::queries(ValueId value, const Shape& keys, float scale, DType type) {
  const std::uint32_t tokens = size_of(keys, 0);
  const std::uint32_t kv_heads = size_of(keys, 1);
  const std::uint32_t dim = size_of(keys, 2);
  const std::uint32_t group = size_of(values_.node(value).shape, 1) / kv_heads;
  const XnnId q = values_.get(value, type);
  const XnnId scaled = delegate().value(datatype(type), delegate().dims(q));
  const XnnId split = delegate().value(datatype(type), {tokens, kv_heads, group, dim});
  const XnnId by_head = delegate().value(datatype(type), {kv_heads, group, tokens, dim});
  delegate().binary(NodeUnion::Multiply, q, values_.computed_operand({scale}, {1}, type), scaled);
  delegate().reshape(scaled, split, {0, kv_heads, group, dim});
  delegate().transpose(split, by_head, {1, 2, 0, 3});
  return by_head;
}

void CachedAttention::choose_rows(ValueId hidden) {
  if (plan_.logits == CachePlan::Logits::kAll) {
    return;
  }
  ProgramBuilder& program = values_.program();
  values_.cut();
  const std::int64_t width = values_.node(hidden).shape.back().value;
  const DType type = values_.mapped(hidden).native;
  const auto table = program.view(values_.passed_tensor(hidden), 0, {plan_.block_tokens, width});
  program.kernel_call("aten::empty", "out",
                      {program.integers({count_, program.integer(width)}), program.null(), table, table});
  std::int32_t rows = rows_;
  Dim longest = {.value = plan_.block_tokens, .is_sequence = true};
  if (plan_.logits == CachePlan::Logits::kLast) {
    longest = {.value = 1};
    const auto last = program.integer(0);
    program.kernel_call("executorch_prim::sub", "Scalar", {count_, one_, last});
    const auto flat = program.planned_tensor(ScalarType::LONG, {longest});
    program.kernel_call("aten::arange", "start_out", {last, count_, one_, flat, flat});
    rows = program.view(flat, 0, {1, 1});
  }
  const auto chosen = program.planned_tensor(scalar_type(type), {{.value = 1}, longest, {.value = width}});
  look_up(program, table, rows, chosen);
  values_.delegate_input(hidden, chosen, type);
}

void CachedAttention::attention(ValueId value) {
  const Node& node = values_.node(value);
  const Layer& layer = layers_.at(value);
  const Shape& keys = values_.node(node.inputs[1]).shape;
  const std::uint32_t tokens = size_of(keys, 0);
  const std::uint32_t kv_heads = size_of(keys, 1);
  const std::uint32_t dim = size_of(keys, 2);
  const std::uint32_t group = size_of(values_.node(node.inputs[0]).shape, 1) / kv_heads;
  const auto capacity = static_cast<std::uint32_t>(plan_.tokens);
  const DType type = values_.common_type(node);
  ProgramBuilder& program = values_.program();

  std::array<Fresh, 2> made;
  for (const std::size_t part : {0U, 1U}) {
    made[part] = fresh_tensors(part, keys);
    give_to_cache(node.inputs[1 + part], made[part]);
  }
  values_.cut();
  const auto write = [&](std::int32_t buffer, std::int32_t indices, std::int32_t rows) {
    program.kernel_call("aten::index_put_", "", {buffer, indices, rows, program.boolean(false), buffer});
  };
  for (const std::size_t part : {0U, 1U}) {
    write(layer[part].buffer, row_indices_, made[part].rows);
    if (is_quantized()) {
      write(layer[part].magnitudes, magnitude_indices_, made[part].magnitudes);
    }
  }

  const float scale = std::get<AttentionAttributes>(node.attributes).scale;
  const XnnId q = queries(node.inputs[0], keys, scale, type);
  std::optional<XnnId> mask;
  if (node.inputs.size() == 4) {
    const XnnId f32 = values_.tensor_input(masks_.at(node.inputs[3]), DType::kF32, {group * tokens, capacity});
    mask = in_type(f32, DType::kF32, type);
  }
  const auto seen = [&](std::size_t part, std::size_t head) {
    const std::int32_t rows = layer[part].views[head];
    const XnnId view = is_quantized() ? values_.tensor_input(rows, plan_.dtype, {capacity, dim}, kFractions)
                                      : values_.tensor_input(rows, plan_.dtype, {capacity, dim});
    return in_type(view, plan_.dtype, type);
  };
  std::array<XnnId, 2> greatest = {kNoValue, kNoValue};
  if (is_quantized()) {
    for (const std::size_t part : {0U, 1U}) {
      greatest[part] = magnitudes(layer[part], kv_heads, type);
    }
  }
  const auto make = [&](Dims dims) { return delegate().value(datatype(type), std::move(dims)); };
  std::vector<XnnId> heads;
  for (std::uint32_t head = 0; head < kv_heads; ++head) {
    const XnnId slice = make({1, group, tokens, dim});
    const XnnId rows = make({group * tokens, dim});
    delegate().slice(q, slice, {head, 0, 0, 0}, {1, 0, 0, 0});
    delegate().reshape(slice, rows, {0, dim});
    XnnId scores = make({group * tokens, capacity});
    delegate().binary(NodeUnion::BatchMatrixMultiply, rows, seen(0, head), scores, kTransposeB);
    if (is_quantized()) {
      scores = scaled(scores, greatest[0], head, type);
    }
    if (mask) {
      const XnnId unmasked = std::exchange(scores, make({group * tokens, capacity}));
      delegate().binary(NodeUnion::Add, unmasked, *mask, scores);
    }
    XnnId weights = make({group * tokens, capacity});
    delegate().unary(NodeUnion::Softmax, scores, weights);
    if (is_quantized()) {
      weights = scaled(weights, greatest[1], head, type);
    }
    heads.push_back(make({group * tokens, dim}));
    delegate().binary(NodeUnion::BatchMatrixMultiply, weights, seen(1, head), heads.back());
  }
  XnnId mixed = heads.front();
  if (heads.size() > 1) {
    mixed = make({kv_heads * group * tokens, dim});
    delegate().concatenate(heads, mixed, 0);
  }
  const XnnId split = make({kv_heads, group, tokens, dim});
  const XnnId by_token = make({tokens, kv_heads, group, dim});
  delegate().reshape(mixed, split, {kv_heads, group, 0, dim});
  delegate().transpose(split, by_token, {2, 0, 1, 3});
  delegate().reshape(by_token, values_.define(value, type), {1, 0, kv_heads * group * dim});
}

}  // namespace diffulex_edge::xnnpack
