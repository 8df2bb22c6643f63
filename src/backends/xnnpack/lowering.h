// From the model graph and its quantization plan to an ExecuTorch program with one XNNPACK delegate call.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/executorch/program_builder.h"
#include "backends/xnnpack/delegate_graph.h"
#include "backends/xnnpack/weight_store.h"
#include "diffulex_edge/backend.h"

namespace diffulex_edge::xnnpack {

struct LoweredProgram {
  explicit LoweredProgram(WeightStore weight_store) : program("forward"), weights(std::move(weight_store)) {}

  executorch::ProgramBuilder program;
  DelegateGraph delegate;
  WeightStore weights;
  // Tables of operators outside the delegate, in the order of their numbers, which begin with 1.
  struct Constant {
    std::uint32_t segment = 0;
    std::int64_t offset = 0;  // in it
  };
  std::vector<Constant> constants;
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;
};

// Throws Error{kUnsupported} for a combination of formats that XNNPACK has no kernel for.
std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization,
                                      ActivationDtype activation_dtype);

}  // namespace diffulex_edge::xnnpack
