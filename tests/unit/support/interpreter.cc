#include "support/interpreter.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

namespace diffulex_edge::testing {
namespace {

std::int64_t count(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) {
    product *= size;
  }
  return product;
}

// Calls visit(flat index, multi-index) for every element.
void for_each(const std::vector<std::int64_t>& shape,
              const std::function<void(std::size_t, const std::vector<std::int64_t>&)>& visit) {
  std::vector<std::int64_t> index(shape.size(), 0);
  for (std::int64_t flat = 0; flat < count(shape); ++flat) {
    visit(static_cast<std::size_t>(flat), index);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (++index[axis] < shape[axis]) {
        break;
      }
      index[axis] = 0;
    }
  }
}

// The element that a broadcast index of a larger shape means.
double at(const Array& array, const std::vector<std::int64_t>& index) {
  std::int64_t flat = 0;
  const std::size_t skipped = index.size() - array.shape.size();
  for (std::size_t axis = 0; axis < array.shape.size(); ++axis) {
    flat = flat * array.shape[axis] + (array.shape[axis] == 1 ? 0 : index[axis + skipped]);
  }
  return array.values[static_cast<std::size_t>(flat)];
}

class Interpreter {
 public:
  Interpreter(const Graph& graph, const std::vector<std::int64_t>& ids, const std::map<std::string, Array>& weights)
      : graph_(graph), ids_(ids), weights_(weights) {}

  Array run() {
    for (const Node& node : graph_.nodes()) {
      arrays_.push_back(evaluate(node));
    }
    return arrays_.at(static_cast<std::size_t>(graph_.output()));
  }

 private:
  const Array& input(const Node& node, std::size_t i) const {
    return arrays_.at(static_cast<std::size_t>(node.inputs.at(i)));
  }

  std::vector<std::int64_t> actual_shape(const Shape& shape) const {
    std::vector<std::int64_t> result;
    for (const Dim& dim : shape) {
      result.push_back(dim.is_sequence ? static_cast<std::int64_t>(ids_.size()) : dim.value);
    }
    return result;
  }

  Array each(const Node& node, const std::function<double(double)>& f) const {
    Array result = input(node, 0);
    std::ranges::transform(result.values, result.values.begin(), f);
    return result;
  }

  Array pairs(const Node& node, const std::function<double(double, double)>& f) const {
    Array result{.shape = actual_shape(node.shape), .values = {}};
    result.values.resize(static_cast<std::size_t>(count(result.shape)));
    for_each(result.shape, [&](std::size_t flat, const std::vector<std::int64_t>& index) {
      result.values[flat] = f(at(input(node, 0), index), at(input(node, 1), index));
    });
    return result;
  }

  Array mat_mul(const Node& node) const {
    const bool transpose_b = std::get<MatMulAttributes>(node.attributes).transpose_b;
    const Array& a = input(node, 0);
    const Array& b = input(node, 1);
    Array result{.shape = actual_shape(node.shape), .values = {}};
    result.values.resize(static_cast<std::size_t>(count(result.shape)));
    for_each(result.shape, [&](std::size_t flat, std::vector<std::int64_t> index) {
      const std::int64_t row = index[index.size() - 2];
      const std::int64_t column = index.back();
      double sum = 0.0;
      for (std::int64_t k = 0; k < a.shape.back(); ++k) {
        index[index.size() - 2] = row;
        index.back() = k;
        const double left = at(a, index);
        index[index.size() - 2] = transpose_b ? column : k;
        index.back() = transpose_b ? k : column;
        sum += left * at(b, index);
      }
      result.values[flat] = sum;
    });
    return result;
  }

  // [..., k] x [n, k]: the common case, without multi-indices.
  Array linear(const Node& node) const {
    const Array& a = input(node, 0);
    const Array& b = input(node, 1);
    const auto k = static_cast<std::size_t>(a.shape.back());
    const auto n = static_cast<std::size_t>(b.shape[0]);
    Array result{.shape = actual_shape(node.shape), .values = {}};
    result.values.resize(a.values.size() / k * n);
    for (std::size_t row = 0; row < a.values.size() / k; ++row) {
      for (std::size_t column = 0; column < n; ++column) {
        double sum = 0.0;
        for (std::size_t i = 0; i < k; ++i) {
          sum += a.values[row * k + i] * b.values[column * k + i];
        }
        result.values[row * n + column] = sum;
      }
    }
    return result;
  }

  // `f` maps one row of the last dimension to another.
  Array rows(const Node& node, std::size_t width_out, const std::function<void(const double*, double*)>& f) const {
    const Array& a = input(node, 0);
    const auto width = static_cast<std::size_t>(a.shape.back());
    Array result{.shape = actual_shape(node.shape), .values = {}};
    result.values.resize(a.values.size() / width * width_out);
    for (std::size_t row = 0; row < a.values.size() / width; ++row) {
      f(&a.values[row * width], &result.values[row * width_out]);
    }
    return result;
  }

  // result[index] = source[map(index)]
  Array gather_from(const Node& node, const std::function<double(const std::vector<std::int64_t>&)>& f) const {
    Array result{.shape = actual_shape(node.shape), .values = {}};
    result.values.resize(static_cast<std::size_t>(count(result.shape)));
    for_each(result.shape,
             [&](std::size_t flat, const std::vector<std::int64_t>& index) { result.values[flat] = f(index); });
    return result;
  }

