// From the model graph and its quantization plan to an ExecuTorch program: one XNNPACK delegate call, or, with a cache,
// one before the first layer's attention, one between each layer's and the next one's, and one behind the last.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/cache_plan.h"
#include "backends/executorch/program_builder.h"
#include "backends/xnnpack/delegate_graph.h"
#include "backends/xnnpack/weight_store.h"
#include "diffulex_edge/backend.h"

namespace diffulex_edge::xnnpack {

struct LoweredProgram {
  explicit LoweredProgram(WeightStore weight_store) : program("forward"), weights(std::move(weight_store)) {}

  executorch::ProgramBuilder program;
  std::deque<DelegateGraph> delegates;  // in the order of their calls, which is that of the payloads; addresses stay
  WeightStore weights;
  // The program's constant tensors, in the order of their numbers, which begin with 1: tables of operators outside the
  // delegate, and what the delegate does not pack.
  struct Constant {
    std::uint32_t segment = 0;
    std::int64_t offset = 0;  // in it
  };
  std::vector<Constant> constants;
  // The delegates' own constants, which they pack. The weight cache of ExecuTorch's backend is one for the process and
  // knows what is packed by the names of filter and bias: a name holds a hash of all that the packed form depends on.
  // Until the weights have been streamed, a name of the same length stands for it.
  struct NamedConstant {
    std::string name;
    std::uint32_t segment = 0;
    std::string packing;                                      // what the packed form depends on beside the bytes
    std::vector<std::pair<std::size_t, std::uint32_t>> uses;  // delegate, and the constant's number in its graph
  };
  std::vector<NamedConstant> named;
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;
};

// With a cache, the method is forward(input_ids int64 [1, B], start_pos int64 [1]) -> logits float32 [1, B, vocab] for
// B of 1 to `block_tokens`: tokens at the positions start_pos to start_pos + B, whose keys and values are written to
// the program's buffers. Instead of start_pos it takes all positions, int64 [B], of which the first counts.
// Bidirectional models have another argument behind it, context_len int64 [1]: the end of what the tokens see. Where
// logits are of rows, a last argument has their places in input_ids, int64 [1, R]. The result is [1, 1, vocab] for the
// last token's logits, and [1, R, vocab] for those of rows.

// After streaming: gives every named constant the name that its content asks for.
void name_by_content(LoweredProgram& lowered);

// Throws Error{kUnsupported} for a combination of formats that XNNPACK has no kernel for.
std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization,
                                      const std::optional<CachePlan>& cache = std::nullopt);

}  // namespace diffulex_edge::xnnpack
