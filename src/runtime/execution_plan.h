// How a graph is executed, decided once: the order of its operators, the kernel of each, how its values lie in memory
// and which of them share a buffer because the one is dead before the other is made.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "diffulex_edge/graph.h"
#include "runtime/batch.h"

namespace diffulex_edge {

struct OperatorContext;

// Writes the value `id` of the context's batch; `result` has its size.
using OperatorFunction = void (*)(const OperatorContext& context, ValueId id, Activations& result);

struct Kernel {
  std::string_view name;
  OperatorFunction run = nullptr;
};

class ExecutionPlan {
 public:
  enum class Layout {
    kShared,     // the same for every sequence: weights, constants, what follows from them
    kTokens,     // the sequence is the first dimension, behind ones: rows of all tokens
    kRouted,     // rows of the tokens that chose an expert, in their order
    kSequences,  // anything else: whole tensors
  };

  struct Step {
    ValueId value = -1;
    Kernel kernel;
    // The result is the buffer of this input, which nobody else uses: a reshape, or a sum that is added to. -1: none.
    int taken_input = -1;
    std::vector<ValueId> last_uses;  // inputs that are dead afterwards
  };

  // Keeps a reference to `graph`. Throws Error{kUnsupported} for a table with more rows than float32 tells apart.
  explicit ExecutionPlan(const Graph& graph);

  const Graph& graph() const { return graph_; }
  const std::vector<Step>& steps() const { return steps_; }
  // A linear layer whose output is the graph's: it has no step, its rows are computed on demand. -1: there is none.
  ValueId head() const { return head_; }
  // Weights that are operands as a whole, as a matrix product's: loaded before the first step.
  const std::vector<ValueId>& loaded_weights() const { return loaded_weights_; }

  Layout layout(ValueId value) const { return values_[static_cast<std::size_t>(value)].layout; }
  bool is_shared(ValueId value) const { return layout(value) == Layout::kShared; }
  // The kDispatch that says which rows a kRouted value has; -1 for others.
  ValueId route(ValueId value) const { return values_[static_cast<std::size_t>(value)].route; }
  // The buffer of a value that a step makes; -1 for others.
  int buffer(ValueId value) const { return values_[static_cast<std::size_t>(value)].buffer; }
  std::size_t buffers() const { return buffer_sizes_.size(); }

  // Elements of one sequence's tensor.
  std::int64_t elements(ValueId value, std::int64_t length) const;
  // Rows and width as Activations have them; a kRouted value's rows are the session's to know.
  void set_size(ValueId value, const Batch& batch, Activations& result) const;
  // Of the sequences' tensors: where each begins, in elements; one more entry than sequences. All 0 for a shared value.
  // Not of a kRouted one.
  std::vector<std::int64_t> begins(ValueId value, const Batch& batch) const;

 private:
  struct Value {
    Layout layout = Layout::kShared;
    ValueId route = -1;
    int buffer = -1;
    bool is_made = false;      // by a step
    std::size_t last_use = 0;  // node
    bool is_used = false;
  };

  void find_layouts();
  void find_route(std::size_t index);
  void find_uses();
  void find_head();
  bool needs_step(std::size_t index) const;
  void add_step(std::size_t index);
  int take_buffer(std::int64_t size);

  const Graph& graph_;
  std::vector<Value> values_;
  std::vector<Step> steps_;
  std::vector<ValueId> loaded_weights_;
  std::vector<std::int64_t> buffer_sizes_;  // for the longest sequence
  std::vector<int> free_buffers_;
  ValueId head_ = -1;
};

std::span<const Dim> without_leading_ones(std::span<const Dim> dims);

// Whether an operator reads this input, a kWeight, from the model's layers itself, row by row or as a vector.
bool reads_weight(const Node& user, std::size_t input);

}  // namespace diffulex_edge
