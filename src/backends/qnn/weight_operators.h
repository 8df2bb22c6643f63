// Operators that read a weight, in the forms in which Qualcomm's compiler takes it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "backends/qnn/value_writer.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::qnn {

struct LoweredModel;

class WeightOperators {
 public:
  // `bits` in mode static. Keeps the references; notes the stored layers, and what became of them, in `result`.
  WeightOperators(const Model& model, const QuantizationConfig& config, OnnxDtype arithmetic, std::optional<int> bits,
                  OnnxGraph& graph, ValueWriter& writer, LoweredModel& result)
      : model_(model),
        config_(config),
        arithmetic_(arithmetic),
        bits_(bits),
        graph_(graph),
        writer_(writer),
        result_(result) {}

  // Rows of an embedding, [ids, columns], for ids of one dimension. Errors: kUnsupported for INT4.
  Id rows(const LayerPlan& plan, Id ids);
  // x W^T for x [n, columns]. A head's logits in floating point need no integers after them.
  Value multiply(const LayerPlan& plan, const Value& x, const ActivationRange& range, bool is_head);
  // A norm's weight or a bias. Errors: kBadFile for a value that is not finite.
  std::vector<float> vector(const LayerPlan& plan);

 private:
  void note_layer(const LayerPlan& plan, std::string kernel, const StoredMatrix& stored);
  Id float_matrix(LayerPlan plan, const std::string& kernel);
  Id dequantized_matrix(const LayerPlan& plan, int bits);
  Value multiply_blocks(const LayerPlan& plan, const Value& x);
  Id external(OnnxType type, ExternalData data, const std::string& name, std::string_view reader = {});
  Id zero_points(OnnxDtype dtype, const Sizes& sizes, const std::string& name);
  std::string float_name() const { return arithmetic_ == OnnxDtype::kFloat16 ? "fp16" : "fp32"; }

  const Model& model_;
  const QuantizationConfig& config_;
  OnnxDtype arithmetic_;
  std::optional<int> bits_;
  OnnxGraph& graph_;
  ValueWriter& writer_;
  LoweredModel& result_;
  std::map<std::tuple<std::string, int, std::int64_t, Sizes>, Id> externals_;  // by reader, type and place
};

}  // namespace diffulex_edge::qnn
