#include "graph/shape_inference.h"

#include <algorithm>
#include <string>

#include "core/join.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

// The checks of one operator's inputs, with messages that name it.
class Inference {
 public:
  Inference(Op op, std::span<const Node* const> inputs, const Attributes& attributes)
      : op_(op), inputs_(inputs), attributes_(attributes) {}

  ValueType run() {
    switch (op_) {
      case Op::kInput:
      case Op::kWeight:
      case Op::kConstant:
        break;  // their types are given, not inferred
      case Op::kPositions:
        expect_inputs(1, 1);
        return {DType::kF32, {sequence_of(0)}};
      case Op::kPositionTable:
        return position_table();
      case Op::kEmbedding:
      case Op::kGather:
        return gather();
      case Op::kLinear:
        return linear();
      case Op::kRmsNorm:
        expect_inputs(2, 2);
        require(rank(0) >= 1 && shape(1) == Shape{shape(0).back()}, "the weight must be as long as the last dimension");
        return same_as(0);
      case Op::kLayerNorm:
        expect_inputs(1, 3);
        require(rank(0) >= 1, "the input must have a dimension");
        for (std::size_t i = 1; i < inputs_.size(); ++i) {
          require(shape(i) == Shape{shape(0).back()}, "weight and bias must be as long as the last dimension");
        }
        return same_as(0);
      case Op::kRope:
        return rope();
      case Op::kAttention:
        return attention();
      case Op::kSwiGlu:
        expect_inputs(2, 2);
        require(shape(0) == shape(1), "gate and up must have one shape");
        return same_as(0);
      case Op::kBlockCausalMask:
        expect_inputs(1, 1);
        require(rank(0) == 1, "positions must be [seq]");
        return {DType::kF32, {shape(0)[0], shape(0)[0]}};
      case Op::kRoute:
        return route();
      case Op::kDispatch:
        expect_inputs(2, 2);
        require_expert(0);
        return same_as(0);
      case Op::kCombine:
        expect_inputs(2, 3);
        require_expert(0);
        require(inputs_.size() == 2 || shape(2) == shape(0), "the sum must have the shape of what is added to it");
        return same_as(0);
      case Op::kAdd:
      case Op::kSubtract:
      case Op::kMultiply:
      case Op::kDivide:
        expect_inputs(2, 2);
        return {DType::kF32, broadcast(shape(0), shape(1))};
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
      case Op::kSoftmax:
        expect_inputs(1, 1);
        require(rank(0) >= 1, "the input must have a dimension");
        return same_as(0);
      case Op::kReduceMean: {
        expect_inputs(1, 1);
        require(rank(0) >= 1, "the input must have a dimension");
        ValueType type = same_as(0);
        type.shape.back() = {.value = 1};
        return type;
      }
      case Op::kMatMul:
        return mat_mul();
      case Op::kReshape:
        return reshape();
      case Op::kTranspose:
        return transpose();
      case Op::kSlice:
        return slice();
      case Op::kConcat:
        return concat();
    }
    fail("its type can't be inferred");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const auto shape_of = [](const Node* input) { return to_string(input->shape); };
    throw Error(ErrorCode::kInternal, "operator " + std::string(to_string(op_)),
                what + "; inputs: " + join(inputs_, ", ", shape_of));
  }
  void require(bool condition, const char* what) const {
    if (!condition) {
      fail(what);
    }
  }
  void expect_inputs(std::size_t least, std::size_t most) const {
    require(inputs_.size() >= least && inputs_.size() <= most, "wrong number of inputs");
  }
  const Shape& shape(std::size_t index) const { return inputs_[index]->shape; }
  std::size_t rank(std::size_t index) const { return shape(index).size(); }
  ValueType same_as(std::size_t index) const { return {inputs_[index]->dtype, shape(index)}; }
  template <typename T>
  const T& attributes() const {
    const T* result = std::get_if<T>(&attributes_);
    require(result != nullptr, "wrong attributes");
    return *result;
  }
  std::size_t axis(std::int64_t value, std::size_t rank) const {
    require(value >= 0 && value < static_cast<std::int64_t>(rank), "the axis is out of range");
    return static_cast<std::size_t>(value);
  }

