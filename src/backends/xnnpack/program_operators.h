// Operators of the program outside the delegate: inputs, embeddings, and what follows from the number of tokens.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "backends/xnnpack/delegate_values.h"

namespace diffulex_edge::xnnpack {

// ATen's look-up: its kernel checks the ids.
void look_up(executorch::ProgramBuilder& program, std::int32_t table, std::int32_t ids, std::int32_t output);
// Ends an execution with ExecuTorch's InvalidArgument where an id is not a row of a table of so many: a look-up in one
// without columns, which has no bytes. `shape` is that of the rows of a table with columns, `constant` any.
void check_ids(executorch::ProgramBuilder& program, std::int32_t ids, const Shape& shape, std::int64_t rows,
               executorch::ConstantIndex constant);

class ProgramOperators {
 public:
  explicit ProgramOperators(DelegateValues& values) : values_(values) {}

  // An argument of the method: ids go to operators outside the delegate, numbers into it.
  void input(ValueId value);
  void embedding(ValueId value);
  void positions(ValueId value);
  void position_table(ValueId value);

  // The number of tokens at run time, from an argument that has them as a dimension: the program's integer.
  std::int32_t length_of(ValueId input);

 private:
  std::string quantized_embedding(const LayerPlan& plan, const StoredParts& parts, std::int32_t ids, const Shape& shape,
                                  std::int32_t output);
  DelegateValues& values_;
  std::map<ValueId, std::int32_t> inputs_;  // the program's tensors
  std::optional<std::int32_t> length_;      // the program's integer
};

}  // namespace diffulex_edge::xnnpack
