#include "backends/xnnpack/lowering.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backends/xnnpack/cached_attention.h"
#include "backends/xnnpack/delegate_values.h"
#include "backends/xnnpack/linear_layers.h"
#include "backends/xnnpack/program_operators.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::xnnpack {
namespace {

// Lowers each node, in order; what is neither a linear layer nor outside the delegate is here.
class Lowering {
 public:
  Lowering(const Model& model, const QuantizationResult& quantization, const std::optional<CachePlan>& cache)
      : values_(model, quantization, cache), linear_(values_), program_(values_) {
    if (cache) {
      cache_.emplace(values_, *cache);
    }
  }

  std::unique_ptr<LoweredProgram> run() {
    for (std::size_t i = 0; i < values_.graph().nodes().size(); ++i) {
      lower_node(static_cast<ValueId>(i));
    }
    linear_.add_warnings();
    return values_.finish();
  }

 private:
  void lower_node(ValueId value) {
    const Node& current = values_.node(value);
    switch (current.op) {
      case Op::kInput:
        program_.input(value);
        if (cache_) {
          cache_->begin(program_.length_of(value));
        }
        return;
      case Op::kWeight:
      case Op::kConstant:
        return;  // made where they are used
      case Op::kPositions:
        return cache_ ? cache_->positions(value) : program_.positions(value);
      case Op::kPositionTable:
        return program_.position_table(value);
      case Op::kEmbedding:
      case Op::kGather:
        return program_.embedding(value);
      case Op::kLinear:
        if (cache_ && value == values_.graph().output()) {
          cache_->choose_rows(current.inputs[0]);
        }
        return linear_.lower(value);
      case Op::kRmsNorm:
        return rms_norm(value);
      case Op::kReduceMean: {
        const XnnId input = values_.get(current.inputs[0], DType::kF32);
        return row_mean(input, upper_bounds(values_.node(current.inputs[0]).shape), 0.0F,
                        values_.define(value, DType::kF32));
      }
      case Op::kAdd:
        return binary(value, NodeUnion::Add);
      case Op::kSubtract:
        return binary(value, NodeUnion::Subtract);
      case Op::kMultiply:
        return binary(value, NodeUnion::Multiply);
      case Op::kNegate:
        return unary(value, NodeUnion::Negate);
      case Op::kDivide:
        return binary(value, NodeUnion::Div);
      case Op::kSquare:
        return unary(value, NodeUnion::Square);
      case Op::kSquareRoot:
        return unary(value, NodeUnion::SquareRoot);
      case Op::kTanh:
        return unary(value, NodeUnion::Tanh);
      case Op::kExp:
        return unary(value, NodeUnion::Exp);
      case Op::kGelu:
        return gelu(value);
      case Op::kReciprocalSquareRoot:
        return unary(value, NodeUnion::ReciprocalSquareRoot);
      case Op::kSigmoid:
        return unary(value, NodeUnion::Sigmoid);
      case Op::kSin:
        return unary(value, NodeUnion::Sin);
      case Op::kCos:
        return unary(value, NodeUnion::Cos);
      case Op::kFloor:
        return unary(value, NodeUnion::Floor);
      case Op::kSoftmax:
        return unary(value, NodeUnion::Softmax);
      case Op::kClamp: {
        const auto& range = std::get<ClampAttributes>(current.attributes);
        const DType type = values_.common_type(current);
        const XnnId input = values_.get(current.inputs[0], type);
        return values_.delegate().clamp(input, values_.define(value, type), range.min, range.max);
      }
      case Op::kMatMul: {
        const bool transpose_b = std::get<MatMulAttributes>(current.attributes).transpose_b;
        return binary(value, NodeUnion::BatchMatrixMultiply, transpose_b ? kTransposeB : 0);
      }
      case Op::kReshape:
      case Op::kTranspose:
      case Op::kSlice:
      case Op::kConcat:
        return rearrange(value);
      case Op::kLayerNorm:
        return layer_norm(value);
      case Op::kAttention:
      case Op::kBlockCausalMask:
        if (!cache_) {
          break;
        }
        return current.op == Op::kAttention ? cache_->attention(value) : cache_->mask(value);
      case Op::kRope:
      case Op::kSwiGlu:
      case Op::kRoute:
      case Op::kDispatch:
      case Op::kCombine:
        break;
    }
    throw Error(ErrorCode::kInternal, std::string(to_string(current.op)), "was not decomposed");
  }

