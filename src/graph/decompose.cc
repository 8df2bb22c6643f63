// The one decomposition of each composite operator into primitives.

#include <map>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/graph.h"
#include "graph/decompose_route.h"
#include "graph/graph_parts.h"

namespace diffulex_edge {
namespace {

using Inputs = std::vector<ValueId>;

ValueId scalar(Graph& graph, float value) { return graph.constant({value}, {{.value = 1}}); }

ValueId linear(Graph& graph, const Inputs& in) {
  const ValueId product = graph.add(Op::kMatMul, {in[0], in[1]}, MatMulAttributes{.transpose_b = true});
  return in.size() == 2 ? product : graph.add(Op::kAdd, {product, in[2]});
}

// x / sqrt(mean(x^2) + epsilon) over the last dimension.
ValueId normalized(Graph& graph, ValueId x, float epsilon) {
  const ValueId mean = graph.add(Op::kReduceMean, {graph.add(Op::kSquare, {x})});
  const ValueId shifted = graph.add(Op::kAdd, {mean, scalar(graph, epsilon)});
  return graph.add(Op::kMultiply, {x, graph.add(Op::kReciprocalSquareRoot, {shifted})});
}

ValueId rms_norm(Graph& graph, const Inputs& in, const RmsNormAttributes& attributes) {
  return graph.add(Op::kMultiply, {normalized(graph, in[0], attributes.epsilon), in[1]});
}

ValueId layer_norm(Graph& graph, const Inputs& in, const LayerNormAttributes& attributes) {
  const ValueId centered = graph.add(Op::kSubtract, {in[0], graph.add(Op::kReduceMean, {in[0]})});
  ValueId result = normalized(graph, centered, attributes.epsilon);
  if (in.size() > 1) {
    result = graph.add(Op::kMultiply, {result, in[1]});
  }
  return in.size() > 2 ? graph.add(Op::kAdd, {result, in[2]}) : result;
}

ValueId rope(Graph& graph, const Inputs& in) {
  const std::int64_t head_dim = graph.shape(in[0])[2].value;
  const ValueId first = graph.add(Op::kSlice, {in[0]}, SliceAttributes{.axis = 2, .begin = 0, .end = head_dim / 2});
  const ValueId second =
      graph.add(Op::kSlice, {in[0]}, SliceAttributes{.axis = 2, .begin = head_dim / 2, .end = head_dim});
  const ValueId swapped = graph.add(Op::kConcat, {second, first}, AxesAttributes{.axes = {2}});
  return graph.add(Op::kAdd, {graph.add(Op::kMultiply, {in[0], in[1]}), graph.add(Op::kMultiply, {swapped, in[2]})});
}

// Query heads are grouped by the key/value head that they share, so that neither keys nor values are copied:
// [K, H/K, seq, D] x [K, 1, D, seq].
ValueId attention(Graph& graph, const Inputs& in, const AttentionAttributes& attributes) {
  const Shape q_shape = graph.shape(in[0]);
  const Dim seq = q_shape[0];
  const Dim head_dim = q_shape[2];
  const Dim kv_heads = graph.shape(in[1])[1];
  const Dim group = {.value = q_shape[1].value / kv_heads.value};
  const AxesAttributes swap{.axes = {1, 0, 2}};
  const auto reshape = [&](ValueId value, Shape shape) {
    return graph.add(Op::kReshape, {value}, ShapeAttributes{.shape = std::move(shape)});
  };
  const auto by_kv_head = [&](ValueId value, Dim heads) {
    return reshape(graph.add(Op::kTranspose, {value}, swap), {kv_heads, heads, seq, head_dim});
  };
  const ValueId q = by_kv_head(graph.add(Op::kMultiply, {in[0], scalar(graph, attributes.scale)}), group);
  const ValueId k = by_kv_head(in[1], {.value = 1});
  const ValueId v = by_kv_head(in[2], {.value = 1});
  ValueId scores = graph.add(Op::kMatMul, {q, k}, MatMulAttributes{.transpose_b = true});
  if (in.size() == 4) {
    scores = graph.add(Op::kAdd, {scores, in[3]});
  }
  const ValueId mixed = graph.add(Op::kMatMul, {graph.add(Op::kSoftmax, {scores}), v}, MatMulAttributes{});
  const ValueId by_head = reshape(mixed, {q_shape[1], seq, head_dim});
  return reshape(graph.add(Op::kTranspose, {by_head}, swap),
                 {{.value = 1}, seq, {.value = q_shape[1].value * head_dim.value}});
}

ValueId swiglu(Graph& graph, const Inputs& in) {
  const ValueId silu = graph.add(Op::kMultiply, {in[0], graph.add(Op::kSigmoid, {in[0]})});
  return graph.add(Op::kMultiply, {silu, in[1]});
}

// Block indices are floor((position + 1/2) / block): the half keeps the division away from the integers, where rounding
// could fall to the wrong side. The difference key block - query block is an integer: clamped to [0, 1], it says
// "masked".
ValueId block_causal_mask(Graph& graph, const Inputs& in, const BlockCausalMaskAttributes& attributes) {
  const Dim seq = graph.shape(in[0])[0];
  ValueId block = in[0];
  if (attributes.block_length > 1) {
    const float reciprocal = 1.0F / static_cast<float>(attributes.block_length);
    const ValueId scaled = graph.add(Op::kMultiply, {in[0], scalar(graph, reciprocal)});
    block = graph.add(Op::kFloor, {graph.add(Op::kAdd, {scaled, scalar(graph, 0.5F * reciprocal)})});
  }
  const ValueId query = graph.add(Op::kReshape, {block}, ShapeAttributes{.shape = {seq, {.value = 1}}});
  const ValueId key = graph.add(Op::kReshape, {block}, ShapeAttributes{.shape = {{.value = 1}, seq}});
  const ValueId masked =
      graph.add(Op::kClamp, {graph.add(Op::kSubtract, {key, query})}, ClampAttributes{.min = 0.0F, .max = 1.0F});
  return graph.add(Op::kMultiply, {masked, scalar(graph, kMaskedScore)});
}

// sum + routes[:, expert] * y: all tokens are computed, and those that did not choose the expert add 0.
ValueId combine(Graph& graph, const Inputs& in, const ExpertAttributes& attributes) {
  const auto axis = static_cast<std::int64_t>(graph.shape(in[1]).size()) - 1;
  const ValueId weight = graph.add(
      Op::kSlice, {in[1]}, SliceAttributes{.axis = axis, .begin = attributes.expert, .end = attributes.expert + 1});
  const ValueId part = graph.add(Op::kMultiply, {in[0], weight});
  return in.size() == 2 ? part : graph.add(Op::kAdd, {in[2], part});
}

ValueId decompose_node(Graph& graph, const Node& node, const Inputs& in) {
  switch (node.op) {
    case Op::kEmbedding:
      return graph.add(Op::kGather, in, NoAttributes{}, node.name);
    case Op::kLinear:
      return linear(graph, in);
    case Op::kRmsNorm:
      return rms_norm(graph, in, std::get<RmsNormAttributes>(node.attributes));
    case Op::kLayerNorm:
      return layer_norm(graph, in, std::get<LayerNormAttributes>(node.attributes));
    case Op::kRope:
      return rope(graph, in);
    case Op::kAttention:
      return attention(graph, in, std::get<AttentionAttributes>(node.attributes));
    case Op::kSwiGlu:
      return swiglu(graph, in);
    case Op::kBlockCausalMask:
      return block_causal_mask(graph, in, std::get<BlockCausalMaskAttributes>(node.attributes));
    case Op::kRoute:
      return decompose_route(graph, in, std::get<RouteAttributes>(node.attributes), node.name);
    case Op::kDispatch:
      return in[0];
    case Op::kCombine:
      return combine(graph, in, std::get<ExpertAttributes>(node.attributes));
    default:
      throw Error(ErrorCode::kInternal, "operator " + std::string(to_string(node.op)), "has no decomposition");
  }
}

}  // namespace

Graph decompose(const Graph& graph, const std::function<bool(Op)>& keep) {
  const std::vector<bool> used = used_values(graph);
  Graph result;
  std::vector<ValueId> mapped(graph.nodes().size(), -1);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (!used[i] && node.op != Op::kInput) {
      continue;
    }
    Inputs inputs;
    for (const ValueId input : node.inputs) {
      inputs.push_back(mapped[static_cast<std::size_t>(input)]);
    }
    switch (node.op) {
      case Op::kInput:
        mapped[i] = result.input(node.name, node.dtype, node.shape);
        break;
      case Op::kWeight:
        mapped[i] = result.weight(std::get<WeightAttributes>(node.attributes).tensor, node.shape);
        break;
      case Op::kConstant:
        mapped[i] = result.constant(std::get<ConstantAttributes>(node.attributes).values, node.shape);
        break;
      default:
        mapped[i] = is_composite(node.op) && !keep(node.op)
                        ? decompose_node(result, node, inputs)
                        : result.add(node.op, std::move(inputs), node.attributes, node.name);
    }
  }
  result.set_output(mapped.at(static_cast<std::size_t>(graph.output())), graph.output_name());
  return result;
}

}  // namespace diffulex_edge