  Shape broadcast(const Shape& a, const Shape& b) const {
    Shape result(std::max(a.size(), b.size()), Dim{.value = 1});
    for (std::size_t i = 0; i < result.size(); ++i) {
      const Dim one{.value = 1};
      const Dim left = i < a.size() ? a[a.size() - 1 - i] : one;
      const Dim right = i < b.size() ? b[b.size() - 1 - i] : one;
      require(left == right || left == one || right == one, "the shapes do not broadcast");
      result[result.size() - 1 - i] = left == one ? right : left;
    }
    return result;
  }

  ValueType gather() const {
    expect_inputs(2, 2);
    require(rank(0) == 2 && rank(1) >= 1, "the table must be [rows, columns], the ids have a dimension");
    Shape result = shape(1);
    result.push_back(shape(0)[1]);
    return {DType::kF32, std::move(result)};
  }

  // The one sequence dimension of an input.
  Dim sequence_of(std::size_t index) const {
    require(std::ranges::count_if(shape(index), &Dim::is_sequence) == 1, "the input must have one sequence dimension");
    return *std::ranges::find_if(shape(index), &Dim::is_sequence);
  }

  ValueType position_table() const {
    expect_inputs(2, 2);
    const Dim sequence = sequence_of(0);
    require(rank(1) >= 1 && shape(1)[0] == Dim{.value = sequence.value}, "the table must have a row for each position");
    ValueType type = same_as(1);
    type.shape[0] = sequence;
    return type;
  }

  ValueType linear() const {
    expect_inputs(2, 3);
    require(rank(0) >= 1 && rank(1) == 2 && shape(0).back() == shape(1)[1], "input and weight do not fit");
    require(inputs_.size() == 2 || shape(2) == Shape{shape(1)[0]}, "the bias does not fit the weight");
    ValueType type = same_as(0);
    type.shape.back() = shape(1)[0];
    return type;
  }

  ValueType rope() const {
    expect_inputs(3, 3);
    require(rank(0) == 3 && shape(0)[2].value % 2 == 0, "the input must be [seq, heads, even head_dim]");
    const Shape table = {shape(0)[0], {.value = 1}, shape(0)[2]};
    require(shape(1) == table && shape(2) == table, "the tables must be [seq, 1, head_dim]");
    return same_as(0);
  }

  ValueType attention() const {
    expect_inputs(3, 4);
    require(rank(0) == 3 && rank(1) == 3 && shape(1) == shape(2) && shape(0)[0] == shape(1)[0] &&
                shape(0)[2] == shape(1)[2],
            "q must be [seq, heads, head_dim], k and v [seq, kv_heads, head_dim]");
    require(shape(1)[1].value > 0 && shape(0)[1].value % shape(1)[1].value == 0,
            "heads must be a multiple of kv_heads");
    require(inputs_.size() == 3 || is_mask(shape(3), shape(0)[0]), "the mask must be [seq, seq] behind ones");
    return {DType::kF32, {{.value = 1}, shape(0)[0], {.value = shape(0)[1].value * shape(0)[2].value}}};
  }

  ValueType route() const {
    expect_inputs(1, 2);
    const auto& route = attributes<RouteAttributes>();
    require(is_of_tokens(0), "the logits must be [seq, experts]");
    require(inputs_.size() == 1 || shape(1) == Shape{shape(0).back()}, "the bias must have an element for each expert");
    const std::int64_t experts = shape(0).back().value;
    require(route.groups >= 1 && experts % route.groups == 0, "the groups must divide the experts");
    const std::int64_t group = experts / route.groups;
    require(route.groups_per_token >= 1 && route.groups_per_token <= route.groups && (route.groups == 1 || group >= 2),
            "the groups must be chosen by two experts or more");
    require(route.experts_per_token >= 1 && route.experts_per_token <= route.groups_per_token * group,
            "a token can't choose so many experts");
    return same_as(0);
  }

  // [seq, width], behind ones.
  bool is_of_tokens(std::size_t index) const {
    const Shape& s = shape(index);
    return s.size() >= 2 && s[s.size() - 2].is_sequence && !s.back().is_sequence &&
           std::all_of(s.begin(), s.end() - 2, [](const Dim& dim) { return dim == Dim{.value = 1}; });
  }

