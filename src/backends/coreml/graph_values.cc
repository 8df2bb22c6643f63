#include "backends/coreml/graph_values.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::size_t kMaxRank = 5;  // of a value
// Constants of fewer values stand in the program itself, as those of coremltools do.
constexpr std::size_t kStoredCount = 10;

// By ValueId: what the output needs.
std::vector<bool> needed_values(const Graph& graph) {
  std::vector<bool> needed(graph.nodes().size(), false);
  needed.at(static_cast<std::size_t>(graph.output())) = true;
  for (std::size_t i = needed.size(); i-- > 0;) {
    for (const ValueId input : graph.nodes()[i].inputs) {
      needed[static_cast<std::size_t>(input)] = needed[static_cast<std::size_t>(input)] || needed[i];
    }
  }
  return needed;
}

MilType ints_type(std::size_t count) {
  return {.dtype = MilDtype::kInt32, .shape = {{.value = static_cast<std::int64_t>(count)}}};
}

std::vector<std::int64_t> longest_sizes(const Shape& shape) {
  std::vector<std::int64_t> sizes;
  for (const Dim& dim : shape) {
    sizes.push_back(dim.value);
  }
  return sizes;
}

}  // namespace

std::string describe(const Node& node) {
  const std::string op(to_string(node.op));
  return node.name.empty() ? op : op + " '" + node.name + "'";
}

GraphValues::GraphValues(const Graph& graph, const PositionValues& positions, const GraphPart& part,
                         const LoweringSettings& settings, LoweredPart& result)
    : MilOperations(result.function, settings.weights.arithmetic),
      graph_(graph),
      positions_(positions),
      part_(part),
      settings_(settings),
      result_(result),
      of_inputs_(values_of_inputs(graph_)),
      needed_(needed_values(graph_)),
      mapped_(graph_.nodes().size()) {
  if (settings.cache) {
    MilOperations& operations = *this;
    step_.emplace(
        operations, *settings.cache, [this] { return length(); },
        [this, most = settings.cache->block_tokens] { return token_indices(most); });
    step_->take_names();
  }
}

void GraphValues::make_part() {
  take_feature_names();
  if (part_.input) {
    define(*part_.input, function().input(part_.input_name, value_type(*part_.input)));
    note_length_source(mapped(*part_.input));
  }
  for (ValueId value = part_.begin; value < part_.end; ++value) {
    if (node(value).op == Op::kInput) {
      input(value);
    } else if (at(of_inputs_, value) && at(needed_, value)) {
      make(value);
    }  // else it is made where it is used: weights, masks, what positions say
  }
  finish();
}

Shape GraphValues::run_time_shape(Shape shape) const {
  for (Dim& dim : shape) {
    dim.is_sequence = dim.is_sequence && !settings_.fixed_length;
  }
  return shape;
}
MilType GraphValues::value_type(ValueId value) const {
  return {.dtype = arithmetic(), .shape = run_time_shape(node(value).shape)};
}

// --- Inputs and the output.

// What passes between parts keeps its name; then inputs and the output take theirs, before any operation.
void GraphValues::take_feature_names() {
  for (const std::string& name : {part_.input_name, part_.output_name}) {
    if (!name.empty()) {
      function().take_name(name);
    }
  }
  for (ValueId value = part_.begin; value < part_.end; ++value) {
    if (node(value).op == Op::kInput) {
      input_names_.emplace(value, feature_name("input", node(value).name));
    }
  }
  if (is_last_part()) {
    output_name_ = feature_name("output", graph_.output_name());
  }
}

std::string GraphValues::feature_name(const std::string& kind, const std::string& wish) {
  std::string name = function().take_name(wish);
  if (name != wish) {
    result_.warnings.push_back(kind + " '" + wish + "' has a name that Core ML does not take here: it is called '" +
                               name + "'");
  }
  return name;
}

// Numbers are float32, as NumPy, PyTorch and Swift have them, whatever the arithmetic: the signature of a model does
// not change with the precision it was exported in.
void GraphValues::input(ValueId value) {
  const Node& current = node(value);
  const std::string place = "input '" + current.name + "'";
  const bool is_float = current.dtype == DType::kF32;
  if (!is_float && current.dtype != DType::kI32 && current.dtype != DType::kI64) {
    throw Error(ErrorCode::kUnsupported, place,
                "is of type " + std::string(to_string(current.dtype)) + ": Core ML takes float32 and integers here");
  }
  if (current.shape.empty() || current.shape.size() > kMaxRank) {
    throw Error(ErrorCode::kUnsupported, place,
                "has " + std::to_string(current.shape.size()) + " dimensions: Core ML takes 1 to 5");
  }
  const Id id = function().input(input_names_.at(value), {.dtype = is_float ? MilDtype::kFloat32 : MilDtype::kInt32,
                                                          .shape = run_time_shape(current.shape)});
  note_length_source(id);
  // Beyond float16 there would be infinities, and differences of those are no numbers.
  const bool narrow = is_float && is_half() && at(needed_, value);
  define(value, narrow ? cast(clip(id, -kernels::kMaxFinite16, kernels::kMaxFinite16), arithmetic()) : id);
}

