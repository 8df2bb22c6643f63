// Executes a plan operator by operator, each for all tokens of a batch before the next: a layer's weights are read once
// for the whole batch, and whoever drives the session sees every layer's input before it runs. Buffers, and keys and
// values, stay from one batch to the next where they are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/runtime.h"
#include "runtime/batch.h"
#include "runtime/execution_plan.h"
#include "runtime/key_value_cache.h"
#include "runtime/model_layers.h"
#include "runtime/static_values.h"

namespace diffulex_edge {

// Elements a token of the widest value that is alive beside logits.
std::int64_t widest_activation(const ModelConfig& config);

class ExecutionSession {
 public:
  // Keeps references to everything; `plan` is of `model`'s graph. With `integers`, every value is rounded to what its
  // integer stands for.
  ExecutionSession(const ExecutionPlan& plan, const Model& model, const ModelLayers& layers, const RunControl& control,
                   const StaticValues* integers = nullptr);

  // From here on, keys and values stay in the session: a batch's sequences may go on where those of the cache ended, at
  // any earlier position, or in the middle of what is known already (Batch::ends). Exact where the model is
  // block-causal and a batch ends with a block. Error{kOutOfMemory}.
  void keep_keys_and_values(const KeyValueCacheOptions& options) { cache_.emplace(plan_.graph(), options); }
  // From here on, the memory of dead values stays for later ones, in this batch and the next: after the first batch,
  // steps allocate no values. Else it is given back at once, which needs the least memory for large batches.
  void keep_buffers() { keeps_buffers_ = true; }
  const KeyValueCache* cache() const { return cache_ ? &*cache_ : nullptr; }

  // Starts a batch; the last one's values are gone. Errors: kInvalidArgument where a sequence begins behind position 0
  // and keys are not kept, or those of positions that it sees are missing, or there is no room for its own.
  void begin(Batch batch);

  // The operator that comes next; nullptr when only the output layer, the head, is left, or nothing.
  const Node* next() const;
  // Executes it. A value is dropped after its last use.
  void step();
  void run_to_output() {
    while (next() != nullptr) {
      step();
    }
  }

  // A value that is alive: made, and still to be used.
  const Activations& value(ValueId id) const { return values_[static_cast<std::size_t>(id)]; }
  // Whether a value is between kDispatch and kCombine: it has the rows of some tokens only.
  bool is_routed(ValueId id) const { return plan_.layout(id) == ExecutionPlan::Layout::kRouted; }
  // The token of each row of such a value, in order.
  std::vector<std::int64_t> routed_tokens(ValueId id) const;
  // A layer's input as rows of its weight's columns.
  InputRows input_of(const Node& layer) const;
  // The value that the last step made.
  ValueId last() const { return last_; }
  // Appends copies of the first sequences, as far as they have come: from here on they go their own way. Keys are not
  // kept.
  void append_copies(std::size_t sequences);
  // How many of a value's rows are of the first sequences.
  std::int64_t first_rows(ValueId id, std::size_t sequences) const;
  // Some rows of a value that is alive, for callers that change what later operators see.
  std::span<float> mutable_rows(ValueId id, std::int64_t begin, std::int64_t count);
  // Multiplies the last dimension's columns, for layers that were made to expect it.
  void scale_columns(ValueId id, std::span<const float> factors);

  // From here on, the least and greatest attention score of each step, scale * q k^T without the mask, of pairs that
  // see each other. Costs a pass over them.
  void observe_scores() { scores_ = ActivationRange{}; }
  // Of the last step that had any; empty where they are not observed.
  const std::optional<ActivationRange>& scores() const { return scores_; }

  const Batch& batch() const { return batch_; }
  std::int64_t tokens() const { return batch_.tokens(); }
  // Where each sequence begins among the tokens; one more entry than sequences.
  const std::vector<std::int64_t>& offsets() const { return batch_.offsets; }

  // After run_to_output, of a plan with a head: the logits of the given tokens, a bounded number of rows at a time, in
  // order: at most `at_once`, or as many as 128 MB hold. `sink` gets the position of the first one in `rows` and
  // [count, vocab] values.
  void logits(std::span<const std::int64_t> rows,
              const std::function<void(std::size_t first, std::size_t count, std::span<float> values)>& sink,
              std::size_t at_once = 0);

 private:
  Activations& made(ValueId id) { return values_[static_cast<std::size_t>(id)]; }
  void set_sources();
  void check_cache(const Batch& batch) const;
  void finish_cache();
  Activations start_result(const ExecutionPlan::Step& step);
  void drop_last_uses(const ExecutionPlan::Step& step);
  void round(ValueId id, Activations& made) const;

  const ExecutionPlan& plan_;
  const Model& model_;
  const ModelLayers& layers_;
  const RunControl& control_;
  const StaticValues* integers_;
  Batch batch_;
  std::vector<Activations> values_;
  bool keeps_buffers_ = false;
  std::vector<std::vector<float>> buffers_;  // of values that are dead, by the plan's numbers
  std::vector<std::vector<float>> scratch_;  // of each thread
  std::size_t position_ = 0;                 // among the plan's steps
  ValueId last_ = -1;
  std::optional<ActivationRange> scores_;  // while they are observed
  std::optional<KeyValueCache> cache_;
  std::vector<float> head_input_;
  Activations head_output_;
};

// The logits of every sequence, as forward() gives them. Error{kUnsupported} for a graph without a head.
std::vector<std::vector<float>> run_model(const ExecutionPlan& plan, const Model& model,
                                          const TokenSequences& sequences, const ModelLayers& layers,
                                          const std::optional<StaticValues>& integers, const RunControl& control);

}  // namespace diffulex_edge