  Array concat(const Node& node) const {
    const auto axis = static_cast<std::size_t>(std::get<AxesAttributes>(node.attributes).axes[0]);
    return gather_from(node, [&](std::vector<std::int64_t> index) {
      std::size_t i = 0;
      while (index[axis] >= input(node, i).shape[axis]) {
        index[axis] -= input(node, i++).shape[axis];
      }
      return at(input(node, i), index);
    });
  }

  Array evaluate(const Node& node) const {
    switch (node.op) {
      case Op::kInput: {
        Array array{.shape = {1, static_cast<std::int64_t>(ids_.size())}, .values = {}};
        array.values.assign(ids_.begin(), ids_.end());
        return array;
      }
      case Op::kWeight:
        return weights_.at(std::get<WeightAttributes>(node.attributes).tensor);
      case Op::kConstant: {
        const auto& values = std::get<ConstantAttributes>(node.attributes).values;
        return {.shape = actual_shape(node.shape), .values = {values.begin(), values.end()}};
      }
      case Op::kPositionTable:
        return gather_from(node, [&](const auto& index) { return at(input(node, 1), index); });
      case Op::kPositions:
        return gather_from(node, [](const auto& index) { return static_cast<double>(index[0]); });
      case Op::kAdd:
        return pairs(node, std::plus<>());
      case Op::kSubtract:
        return pairs(node, std::minus<>());
      case Op::kMultiply:
        return pairs(node, std::multiplies<>());
      case Op::kDivide:
        return pairs(node, std::divides<>());
      case Op::kNegate:
        return each(node, std::negate<>());
      case Op::kSquare:
        return each(node, [](double x) { return x * x; });
      case Op::kReciprocalSquareRoot:
        return each(node, [](double x) { return 1.0 / std::sqrt(x); });
      case Op::kSquareRoot:
        return each(node, [](double x) { return std::sqrt(x); });
      case Op::kTanh:
        return each(node, [](double x) { return std::tanh(x); });
      case Op::kExp:
        return each(node, [](double x) { return std::exp(x); });
      case Op::kGelu: {
        const bool tanh = std::get<GeluAttributes>(node.attributes).tanh;
        return each(node, [tanh](double x) {
          const double inner = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
          return x / 2.0 * (1.0 + (tanh ? std::tanh(inner) : std::erf(x / std::sqrt(2.0))));
        });
      }
      case Op::kSigmoid:
        return each(node, [](double x) { return 1.0 / (1.0 + std::exp(-x)); });
      case Op::kSin:
        return each(node, [](double x) { return std::sin(x); });
      case Op::kCos:
        return each(node, [](double x) { return std::cos(x); });
      case Op::kFloor:
        return each(node, [](double x) { return std::floor(x); });
      case Op::kClamp: {
        const auto& range = std::get<ClampAttributes>(node.attributes);
        return each(node, [&](double x) { return std::clamp<double>(x, range.min, range.max); });
      }
      case Op::kReduceMean: {
        const auto width = static_cast<std::size_t>(input(node, 0).shape.back());
        return rows(node, 1, [&](const double* in, double* out) {
          *out = 0.0;
          for (std::size_t i = 0; i < width; ++i) {
            *out += in[i] / static_cast<double>(width);
          }
        });
      }
      case Op::kSoftmax: {
        const auto width = static_cast<std::size_t>(input(node, 0).shape.back());
        return rows(node, width, [&](const double* in, double* out) {
          const double largest = *std::max_element(in, in + width);
          double sum = 0.0;
          for (std::size_t i = 0; i < width; ++i) {
            sum += out[i] = std::exp(in[i] - largest);
          }
          std::for_each(out, out + width, [&](double& x) { x /= sum; });
        });
      }
      case Op::kMatMul:
        return input(node, 1).shape.size() == 2 && std::get<MatMulAttributes>(node.attributes).transpose_b
                   ? linear(node)
                   : mat_mul(node);
      case Op::kReshape:
        return {.shape = actual_shape(node.shape), .values = input(node, 0).values};
      case Op::kTranspose: {
        const auto& axes = std::get<AxesAttributes>(node.attributes).axes;
        return gather_from(node, [&](const std::vector<std::int64_t>& index) {
          std::vector<std::int64_t> source(index.size());
          for (std::size_t i = 0; i < axes.size(); ++i) {
            source[static_cast<std::size_t>(axes[i])] = index[i];
          }
          return at(input(node, 0), source);
        });
      }
      case Op::kSlice: {
        const auto& range = std::get<SliceAttributes>(node.attributes);
        return gather_from(node, [&](std::vector<std::int64_t> index) {
          index[static_cast<std::size_t>(range.axis)] += range.begin;
          return at(input(node, 0), index);
        });
      }
      case Op::kConcat:
        return concat(node);
      case Op::kGather:
        return gather_from(node, [&](std::vector<std::int64_t> index) {
          const std::int64_t column = index.back();
          index.pop_back();
          return at(input(node, 0), {static_cast<std::int64_t>(at(input(node, 1), index)), column});
        });
      default:
        throw std::logic_error("a composite is left: " + std::string(to_string(node.op)));
    }
  }

  const Graph& graph_;
  const std::vector<std::int64_t>& ids_;
  const std::map<std::string, Array>& weights_;
  std::vector<Array> arrays_;
};

}  // namespace

Array interpret(const Graph& graph, const std::vector<std::int64_t>& ids, const std::map<std::string, Array>& weights) {
  return Interpreter(graph, ids, weights).run();
}

}  // namespace diffulex_edge::testing
