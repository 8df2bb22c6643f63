// Weights as operands of operations, in the arithmetic's type, from whatever form they are stored in.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "backends/coreml/lowering.h"
#include "backends/coreml/mil_operations.h"

namespace diffulex_edge::coreml {

// Each weight that is taken is noted as a layer of `part`.
class WeightOperands {
 public:
  WeightOperands(LoweredPart& part, const LoweringSettings& settings) : part_(part), settings_(settings) {}

  // A norm's weight or a bias, [columns].
  Id vector(const LayerPlan& plan);
  // [rows, columns]; equal ones are made once. `user` is what computes with it, as kernels are named.
  Id matrix(const LayerPlan& plan, const std::string& user);

 private:
  MilFunction& function() { return part_.function; }
  MilDtype arithmetic() const { return settings_.weights.arithmetic; }
  void note_layer(LayerPlan plan, std::string kernel, std::int64_t bytes);
  Id make_matrix(const LayerPlan& plan, const StoredMatrix& stored);
  Id scaled_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type, const std::string& name);
  Id palette_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type, const std::string& name);

  LoweredPart& part_;
  const LoweringSettings& settings_;
  std::map<std::pair<std::string, std::int64_t>, Id> matrices_;  // by their values' place
};

}  // namespace diffulex_edge::coreml
