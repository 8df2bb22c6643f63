// Operators that take each row of the last dimension, or each element, by itself.

#include <algorithm>
#include <cmath>
#include <functional>

#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/operators/operators.h"

namespace diffulex_edge::operators {
namespace {

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

std::int64_t count(const Activations& value) { return static_cast<std::int64_t>(value.data.size()); }

// A row of `width` elements of a value that may be the same for all of them.
const float* row_of(const Activations& value, std::int64_t row, std::int64_t width) {
  return value.data.data() + row * width % count(value);
}

// Calls work(x, row) for each row x of an input's last dimension, which has another length in each sequence where it is
// the sequence itself.
void for_each_last(const OperatorContext& context, ValueId input,
                   const std::function<void(std::span<const float> x, std::int64_t row)>& work) {
  const Activations& value = context.value(input);
  const Dim& last = context.node(input).shape.back();
  std::int64_t row = 0;
  const auto run = [&](std::int64_t begin, std::int64_t end, std::int64_t width) {
    const std::int64_t rows = (end - begin) / width;
    for_each_row(rows, width, context.control, [&](std::int64_t i) {
      work({value.data.data() + begin + i * width, static_cast<std::size_t>(width)}, row + i);
    });
    row += rows;
  };
  if (!last.is_sequence) {
    run(0, count(value), last.value);
    return;
  }
  const std::vector<std::int64_t> begins = context.plan.begins(input, context.batch);
  for (std::size_t i = 0; i < context.batch.sequences(); ++i) {
    run(begins[i], begins[i + 1], context.batch.length(i));
  }
}

// Calls work(x, y) for each of them, where y has the same place in the result.
void map_last(const OperatorContext& context, ValueId id, Activations& result,
              const std::function<void(std::span<const float>, std::span<float>)>& work) {
  const ValueId input = context.node(id).inputs[0];
  const float* begin = context.value(input).data.data();
  for_each_last(context, input, [&](std::span<const float> x, std::int64_t) {
    work(x, {result.data.data() + (x.data() - begin), x.size()});
  });
}

void rms_norm(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  std::vector<float> weight = context.vector(node.inputs[1]);
  if (context.integers != nullptr) {
    context.integers->round(weight, context.integers->constant(weight));
  }
  const float epsilon = std::get<RmsNormAttributes>(node.attributes).epsilon;
  map_last(context, id, result, [&](std::span<const float> x, std::span<float> y) {
    kernels::rms_norm_row(x.data(), weight.data(), epsilon, y.data(), y.size());
  });
}

void layer_norm(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const auto operand = [&](std::size_t index) {
    return node.inputs.size() > index ? context.vector(node.inputs[index]) : std::vector<float>();
  };
  const std::vector<float> weight = operand(1);
  const std::vector<float> bias = operand(2);
  const double epsilon = std::get<LayerNormAttributes>(node.attributes).epsilon;
  map_last(context, id, result, [&](std::span<const float> x, std::span<float> y) {
    double sum = 0.0;
    for (const float value : x) {
      sum += static_cast<double>(value);
    }
    const double mean = sum / static_cast<double>(x.size());
    double squares = 0.0;
    for (const float value : x) {
      squares += (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean);
    }
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto normal = static_cast<float>((static_cast<double>(x[i]) - mean) * factor);
      y[i] = (weight.empty() ? normal : normal * weight[i]) + (bias.empty() ? 0.0F : bias[i]);
    }
  });
}

// What kernels::rope_row computes, with integers for each of the two products.
void rope_row_in_integers(const StaticValues& integers, std::span<const float> x, const float* cos, const float* sin,
                          float* target, const AffineScale& products) {
  const std::size_t size = x.size();
  std::vector<float> straight(size);
  std::vector<float> crossed(size);
  for (std::size_t i = 0; i < size; ++i) {
    straight[i] = x[i] * cos[i];
    crossed[i] = x[(i + size / 2) % size] * sin[i];
  }
  integers.round(straight, products);
  integers.round(crossed, products);
  kernels::add_rows(straight.data(), crossed.data(), target, size);
}

// Heads of one position share a row of the tables.
void rope(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& x = context.value(node.inputs[0]);
  const Activations& cos = context.value(node.inputs[1]);
  const Activations& sin = context.value(node.inputs[2]);
  const std::int64_t heads = node.shape[1].value;
  const std::int64_t size = node.shape[2].value;
  const StaticValues* integers = context.integers;
  const AffineScale products = integers == nullptr ? AffineScale() : integers->turned(node.inputs[0]);
  for_each_row(count(x) / (heads * size), heads * size, context.control, [&](std::int64_t position) {
    const float* c = row_of(cos, position, size);
    const float* s = row_of(sin, position, size);
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t at = (position * heads + head) * size;
      const float* source = x.data.data() + at;
      float* target = result.data.data() + at;
      if (integers != nullptr) {
        rope_row_in_integers(*integers, {source, static_cast<std::size_t>(size)}, c, s, target, products);
      } else {
        kernels::rope_row(source, c, s, target, static_cast<std::size_t>(size));
      }
    }
  });
}

