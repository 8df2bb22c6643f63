// The values of a graph in a function that is being lowered: inputs and the output, constants, and what follows from
// positions alone. What computes the others is for a class on top of it to say.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/coreml/lowering.h"
#include "backends/coreml/mil_operations.h"
#include "backends/coreml/step_inputs.h"
#include "diffulex_edge/graph.h"

namespace diffulex_edge::coreml {

// What becomes, in float16, of a mask's number that float16 does not hold, or holds as its least. The sum of two of
// them and a score is finite still, so that a row where all is masked has no NaN.
inline constexpr float kMaskedInHalf = -3e4F;

// An operator in a message.
std::string describe(const Node& node);

class GraphValues : protected MilOperations {
 public:
  GraphValues(const GraphValues&) = delete;
  GraphValues& operator=(const GraphValues&) = delete;
  GraphValues(GraphValues&&) = delete;
  GraphValues& operator=(GraphValues&&) = delete;

 protected:
  GraphValues(const Graph& graph, const PositionValues& positions, const GraphPart& part,
              const LoweringSettings& settings, LoweredPart& result);
  virtual ~GraphValues() = default;

  // Makes the whole part, from its inputs to its output.
  void make_part();
  // An operator's result; its operands come from `number` and the like.
  virtual Id lowered(ValueId value) = 0;

  LoweredPart& result() { return result_; }
  const LoweringSettings& settings() const { return settings_; }
  const Graph& graph() const { return graph_; }
  const Node& node(ValueId value) const { return graph_.node(value); }

  // With no sequence dimension where the length is fixed.
  Shape run_time_shape(Shape shape) const;
  // The value's, in the arithmetic's type.
  MilType value_type(ValueId value) const;

  // The value in whatever type it is: ids too. What does not depend on an input is made where it is first used.
  Id mapped(ValueId value);
  // The value as the arithmetic takes it: ids become numbers.
  Id number(ValueId value);
  // The value as what a table is asked for by `user`, int32.
  Id ids(const Node& user, ValueId value);

  // Whether the value is a constant of the artefact: it is known, and a shorter sequence's is a part of it.
  bool is_stored(ValueId value) const;
  // The numbers of a stored value.
  const std::vector<float>& known(ValueId value) const { return *positions_.find(value); }
  // A constant of the shape `full` for the longest sequence, in the arithmetic's type; `in_place`: in the program, not
  // in its weight file.
  Id constant_floats(std::span<const float> values, const Shape& full, std::string_view name, bool in_place = false);
  // A constant of the shape `full` for the longest sequence, cut to the input's length along each sequence dimension.
  // Of one step of a text: the rows of its positions.
  Id cut_to_length(Id table, const Shape& full);

  // Where the function computes one step of a text.
  StepInputs* step() { return step_ ? &*step_ : nullptr; }

 private:
  static bool at(const std::vector<bool>& flags, ValueId value) { return flags[static_cast<std::size_t>(value)]; }
  std::optional<Id>& slot(ValueId value) { return mapped_[static_cast<std::size_t>(value)]; }
  Id define(ValueId value, Id id) {
    slot(value) = id;
    return id;
  }
  bool is_last_part() const { return part_.end == static_cast<ValueId>(graph_.nodes().size()); }

  void take_feature_names();
  std::string feature_name(const std::string& kind, const std::string& wish);
  void input(ValueId value);
  void finish();
  // For the longest sequence that a constant is for: the cache's, where there is one.
  Shape stored_shape(Shape shape) const;
  // Along the sequence of `full`, which has one.
  Id rows_at(Id table, const Shape& full, Id rows);
  // 0 to the number of the step's tokens, int32 [B], where B is `most` at most.
  Id token_indices(std::int64_t most);
  void note_length_source(Id input);
  Id length();
  Id ends_at_length(const Shape& shape);
  std::vector<float> held_by_half(std::span<const float> values);
  Id stored(ValueId value);
  void check_rank(ValueId value) const;
  Id make(ValueId value);

  const Graph& graph_;
  const PositionValues& positions_;
  const GraphPart& part_;
  const LoweringSettings& settings_;
  LoweredPart& result_;
  std::vector<bool> of_inputs_;
  std::vector<bool> needed_;
  std::vector<std::optional<Id>> mapped_;
  std::map<Id, Id> numbers_;  // integers as the arithmetic takes them
  std::map<ValueId, std::string> input_names_;
  std::string output_name_;
  std::optional<Id> length_source_;  // the function's first input that has the sequence's length
  std::optional<Id> length_;
  std::optional<StepInputs> step_;
};

}  // namespace diffulex_edge::coreml
