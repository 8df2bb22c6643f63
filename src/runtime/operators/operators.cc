#include "runtime/operators/operators.h"

#include <algorithm>

#include "core/parallel.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 16U;  // that one thread takes of cheap work

}  // namespace

std::vector<float> OperatorContext::vector(ValueId id) const {
  return node(id).op == Op::kWeight ? layers.load_vector(plan.graph().tensor(id)) : value(id).data;
}

void for_each_row(std::int64_t rows, std::int64_t width, const RunControl& control,
                  const std::function<void(std::int64_t)>& work) {
  const std::int64_t at_once = std::clamp<std::int64_t>(kElementsAtOnce / std::max<std::int64_t>(width, 1), 1, 1024);
  parallel_for(static_cast<std::size_t>((rows + at_once - 1) / at_once), control, [&](std::size_t tile, std::size_t) {
    const std::int64_t begin = static_cast<std::int64_t>(tile) * at_once;
    const std::int64_t end = std::min(rows, begin + at_once);
    for (std::int64_t row = begin; row < end; ++row) {
      work(row);
    }
  });
}

Kernel find_kernel(const ExecutionPlan& plan, ValueId id) {
  const Node& node = plan.graph().node(id);
  switch (node.op) {
    case Op::kInput:
    case Op::kWeight:
    case Op::kConstant:
      break;
    case Op::kEmbedding:
    case Op::kGather:
    case Op::kLinear:
    case Op::kMatMul:
      return operators::matrix_kernel(plan, id);
    case Op::kAttention:
      return operators::attention_kernel(plan, id);
    case Op::kRoute:
    case Op::kDispatch:
    case Op::kCombine:
      return operators::expert_kernel(node);
    case Op::kAdd:
    case Op::kSubtract:
    case Op::kMultiply:
    case Op::kDivide:
      return operators::pair_kernel(plan, id);
    case Op::kRmsNorm:
    case Op::kLayerNorm:
    case Op::kRope:
    case Op::kSwiGlu:
    case Op::kNegate:
    case Op::kSquare:
    case Op::kReciprocalSquareRoot:
    case Op::kSquareRoot:
    case Op::kSigmoid:
    case Op::kTanh:
    case Op::kExp:
    case Op::kGelu:
    case Op::kSin:
    case Op::kCos:
    case Op::kFloor:
    case Op::kClamp:
    case Op::kReduceMean:
    case Op::kSoftmax:
      return operators::row_kernel(node);
    case Op::kPositions:
    case Op::kPositionTable:
    case Op::kBlockCausalMask:
    case Op::kReshape:
    case Op::kTranspose:
    case Op::kSlice:
    case Op::kConcat:
      return operators::shape_kernel(node);
  }
  throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "is no operator that is executed");
}

}  // namespace diffulex_edge
