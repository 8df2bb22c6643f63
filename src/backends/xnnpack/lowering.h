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
  // The program's constant tensors, in the order of their numbers, which begin with 1: tables of operators outside the
  // delegate, and what the delegate does not pack.
  struct Constant {
    std::uint32_t segment = 0;
    std::int64_t offset = 0;  // in it
  };
  std::vector<Constant> constants;
  // The delegate's own constants, which it packs. The weight cache of ExecuTorch's backend is one for the process and
  // knows what is packed by the names of filter and bias: a name holds a hash of all that the packed form depends on.
  // Until the weights have been streamed, a name of the same length stands for it.
  struct NamedConstant {
    std::string name;
    std::uint32_t segment = 0;
    std::uint32_t index = 0;  // in the delegate's graph
    std::string packing;      // what the packed form depends on beside the bytes
  };
  std::vector<NamedConstant> named;
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;
};

// After streaming: gives every named constant the name that its content asks for.
void name_by_content(LoweredProgram& lowered);

// Throws Error{kUnsupported} for a combination of formats that XNNPACK has no kernel for.
std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization);

}  // namespace diffulex_edge::xnnpack
