// Layers whose weights are read from the checkpoint each time they run, in float32 or simulating a target's integers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "quant/codebook.h"
#include "runtime/layer_arithmetic.h"
#include "runtime/model_layers.h"

namespace diffulex_edge {

class LinearLayers final : public ModelLayers {
 public:
  // Without a plan, weights are what the checkpoint holds. Keeps references to both.
  LinearLayers(const Model& model, const QuantizationPlan* plan) : model_(model), plan_(plan) {}

  // Replaces a layer's weight by one in memory (float32 [rows, columns]) until it is removed.
  void replace_weight(const std::string& tensor, std::vector<float> weight) { replaced_[tensor] = std::move(weight); }
  void restore_weight(const std::string& tensor) { replaced_.erase(tensor); }

  void run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
           const RunControl& control) const override;
  void load_weight(const Node& user, const std::string& tensor, std::int64_t row_begin, std::int64_t rows,
                   std::span<float> target) const override;
  // A vector (norm weight, bias), or the whole of a matrix.
  std::vector<float> load_vector(const std::string& tensor) const override;

 private:
  const LayerPlan* plan_of(const Node& user, const std::string& tensor) const;
  const Codebooks& codebooks(const LayerPlan& plan, const StoredWeight& source, const RunControl& control) const;

  const Model& model_;
  const QuantizationPlan* plan_;
  std::map<std::string, std::vector<float>> replaced_;
  mutable std::atomic<std::size_t> last_found_ = 0;  // among the plan's layers, which run in their order
  // Of layers that have run, fitted when one is first needed.
  mutable std::mutex codebooks_mutex_;
  mutable std::map<const LayerPlan*, Codebooks> codebooks_;
};

}  // namespace diffulex_edge
