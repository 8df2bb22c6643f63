// The graph's operators on the CPU, in float32 or, where all values are integers, rounded to what those stand for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/graph.h"
#include "diffulex_edge/progress.h"
#include "runtime/batch.h"
#include "runtime/execution_plan.h"
#include "runtime/key_value_cache.h"
#include "runtime/model_layers.h"
#include "runtime/static_values.h"

namespace diffulex_edge {

// What an operator works with. References are to the session's state.
struct OperatorContext {
  const ExecutionPlan& plan;
  const Batch& batch;
  const std::vector<Activations>& values;  // by ValueId, those that are alive
  const ModelLayers& layers;
  const RunControl& control;
  const StaticValues* integers;              // or null: float32
  KeyValueCache* cache;                      // or null: every sequence is complete
  std::optional<ActivationRange>& scores;    // where they are observed: of this step
  std::vector<std::vector<float>>& scratch;  // of each thread
  std::int64_t seq_len;
  bool has_taken_input;  // the result begins as the input that the plan lets it take

  const Node& node(ValueId id) const { return plan.graph().node(id); }
  const Activations& value(ValueId id) const { return values[static_cast<std::size_t>(id)]; }
  // A norm's weight, a bias: from the model's layers, or a value of the graph.
  std::vector<float> vector(ValueId id) const;
};

// The kernel of a value that is neither an input, a weight nor a constant. Depends on shapes and layouts only.
Kernel find_kernel(const ExecutionPlan& plan, ValueId id);

// Calls work(row) for each of `rows` rows of `width` elements, cheap ones, several to an item.
void for_each_row(std::int64_t rows, std::int64_t width, const RunControl& control,
                  const std::function<void(std::int64_t row)>& work);

// The tokens whose route to the expert is not 0, in order. `routes` is what a kRoute made.
std::vector<std::int64_t> chosen_tokens(const Activations& routes, std::int64_t expert);

namespace operators {

Kernel row_kernel(const Node& node);  // norms, activation functions, softmax, ...: each row of the last dimension
Kernel pair_kernel(const ExecutionPlan& plan, ValueId id);    // the four of two operands
Kernel shape_kernel(const Node& node);                        // what moves elements, and makes positions
Kernel matrix_kernel(const ExecutionPlan& plan, ValueId id);  // linear layers, tables, matrix products
Kernel attention_kernel(const ExecutionPlan& plan, ValueId id);
Kernel expert_kernel(const Node& node);  // who computes which tokens, and what becomes of the results

}  // namespace operators
}  // namespace diffulex_edge