  // Rows of tokens and their routes, the second input.
  void require_expert(std::size_t rows) const {
    require(is_of_tokens(rows) && is_of_tokens(1) && rank(rows) == rank(1) &&
                shape(rows)[rank(rows) - 2] == shape(1)[rank(1) - 2],
            "tokens and routes must be [seq, ...]");
    const std::int64_t expert = attributes<ExpertAttributes>().expert;
    require(expert >= 0 && expert < shape(1).back().value, "there is no such expert");
  }

  static bool is_mask(const Shape& mask, const Dim& seq) {
    Shape wanted(std::max<std::size_t>(mask.size(), 2), Dim{.value = 1});
    std::fill(wanted.end() - 2, wanted.end(), seq);
    return mask == wanted;
  }

  ValueType mat_mul() const {
    expect_inputs(2, 2);
    require(rank(0) >= 2 && rank(1) >= 2, "both inputs must be matrices");
    const bool transpose_b = attributes<MatMulAttributes>().transpose_b;
    const Dim inner = shape(1)[rank(1) - (transpose_b ? 1 : 2)];
    require(shape(0).back() == inner, "the inner dimensions differ");
    const Shape batch_a(shape(0).begin(), shape(0).end() - 2);
    const Shape batch_b(shape(1).begin(), shape(1).end() - 2);
    Shape result = broadcast(batch_a, batch_b);
    result.push_back(shape(0)[rank(0) - 2]);
    result.push_back(shape(1)[rank(1) - (transpose_b ? 2 : 1)]);
    return {DType::kF32, std::move(result)};
  }

  ValueType reshape() const {
    expect_inputs(1, 1);
    const Shape& target = attributes<ShapeAttributes>().shape;
    const auto sequence_dims = [](const Shape& s) { return std::ranges::count_if(s, &Dim::is_sequence); };
    require(sequence_dims(target) <= 1 && sequence_dims(shape(0)) == sequence_dims(target) &&
                element_count(shape(0)) == element_count(target),
            "the elements do not fit the new shape");
    return {inputs_[0]->dtype, target};
  }

  ValueType transpose() const {
    expect_inputs(1, 1);
    const auto& axes = attributes<AxesAttributes>().axes;
    require(axes.size() == rank(0), "the permutation must name every axis");
    Shape result;
    std::vector<bool> seen(rank(0), false);
    for (const std::int64_t value : axes) {
      const std::size_t index = axis(value, rank(0));
      require(!seen[index], "the permutation names an axis twice");
      seen[index] = true;
      result.push_back(shape(0)[index]);
    }
    return {inputs_[0]->dtype, std::move(result)};
  }

  ValueType slice() const {
    expect_inputs(1, 1);
    const auto& range = attributes<SliceAttributes>();
    ValueType type = same_as(0);
    Dim& dim = type.shape[axis(range.axis, rank(0))];
    require(!dim.is_sequence && range.begin >= 0 && range.begin < range.end && range.end <= dim.value,
            "the slice is out of range");
    dim.value = range.end - range.begin;
    return type;
  }

  ValueType concat() const {
    require(!inputs_.empty(), "needs an input");
    const auto& axes = attributes<AxesAttributes>().axes;
    require(axes.size() == 1, "needs one axis");
    const std::size_t index = axis(axes[0], rank(0));
    ValueType type = same_as(0);
    require(!type.shape[index].is_sequence, "the sequence can't be concatenated");
    for (std::size_t i = 1; i < inputs_.size(); ++i) {
      require(rank(i) == rank(0), "the ranks differ");
      for (std::size_t d = 0; d < rank(i); ++d) {
        require(d == index || shape(i)[d] == shape(0)[d], "the shapes differ");
      }
      type.shape[index].value += shape(i)[index].value;
    }
    return type;
  }

  Op op_;
  std::span<const Node* const> inputs_;
  const Attributes& attributes_;
};

}  // namespace

ValueType infer_type(Op op, std::span<const Node* const> inputs, const Attributes& attributes) {
  return Inference(op, inputs, attributes).run();
}

}  // namespace diffulex_edge