  void gelu(ValueId value) {
    if (!std::get<GeluAttributes>(values_.node(value).attributes).tanh) {
      return unary(value, NodeUnion::Gelu);
    }
    const DType type = values_.common_type(values_.node(value));
    const XnnId x = values_.get(values_.node(value).inputs[0], type);
    const std::vector<std::uint32_t> dims = upper_bounds(values_.node(value).shape);
    const auto make = [&] { return values_.delegate().value(datatype(type), dims); };
    const auto times = [&](XnnId a, XnnId b) {
      const XnnId product = make();
      values_.delegate().binary(NodeUnion::Multiply, a, b, product);
      return product;
    };
    const auto plus = [&](XnnId a, XnnId b) {
      const XnnId sum = make();
      values_.delegate().binary(NodeUnion::Add, a, b, sum);
      return sum;
    };
    const auto scalar = [&](float number) { return values_.computed_operand({number}, {1}, type); };
    // sqrt(2 / pi) x (1 + 0.044715 x^2)
    const XnnId square = make();
    values_.delegate().unary(NodeUnion::Square, x, square);
    const XnnId scaled = times(x, scalar(0.7978845608F));
    const XnnId argument = times(scaled, plus(times(square, scalar(0.044715F)), scalar(1.0F)));
    const XnnId hyperbolic = make();
    values_.delegate().unary(NodeUnion::Tanh, argument, hyperbolic);
    const XnnId half = times(x, scalar(0.5F));
    const XnnId shifted = plus(hyperbolic, scalar(1.0F));
    values_.delegate().binary(NodeUnion::Multiply, half, shifted, values_.define(value, type));
  }

  void unary(ValueId value, NodeUnion kind) {
    const DType type = values_.common_type(values_.node(value));
    const XnnId input = values_.get(values_.node(value).inputs[0], type);
    values_.delegate().unary(kind, input, values_.define(value, type));
  }

  void binary(ValueId value, NodeUnion kind, std::uint32_t flags = 0) {
    const Node& current = values_.node(value);
    const DType type = values_.common_type(current);
    const auto operand = [&](ValueId input) {
      return values_.node(input).op == Op::kWeight ? values_.vector_operand(current, input, type)
                                                   : values_.get(input, type);
    };
    const XnnId a = operand(current.inputs[0]);
    const XnnId b = operand(current.inputs[1]);
    values_.delegate().binary(kind, a, b, values_.define(value, type), flags);
  }

  void rearrange(ValueId value) {
    const Node& current = values_.node(value);
    const DType type = values_.common_type(current);
    std::vector<XnnId> inputs;
    for (const ValueId input : current.inputs) {
      inputs.push_back(values_.get(input, type));
    }
    const XnnId output = values_.define(value, type);
    if (current.op == Op::kReshape) {
      std::vector<std::uint32_t> shape;
      for (const Dim& dim : current.shape) {
        shape.push_back(dim.is_sequence ? 0 : static_cast<std::uint32_t>(dim.value));
      }
      values_.delegate().reshape(inputs[0], output, std::move(shape));
    } else if (current.op == Op::kTranspose) {
      const auto& axes = std::get<AxesAttributes>(current.attributes).axes;
      values_.delegate().transpose(inputs[0], output, {axes.begin(), axes.end()});
    } else if (current.op == Op::kSlice) {
      const auto& range = std::get<SliceAttributes>(current.attributes);
      std::vector<std::uint32_t> offsets(current.shape.size(), 0);
      std::vector<std::uint32_t> sizes(current.shape.size(), 0);  // 0: the whole axis
      offsets[static_cast<std::size_t>(range.axis)] = static_cast<std::uint32_t>(range.begin);
      sizes[static_cast<std::size_t>(range.axis)] = static_cast<std::uint32_t>(range.end - range.begin);
      values_.delegate().slice(inputs[0], output, std::move(offsets), std::move(sizes));
    } else {
      const auto axis = std::get<AxesAttributes>(current.attributes).axes[0];
      values_.delegate().concatenate(std::move(inputs), output, static_cast<std::uint32_t>(axis));
    }
  }

