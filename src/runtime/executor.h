// Executes a model's graph node by node, each for all tokens of a batch before the next: a layer's weights are read
// once for the whole batch, and whoever drives the executor sees every layer's input before it runs.
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
#include "runtime/model_layers.h"
#include "runtime/static_values.h"

namespace diffulex_edge {

// One value of the graph for all tokens, [rows, width] row-major: a row for each token in the order of the sequences,
// or a single row for what no token changes. Heads lie side by side in a row.
struct Activations {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::vector<float> data;

  std::span<const float> row(std::int64_t index) const {
    return std::span(data).subspan(static_cast<std::size_t>(index * width), static_cast<std::size_t>(width));
  }
};

// Elements a token of the widest value that is alive beside logits.
std::int64_t widest_activation(const ModelConfig& config);

class Executor {
 public:
  // Keeps references to `model`, `layers`, `control` and, where all values are integers, `integers`. Checks the
  // sequences; errors as forward().
  Executor(const Model& model, const TokenSequences& sequences, const ModelLayers& layers, const RunControl& control,
           const StaticValues* integers = nullptr);

  // The operator that comes next; nullptr when only the output layer, the head, is left. Sources (weights, constants)
  // and the mask are passed over.
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
  // The value that the last step made.
  ValueId last() const { return last_; }
  // Appends copies of the first sequences, as far as they have come: from here on they go their own way.
  void append_copies(std::size_t sequences);
  // Some rows of a value that is alive, for callers that change what later operators see.
  std::span<float> mutable_rows(ValueId id, std::int64_t begin, std::int64_t count);
  // Multiplies a value's columns, for layers that were made to expect it.
  void scale_columns(ValueId id, std::span<const float> factors);

  // From here on, the least and greatest attention score of each step, scale * q k^T without the mask, of pairs that
  // see each other. Costs a pass over them.
  void observe_scores() { scores_ = ActivationRange{}; }
  // Of the last step that had any; empty where they are not observed.
  const std::optional<ActivationRange>& scores() const { return scores_; }

  std::int64_t tokens() const { return tokens_; }
  // Where each sequence begins among the tokens; one more entry than sequences.
  const std::vector<std::int64_t>& offsets() const { return offsets_; }

  // After run_to_output: the logits of the given tokens, a bounded number of rows at a time, in order. `sink` gets the
  // position of the first one in `rows` and [count, vocab] values.
  void logits(
      std::span<const std::int64_t> rows,
      const std::function<void(std::size_t first, std::size_t count, std::span<const float> values)>& sink) const;

 private:
  void advance();
  Activations execute(const Node& node);
  Activations embedding(const Node& node) const;
  Activations linear(const Node& node) const;
  Activations rms_norm(const Node& node) const;
  Activations rope(const Node& node) const;
  void rope_row_in_integers(std::span<const float> x, std::span<const float> cos, std::span<const float> sin,
                            float* target, const AffineScale& products) const;
  Activations attention(const Node& node);
  Activations scaled_queries(ValueId id, float scale) const;
  void softmax(std::span<float> scores, bool is_masked) const;
  Activations swiglu(const Node& node) const;
  Activations positions() const;
  Activations binary(const Node& node) const;
  Activations unary(const Node& node) const;
  Activations concat(const Node& node) const;
  void round(ValueId id, Activations& made) const;
  void for_each_row(std::int64_t rows, const std::function<void(std::int64_t row)>& work) const;

  const Model& model_;
  TokenSequences sequences_;
  const ModelLayers& layers_;
  const RunControl& control_;
  const StaticValues* integers_;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> offsets_;
  std::vector<Activations> values_;
  std::vector<std::size_t> last_use_;  // of each value: the node that uses it last
  std::size_t position_ = 0;
  ValueId last_ = -1;
  std::optional<ActivationRange> scores_;  // while they are observed
};

// The logits of every sequence, as forward() gives them.
std::vector<std::vector<float>> run_model(const Model& model, const TokenSequences& sequences,
                                          const ModelLayers& layers, const std::optional<StaticValues>& integers,
                                          const RunControl& control);

}  // namespace diffulex_edge
