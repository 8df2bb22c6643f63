#include "backends/coreml/step_inputs.h"

namespace diffulex_edge::coreml {
namespace {

constexpr const char* kStart = "start_pos";
constexpr const char* kCount = "token_count";
constexpr const char* kContext = "context_len";

MilType one_integer() { return {.dtype = MilDtype::kInt32, .shape = {{.value = 1}}}; }

}  // namespace

void StepInputs::take_names() {
  for (const char* name : {kStart, kCount, kContext}) {
    operations_.function().take_name(name);
  }
}

// All at once, in one order, whichever is asked for first.
const StepInputs::Inputs& StepInputs::inputs() {
  if (!inputs_) {
    const auto input = [&](const char* name) { return operations_.function().input(name, one_integer()); };
    Inputs made;
    made.start = input(kStart);
    made.count = input(kCount);
    made.seen = plan_.is_bidirectional ? std::optional(input(kContext)) : std::nullopt;
    inputs_ = made;
  }
  return *inputs_;
}

Id StepInputs::end() {
  if (!end_) {
    end_ = operations_.binary("add", start(), inputs().count, one_integer(), "end_pos");
  }
  return *end_;
}

Id StepInputs::seen() {
  const std::optional<Id> given = inputs().seen;
  return given ? *given : end();
}

Id StepInputs::last() {
  if (!last_) {
    const Id one = operations_.function().constant(ints_literal({1}));
    last_ = operations_.binary("sub", inputs().count, one, one_integer(), "last_token");
  }
  return *last_;
}

Id StepInputs::counted() {
  if (!counted_) {
    const Id all = positions();
    const MilType type{.dtype = MilDtype::kBool, .shape = operations_.shape(all)};
    counted_ = operations_.expand_dims(operations_.binary("less", all, end(), type), 1);
  }
  return *counted_;
}

Id StepInputs::positions() {
  if (!positions_) {
    const Id indices = indices_();
    positions_ = operations_.binary("add", indices, start(), operations_.function().type(indices), "positions");
  }
  return *positions_;
}

Id StepInputs::table_rows() {
  if (!table_rows_) {
    const Id all = positions();
    const Id last_row = operations_.function().constant(ints_literal({static_cast<std::int32_t>(plan_.tokens - 1)}));
    table_rows_ = operations_.binary("minimum", all, last_row, operations_.function().type(all), "table_rows");
  }
  return *table_rows_;
}

}  // namespace diffulex_edge::coreml