  // Mean over the last axis plus a constant: XNNPACK has no mean, but a fully-connected layer with one row of 1/size.
  void row_mean(XnnId input, const std::vector<std::uint32_t>& dims, float shift, XnnId output) {
    const std::uint32_t size = dims.back();
    const std::vector<float> row(size, 1.0F / static_cast<float>(size));
    const XnnId filter = values_.computed_weight(row, {1, size});
    const XnnId bias = shift == 0.0F ? kNoValue : values_.computed_weight({shift}, {1});
    values_.delegate().fully_connected(input, filter, bias, output);
  }

  // x / sqrt(mean(x^2) + epsilon) over the last axis, always in FP32: squares overflow FP16 from 256 on. The result is
  // `target`, or a new value.
  XnnId normalize(XnnId x, float epsilon, std::optional<XnnId> target = std::nullopt) {
    const std::vector<std::uint32_t> dims = values_.delegate().dims(x);
    const XnnId square = values_.delegate().value(Datatype::fp32, dims);
    const XnnId mean = values_.delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId reciprocal = values_.delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId result = target ? *target : values_.delegate().value(Datatype::fp32, dims);
    values_.delegate().unary(NodeUnion::Square, x, square);
    row_mean(square, dims, epsilon, mean);
    values_.delegate().unary(NodeUnion::ReciprocalSquareRoot, mean, reciprocal);
    values_.delegate().binary(NodeUnion::Multiply, x, reciprocal, result);
    return result;
  }

  static std::vector<std::uint32_t> row_dims(std::vector<std::uint32_t> dims) {
    dims.back() = 1;
    return dims;
  }

  void rms_norm(ValueId value) {
    const Node& current = values_.node(value);
    const XnnId x = values_.get(current.inputs[0], DType::kF32);
    const XnnId normalized = normalize(x, std::get<RmsNormAttributes>(current.attributes).epsilon);
    const XnnId weight = values_.vector_operand(current, current.inputs[1], DType::kF32);
    values_.delegate().binary(NodeUnion::Multiply, normalized, weight, values_.define(value, DType::kF32));
    values_.mapped(value).flow = values_.compute();
  }

  void layer_norm(ValueId value) {
    const Node& current = values_.node(value);
    const XnnId x = values_.get(current.inputs[0], DType::kF32);
    const std::vector<std::uint32_t> dims = upper_bounds(current.shape);
    const XnnId mean = values_.delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId centered = values_.delegate().value(Datatype::fp32, dims);
    row_mean(x, dims, 0.0F, mean);
    values_.delegate().binary(NodeUnion::Subtract, x, mean, centered);
    // What a step of several makes: the last one makes the value itself.
    const auto result_of = [&](std::size_t step) {
      return step + 1 == current.inputs.size() ? values_.define(value, DType::kF32)
                                               : values_.delegate().value(Datatype::fp32, dims);
    };
    XnnId result = normalize(centered, std::get<LayerNormAttributes>(current.attributes).epsilon, result_of(0));
    for (std::size_t i = 1; i < current.inputs.size(); ++i) {
      const XnnId next = result_of(i);
      const XnnId weight = values_.vector_operand(current, current.inputs[i], DType::kF32);
      values_.delegate().binary(i == 1 ? NodeUnion::Multiply : NodeUnion::Add, result, weight, next);
      result = next;
    }
    values_.mapped(value).flow = values_.compute();
  }

  DelegateValues values_;
  LinearLayers linear_;
  ProgramOperators program_;
  std::optional<CachedAttention> cache_;
};

}  // namespace

void name_by_content(LoweredProgram& lowered) {
  for (LoweredProgram::NamedConstant& constant : lowered.named) {
    const ContentDigest content = lowered.weights.content(constant.segment);
    const ContentDigest digest =
        content_digest({std::as_bytes(std::span(content)), std::as_bytes(std::span(constant.packing))});
    constant.name = named_by(lowered.weights.segments()[constant.segment].name, digest);
    for (const auto& [delegate, number] : constant.uses) {
      lowered.delegates[delegate].rename_constant(number, constant.name);
    }
  }
}

std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization,
                                      const std::optional<CachePlan>& cache) {
  return Lowering(model, quantization, cache).run();
}

}  // namespace diffulex_edge::xnnpack