void swiglu(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& gate = context.value(node.inputs[0]);
  const Activations& up = context.value(node.inputs[1]);
  const std::int64_t width = result.width;
  const auto size = static_cast<std::size_t>(width);
  if (const StaticValues* integers = context.integers) {
    const AffineScale shares = integers->shares();
    const AffineScale silu = integers->silu(node.inputs[0]);
    for_each_row(result.rows, width, context.control, [&](std::int64_t row) {
      const std::span values(result.data.data() + row * width, size);
      const std::span g(row_of(gate, row, width), size);
      std::ranges::transform(g, values.begin(), sigmoid);
      integers->round(values, shares);
      std::ranges::transform(values, g, values.begin(), std::multiplies<>());
      integers->round(values, silu);
      std::ranges::transform(values, std::span(row_of(up, row, width), size), values.begin(), std::multiplies<>());
    });
    return;
  }
  for_each_row(result.rows, width, context.control, [&](std::int64_t row) {
    kernels::swiglu_row(row_of(gate, row, width), row_of(up, row, width), result.data.data() + row * width, size);
  });
}

void softmax(const OperatorContext& context, ValueId id, Activations& result) {
  map_last(context, id, result, [](std::span<const float> x, std::span<float> y) {
    std::ranges::copy(x, y.begin());
    kernels::softmax_row(y.data(), y.size());
  });
}

void reduce_mean(const OperatorContext& context, ValueId id, Activations& result) {
  for_each_last(context, context.node(id).inputs[0], [&](std::span<const float> x, std::int64_t row) {
    double sum = 0.0;
    for (const float value : x) {
      sum += static_cast<double>(value);
    }
    result.data[static_cast<std::size_t>(row)] = static_cast<float>(sum / static_cast<double>(x.size()));
  });
}

template <typename Function>
void apply(const OperatorContext& context, ValueId id, Activations& result, const Function& function) {
  const Activations& x = context.value(context.node(id).inputs[0]);
  for_each_row(result.rows, result.width, context.control, [&](std::int64_t row) {
    const float* source = x.data.data() + row * result.width;
    std::transform(source, source + result.width, result.data.data() + row * result.width, function);
  });
}

template <float (*function)(float)>
void each(const OperatorContext& context, ValueId id, Activations& result) {
  apply(context, id, result, function);
}

float negated(float x) { return -x; }
float squared(float x) { return x * x; }
float reciprocal_root(float x) { return 1.0F / std::sqrt(x); }
float root(float x) { return std::sqrt(x); }
float hyperbolic_tangent(float x) { return std::tanh(x); }
float exponential(float x) { return std::exp(x); }
float sine(float x) { return std::sin(x); }
float cosine(float x) { return std::cos(x); }
float rounded_down(float x) { return std::floor(x); }

float gelu_erf(float x) {
  const auto value = static_cast<double>(x);
  return static_cast<float>(0.5 * value * (1.0 + std::erf(value * std::sqrt(0.5))));
}
float gelu_tanh(float x) {
  constexpr double kFactor = 0.7978845608028654;  // sqrt(2 / pi)
  const auto value = static_cast<double>(x);
  return static_cast<float>(0.5 * value * (1.0 + std::tanh(kFactor * (value + 0.044715 * value * value * value))));
}

void clamp(const OperatorContext& context, ValueId id, Activations& result) {
  const auto& range = std::get<ClampAttributes>(context.node(id).attributes);
  apply(context, id, result, [&](float x) { return std::min(std::max(x, range.min), range.max); });
}

}  // namespace

Kernel row_kernel(const Node& node) {
  switch (node.op) {
    case Op::kRmsNorm:
      return {"rms norm", rms_norm};
    case Op::kLayerNorm:
      return {"layer norm", layer_norm};
    case Op::kRope:
      return {"rope", rope};
    case Op::kSwiGlu:
      return {"swiglu", swiglu};
    case Op::kSoftmax:
      return {"softmax", softmax};
    case Op::kReduceMean:
      return {"mean", reduce_mean};
    case Op::kNegate:
      return {"negate", each<negated>};
    case Op::kSquare:
      return {"square", each<squared>};
    case Op::kReciprocalSquareRoot:
      return {"rsqrt", each<reciprocal_root>};
    case Op::kSquareRoot:
      return {"sqrt", each<root>};
    case Op::kSigmoid:
      return {"sigmoid", each<sigmoid>};
    case Op::kTanh:
      return {"tanh", each<hyperbolic_tangent>};
    case Op::kExp:
      return {"exp", each<exponential>};
    case Op::kSin:
      return {"sin", each<sine>};
    case Op::kCos:
      return {"cos", each<cosine>};
    case Op::kFloor:
      return {"floor", each<rounded_down>};
    case Op::kClamp:
      return {"clamp", clamp};
    case Op::kGelu:
      return std::get<GeluAttributes>(node.attributes).tanh ? Kernel{"gelu tanh", each<gelu_tanh>}
                                                            : Kernel{"gelu", each<gelu_erf>};
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has no kernel for rows");
  }
}

}  // namespace diffulex_edge::operators
