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
  // The embedding's constants: their segment, and their offsets in it behind the entry 0 that the format leaves unused.
  std::uint32_t constant_segment = 0;
  std::vector<std::uint64_t> constant_offsets = {0};
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;
};

// Throws Error{kUnsupported} for a combination of formats that XNNPACK has no kernel for.
std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization,
                                      ActivationDtype activation_dtype);

}  // namespace diffulex_edge::xnnpack
