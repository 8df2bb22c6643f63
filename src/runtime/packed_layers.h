// A model's layers with their weights packed in memory: read once, run many times.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "runtime/layer_arithmetic.h"
#include "runtime/model_layers.h"
#include "runtime/packed_weight.h"

namespace diffulex_edge {

class PackedLayers final : public ModelLayers {
 public:
  // Streams every weight of the model into memory, in its planned format; without a plan, quantized and FP16 weights
  // stay as they are and others become FP32. Uses of one tensor in one format share it. Keeps no reference to `model`
  // or `plan`. With a folder for packs, matrices are mapped from the file there that has them as they would be packed,
  // or packed and written to it. Errors: those of stream_weights and PackFile, and kUnsupported for INT8 rows of more
  // than 65,793 elements.
  PackedLayers(const Model& model, const QuantizationPlan* plan, const RunControl& control,
               const std::filesystem::path& packs = {});

  void run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
           const RunControl& control) const override;
  void load_weight(const Node& user, const std::string& tensor, std::int64_t row_begin, std::int64_t rows,
                   std::span<float> target) const override;
  std::vector<float> load_vector(const std::string& tensor) const override;

  // Of all weights, norms and biases, shared ones once.
  std::int64_t bytes() const;
  // The same without weights that only embeddings of `graph`, the model's, use.
  std::int64_t bytes_without_tables(const Graph& graph) const;
  // Throws Error{kBadFile} where a mapped file was cut while it was read.
  void check() const;

 private:
  // One use of a matrix by a linear or embedding layer.
  struct Layer {
    std::shared_ptr<PackedWeight> weight;
    std::vector<float> bias;  // or empty
    InputArithmetic arithmetic = InputArithmetic::kFloat;
    std::optional<LayerPlan> plan;
  };

  const Layer& layer_of(const Node& node) const;

  std::shared_ptr<const MappedFile> pack_;            // or none
  std::map<std::string, Layer, std::less<>> layers_;  // by the name of the node
  std::map<std::string, std::vector<float>, std::less<>> vectors_;
};

}  // namespace diffulex_edge
