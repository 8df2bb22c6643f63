// The model graph: typed operators over values with symbolic shapes.
//
// Composite operators (embedding, linear, RMS norm, ...) say what a model means; primitive ones say how to compute it.
// `decompose` rewrites the composites that a backend does not take natively. Weights are names of checkpoint tensors:
// no weight data is in the graph.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

enum class Op {
  // Sources.
  kInput,          // a method's argument
  kWeight,         // WeightAttributes: a checkpoint tensor
  kConstant,       // ConstantAttributes: small computed data, float32
  kPositions,      // (input with one sequence dimension) -> 0, 1, ..., seq-1 as float32 [seq]
  kPositionTable,  // (input with one sequence dimension, constant [longest seq, ...]) -> its first seq rows
  // Composites; D = head_dim, H = query heads, K = key/value heads.
  kEmbedding,  // (weight [V, C], ids [...]) -> [..., C]
  kLinear,     // (x [..., in], weight [out, in], bias [out]?) -> [..., out]
  kRmsNorm,    // (x [..., C], weight [C]) -> x / sqrt(mean(x^2) + epsilon) * weight over the last dimension
  kLayerNorm,  // (x [..., C], weight [C]?, bias [C]?) -> (x - mean) / sqrt(variance + epsilon) * weight + bias
  kRope,       // (x [seq, heads, D], cos [seq, 1, D], signed_sin [seq, 1, D]) -> x*cos + swap_halves(x)*signed_sin
  kAttention,  // (q [seq, H, D], k [seq, K, D], v [seq, K, D], mask [1..., seq, seq]?) -> [1, seq, H*D]
  kSwiGlu,     // (gate, up) -> gate * sigmoid(gate) * up
  kBlockCausalMask,  // (positions [seq]) -> [seq, seq]: 0 where floor(j/block) <= floor(i/block), else very negative
  // Routed experts; E = experts; [seq, ...] may stand behind ones. Between kDispatch and kCombine, the rows of tokens
  // that did not choose the expert have
  // no meaning, and need not be computed.
  kRoute,     // (logits [seq, E], bias [E]?) -> [seq, E]: RouteAttributes; each chosen expert's weight, 0 for others
  kDispatch,  // (x [seq, C], routes [seq, E]) -> [seq, C]: ExpertAttributes; x, for the tokens that chose the expert
  kCombine,   // (y [seq, C], routes [seq, E], sum [seq, C]?) -> sum + routes[:, expert] * y
  // Primitives.
  kAdd,  // with NumPy broadcasting, as are the next three
  kSubtract,
  kMultiply,
  kDivide,
  kNegate,
  kSquare,
  kReciprocalSquareRoot,
  kSquareRoot,
  kSigmoid,
  kTanh,
  kExp,
  kGelu,  // GeluAttributes
  kSin,
  kCos,
  kFloor,
  kClamp,       // ClampAttributes
  kReduceMean,  // over the last dimension, which stays with size 1
  kSoftmax,     // over the last dimension
  kMatMul,      // MatMulAttributes; leading dimensions broadcast
  kReshape,     // ShapeAttributes; at most one sequence dimension
  kTranspose,   // AxesAttributes: the permutation
  kSlice,       // SliceAttributes
  kConcat,      // AxesAttributes: one axis
  kGather,      // (table [V, C], ids [...]) -> [..., C]
};

std::string_view to_string(Op op);
bool is_composite(Op op);

struct NoAttributes {};
struct WeightAttributes {
  std::string tensor;  // its name in the checkpoint
};
struct ConstantAttributes {
  std::vector<float> values;  // row-major
};
struct RmsNormAttributes {
  float epsilon = 0.0F;
};
struct LayerNormAttributes {
  float epsilon = 0.0F;
};
struct AttentionAttributes {
  float scale = 1.0F;  // applied to q
};
struct BlockCausalMaskAttributes {
  std::int64_t block_length = 1;
};
// How tokens choose experts. The score of each expert is a function of its logit; chosen are the `experts_per_token`
// highest of score + bias. Equal scores: the lower number.
struct RouteAttributes {
  enum class Score { kSoftmax, kSigmoid };

  Score score = Score::kSoftmax;
  std::int64_t experts_per_token = 1;
  // Neighbouring experts form groups; only those of the best `groups_per_token` can be chosen, by the sum of the two
  // highest scores + bias of each. 1: all experts are one group.
  std::int64_t groups = 1;
  std::int64_t groups_per_token = 1;
  bool has_biased_weights = false;  // an expert's weight is its score + bias, else its score
  bool normalizes = false;          // weights are divided by their sum
  float scale = 1.0F;               // multiplies them, last of all
};
struct ExpertAttributes {
  std::int64_t expert = 0;
};
struct ClampAttributes {
  float min = 0.0F;
  float max = 0.0F;
};
struct GeluAttributes {
  bool tanh = false;  // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) instead of x/2 (1 + erf(x / sqrt(2)))
};
struct MatMulAttributes {
  bool transpose_b = false;  // b is [..., n, k] instead of [..., k, n]
};
struct ShapeAttributes {
  Shape shape;
};
struct AxesAttributes {
  std::vector<std::int64_t> axes;
};
struct SliceAttributes {
  std::int64_t axis = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

using Attributes =
    std::variant<NoAttributes, WeightAttributes, ConstantAttributes, RmsNormAttributes, LayerNormAttributes,
                 AttentionAttributes, BlockCausalMaskAttributes, RouteAttributes, ExpertAttributes, ClampAttributes,
                 GeluAttributes, MatMulAttributes, ShapeAttributes, AxesAttributes, SliceAttributes>;

using ValueId = std::int32_t;  // the index of the node that makes the value

// One operator and the one value that it makes.
struct Node {
  Op op = Op::kInput;
  std::string name;  // a layer's canonical name ("layers.3.q_proj") or empty
  std::vector<ValueId> inputs;
  Attributes attributes;
  DType dtype = DType::kF32;
  Shape shape;
};

// Nodes in topological order: a node's inputs come before it.
class Graph {
 public:
  ValueId input(std::string name, DType dtype, Shape shape);
  ValueId weight(std::string tensor, Shape shape);
  ValueId constant(std::vector<float> values, Shape shape);
  // Infers dtype and shape. Throws Error{kInternal} where inputs or attributes do not fit the operator.
  ValueId add(Op op, std::vector<ValueId> inputs, Attributes attributes = {}, std::string name = {});
  void set_output(ValueId value, std::string name);

  const std::vector<Node>& nodes() const { return nodes_; }
  const Node& node(ValueId value) const { return nodes_.at(static_cast<std::size_t>(value)); }
  const Shape& shape(ValueId value) const { return node(value).shape; }
  // The checkpoint's name of a kWeight's tensor.
  const std::string& tensor(ValueId weight) const { return std::get<WeightAttributes>(node(weight).attributes).tensor; }
  ValueId output() const { return output_; }
  const std::string& output_name() const { return output_name_; }

 private:
  ValueId append(Node node);

  std::vector<Node> nodes_;
  ValueId output_ = -1;
  std::string output_name_;
};

// Rewrites every composite operator for which `keep` is false into primitives. Values that nothing uses any more are
// left out.
Graph decompose(const Graph& graph, const std::function<bool(Op)>& keep);

// What a masked attention score gets added; exp() of it is 0 beside any other score, and it is finite in float32.
inline constexpr float kMaskedScore = -1e9F;

}  // namespace diffulex_edge