void GraphValues::finish() {
  if (!is_last_part()) {
    function().output(mapped(part_.end - 1), part_.output_name);
    return;
  }
  Id output = mapped(graph_.output());
  if (function().type(output).dtype != MilDtype::kInt32) {
    output = cast(output, MilDtype::kFloat32);
  }
  if (!function().is_computed(output)) {
    output = unary("identity", output);
  }
  function().output(output, output_name_);
}

// --- Values that depend on positions, and constants.

void GraphValues::note_length_source(Id input) {
  if (!length_source_ && has_sequence(shape(input))) {
    length_source_ = input;
  }
}

Shape GraphValues::stored_shape(Shape shape) const {
  if (settings_.cache) {
    for (Dim& dim : shape) {
      dim.value = dim.is_sequence ? settings_.cache->tokens : dim.value;
    }
  }
  return shape;
}

Id GraphValues::rows_at(Id table, const Shape& full, Id rows) {
  const auto sequence = std::ranges::find_if(full, &Dim::is_sequence);
  MilType type = function().type(table);
  const auto axis = static_cast<std::size_t>(sequence - full.begin());
  type.shape[axis] = shape(rows).front();
  return function().add(
      "gather", {{"x", {table}}, {"indices", {rows}}, {"axis", {integer(static_cast<std::int32_t>(axis))}}}, type);
}

Id GraphValues::token_indices(std::int64_t most) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(most));
  std::iota(indices.begin(), indices.end(), 0);
  const Id all = function().constant(ints_literal(std::move(indices)), "token_indices");
  if (settings_.fixed_length) {
    return all;
  }
  const MilType type{.dtype = MilDtype::kInt32, .shape = {{.value = most, .is_sequence = true}}};
  return function().add("slice_by_index", {{"x", {all}}, {"begin", {ints({0})}}, {"end", {length()}}}, type);
}

// The input's length as int32 [1].
Id GraphValues::length() {
  if (settings_.cache && settings_.fixed_length) {
    return ints({static_cast<std::int32_t>(settings_.cache->block_tokens)});
  }
  if (!length_source_) {
    throw Error(ErrorCode::kUnsupported, "chunk size", "a part of the model has no input with the sequence's length",
                "choose a larger one, or export for one length");
  }
  const Id source_input = *length_source_;
  if (length_) {
    return *length_;
  }
  const Shape& source = shape(source_input);
  const auto axis = static_cast<std::int32_t>(std::ranges::find_if(source, &Dim::is_sequence) - source.begin());
  const Id shape_of = function().add("shape", {{"x", {source_input}}}, ints_type(source.size()));
  const Id length =
      function().add("slice_by_index", {{"x", {shape_of}}, {"begin", {ints({axis})}}, {"end", {ints({axis + 1})}}},
                     ints_type(1), "length");
  length_ = length;
  return length;
}

// The input's length for each sequence dimension of `shape`, 0 for the others: int32 [rank].
Id GraphValues::ends_at_length(const Shape& shape) {
  std::vector<Id> pieces;
  std::vector<std::int32_t> zeros;
  const auto close = [&] {
    if (!zeros.empty()) {
      pieces.push_back(ints(std::exchange(zeros, {})));
    }
  };
  for (const Dim& dim : shape) {
    if (dim.is_sequence) {
      close();
      pieces.push_back(length());
    } else {
      zeros.push_back(0);
    }
  }
  close();
  if (pieces.size() == 1) {
    return pieces.front();
  }
  return function().add("concat", {{"values", pieces}, {"axis", {integer(0)}}}, ints_type(shape.size()));
}

// A constant of the longest sequence's shape, cut to the input's length along each sequence dimension of `full`.
Id GraphValues::cut_to_length(Id table, const Shape& full) {
  if (step_ && has_sequence(full)) {
    return rows_at(table, full, step_->table_rows());
  }
  MilType type = function().type(table);
  type.shape = run_time_shape(full);
  if (!has_sequence(type.shape)) {
    return table;
  }
  const std::size_t rank = full.size();
  const Id end = ends_at_length(full);
  std::vector<bool> whole_axis(rank, true);
  const Id begin_mask = function().constant(bools_literal(whole_axis));
  for (std::size_t i = 0; i < rank; ++i) {
    whole_axis[i] = !full[i].is_sequence;
  }
  const Id end_mask = function().constant(bools_literal(whole_axis));
  return function().add("slice_by_index",
                        {{"x", {table}},
                         {"begin", {ints(std::vector<std::int32_t>(rank, 0))}},
                         {"end", {end}},
                         {"begin_mask", {begin_mask}},
                         {"end_mask", {end_mask}}},
                        type);
}

// Masks keep their meaning in float16; other numbers that it does not hold are refused.
std::vector<float> GraphValues::held_by_half(std::span<const float> values) {
  std::vector<float> held(values.begin(), values.end());
  for (float& value : held) {
    if (value > kernels::kMaxFinite16) {
      throw Error(ErrorCode::kUnsupported, "constant", "has values beyond FP16 (65504)", "use --activation-dtype fp32");
    }
    if (value <= -kernels::kMaxFinite16) {
      value = kMaskedInHalf;
      result_.clamped_constants = true;
    }
  }
  return held;
}

Id GraphValues::constant_floats(std::span<const float> values, const Shape& full, std::string_view name,
                                bool in_place) {
  const std::vector<std::int64_t> sizes = longest_sizes(full);
  const std::vector<float> held = is_half() ? held_by_half(values) : std::vector(values.begin(), values.end());
  if (in_place) {
    return function().constant(floats_literal(arithmetic(), held, static_shape(sizes)), name);
  }
  return function().constant(blob_literal(arithmetic(), sizes, result_.weights.add_computed(held)), name);
}

// Whether the value is stored: it is known, and a shorter sequence's is a part of it.
bool GraphValues::is_stored(ValueId value) const {
  if (settings_.cache) {
    return positions_.find(value) != nullptr && positions_.can_be_cut(value) &&
           std::ranges::count_if(node(value).shape, &Dim::is_sequence) <= 1;
  }
  return positions_.find(value) != nullptr &&
         (settings_.fixed_length || !has_sequence(node(value).shape) || positions_.can_be_cut(value));
}

Id GraphValues::stored(ValueId value) {
  const Shape full = stored_shape(node(value).shape);
  const std::vector<float>& values = known(value);
  const bool is_constant = node(value).op == Op::kConstant;
  const std::string_view name = is_constant ? "constant" : "positions";
  return cut_to_length(constant_floats(values, full, name, is_constant && values.size() < kStoredCount), full);
}

Id GraphValues::mapped(ValueId value) {
  if (const std::optional<Id> known_id = slot(value)) {
    return *known_id;
  }
  if (is_stored(value)) {
    check_rank(value);
    return define(value, stored(value));
  }
  if (at(of_inputs_, value)) {
    throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value in this part");
  }
  return make(value);
}

// The value as the arithmetic takes it: ids become numbers.
Id GraphValues::number(ValueId value) {
  const Id id = mapped(value);
  if (function().type(id).dtype == arithmetic()) {
    return id;
  }
  const auto [position, inserted] = numbers_.emplace(id, 0);
  if (inserted) {
    position->second = cast(id, arithmetic());
  }
  return position->second;
}

// The value as what a table is asked for, int32.
Id GraphValues::ids(const Node& user, ValueId value) {
  if (is_stored(value)) {
    const Shape full = stored_shape(node(value).shape);
    std::vector<std::int32_t> whole;
    for (const float number : known(value)) {
      whole.push_back(static_cast<std::int32_t>(number));
    }
    return cut_to_length(
        function().constant({.type = {.dtype = MilDtype::kInt32, .shape = static_shape(longest_sizes(full))},
                             .value = std::move(whole)},
                            "ids"),
        full);
  }
  const Id id = mapped(value);
  if (function().type(id).dtype != MilDtype::kInt32) {
    throw Error(ErrorCode::kUnsupported, describe(user), "its ids are computed numbers, not an input's integers");
  }
  return id;
}

void GraphValues::check_rank(ValueId value) const {
  const std::size_t rank = node(value).shape.size();
  if (rank > kMaxRank || (rank == 0 && node(value).op == Op::kReshape)) {
    throw Error(ErrorCode::kUnsupported, describe(node(value)),
                "has a value of " + std::to_string(rank) + " dimensions: Core ML takes 1 to 5");
  }
}

Id GraphValues::make(ValueId value) {
  check_rank(value);
  return define(value, lowered(value));
}

}  // namespace diffulex_edge::coreml
