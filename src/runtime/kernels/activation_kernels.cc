#include "runtime/kernels/activation_kernels.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/activation_kernels.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace diffulex_edge::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using OneFloat = hn::CappedTag<float, 1>;
using FloatVector = hn::Vec<Float>;

// Calls body(tag, position) for whole vectors and then for single elements.
template <typename Body>
HWY_INLINE void ForEach(std::size_t n, const Body& body) {
  const std::size_t lanes = hn::Lanes(Float());
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    body(Float(), i);
  }
  for (; i < n; ++i) {
    body(OneFloat(), i);
  }
}

HWY_INLINE float SumOf(FloatVector sums) { return hn::GetLane(hn::SumOfLanes(Float(), sums)); }

void AddRows(const float* a, const float* b, float* target, std::size_t n) {
  ForEach(n, [=](auto d, std::size_t i)
                 HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, target + i); });
}

void RmsNormRow(const float* x, const float* weight, float epsilon, float* target, std::size_t n) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  FloatVector sums = hn::Zero(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVector v = hn::LoadU(d, x + i);
    sums = hn::MulAdd(v, v, sums);
  }
  float sum = SumOf(sums);
  for (; i < n; ++i) {
    sum += x[i] * x[i];
  }
  const float factor = 1.0F / std::sqrt(sum / static_cast<float>(n) + epsilon);
  ForEach(n, [=](auto d1, std::size_t at) HWY_ATTR {
    const auto normalized = hn::Mul(hn::LoadU(d1, x + at), hn::Set(d1, factor));
    hn::StoreU(hn::Mul(normalized, hn::LoadU(d1, weight + at)), d1, target + at);
  });
}

void RopeRow(const float* x, const float* cos, const float* signed_sin, float* target, std::size_t n) {
  const std::size_t half = n / 2;
  const auto rotate = [=](std::size_t begin, std::size_t other) HWY_ATTR {
    ForEach(half, [=](auto d, std::size_t i) HWY_ATTR {
      const auto turned = hn::Mul(hn::LoadU(d, x + other + i), hn::LoadU(d, signed_sin + begin + i));
      hn::StoreU(hn::MulAdd(hn::LoadU(d, x + begin + i), hn::LoadU(d, cos + begin + i), turned), d, target + begin + i);
    });
  };
  rotate(0, half);
  rotate(half, 0);
}

void SwigluRow(const float* gate, const float* up, float* target, std::size_t n) {
  ForEach(n, [=](auto d, std::size_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    const auto one = hn::Set(d, 1.0F);
    // Beyond 88 exp() overflows; sigmoid(-87) is 1e-38 already.
    const auto negated = hn::Min(hn::Neg(g), hn::Set(d, 87.0F));
    const auto silu = hn::Div(g, hn::Add(one, hn::Exp(d, negated)));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, target + i);
  });
}

float MaxOf(const float* x, std::size_t n) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  float largest = x[0];
  if (n >= lanes) {
    FloatVector most = hn::LoadU(d, x);
    for (i = lanes; i + lanes <= n; i += lanes) {
      most = hn::Max(most, hn::LoadU(d, x + i));
    }
    largest = hn::GetLane(hn::MaxOfLanes(d, most));
  }
  for (; i < n; ++i) {
    largest = std::max(largest, x[i]);
  }
  return largest;
}

void SoftmaxRow(float* x, std::size_t n) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  const float max = MaxOf(x, n);
  FloatVector sums = hn::Zero(d);
  float sum = 0.0F;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVector e = hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, max)));
    sums = hn::Add(sums, e);
    hn::StoreU(e, d, x + i);
  }
  for (; i < n; ++i) {
    x[i] = std::exp(x[i] - max);
    sum += x[i];
  }
  const float factor = 1.0F / (sum + SumOf(sums));
  ForEach(n, [=](auto d1, std::size_t at)
                 HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d1, x + at), hn::Set(d1, factor)), d1, x + at); });
}

// Partial sums of 4096 float32 terms are added in double precision: vocabularies are long.
LogSumExpParts ExpSumRow(const float* x, std::size_t n) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  LogSumExpParts parts{.max = MaxOf(x, n)};
  std::size_t i = 0;
  while (i + lanes <= n) {
    const std::size_t end = std::min(n, i + 4096);
    FloatVector sums = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) {
      sums = hn::Add(sums, hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, parts.max))));
    }
    parts.sum += static_cast<double>(SumOf(sums));
  }
  for (; i < n; ++i) {
    parts.sum += std::exp(static_cast<double>(x[i]) - static_cast<double>(parts.max));
  }
  return parts;
}

double ExpectedDifferenceRow(const float* a, const float* b, std::size_t n, float log_sum_exp) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  double total = 0.0;
  std::size_t i = 0;
  while (i + lanes <= n) {
    const std::size_t end = std::min(n, i + 4096);
    FloatVector sums = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) {
      const FloatVector left = hn::LoadU(d, a + i);
      const FloatVector probability = hn::Exp(d, hn::Sub(left, hn::Set(d, log_sum_exp)));
      sums = hn::MulAdd(probability, hn::Sub(left, hn::LoadU(d, b + i)), sums);
    }
    total += static_cast<double>(SumOf(sums));
  }
  for (; i < n; ++i) {
    total += static_cast<double>(std::exp(a[i] - log_sum_exp) * (a[i] - b[i]));
  }
  return total;
}

// Rounds x * factor to integers and clamps them to [low, high].
template <typename D>
HWY_INLINE hn::Vec<D> RoundAt(D d, const float* x, float factor, float low, float high) {
  const auto rounded = hn::Round(hn::Mul(hn::LoadU(d, x), hn::Set(d, factor)));
  return hn::Min(hn::Max(rounded, hn::Set(d, low)), hn::Set(d, high));
}

// Writes q - zero_point.
HWY_INLINE void RoundRow(const float* x, float* target, std::size_t n, float factor, float zero_point) {
  const float low = -128.0F - zero_point;
  const float high = 127.0F - zero_point;
  ForEach(n, [=](auto d, std::size_t i) HWY_ATTR { hn::StoreU(RoundAt(d, x + i, factor, low, high), d, target + i); });
}

// Writes q.
HWY_INLINE void RoundRow(const float* x, std::int8_t* target, std::size_t n, float factor, float zero_point) {
  const float low = -128.0F - zero_point;
  const float high = 127.0F - zero_point;
  ForEach(n, [=](auto d, std::size_t i) HWY_ATTR {
    const hn::RebindToSigned<decltype(d)> d32;
    const hn::Rebind<std::int8_t, decltype(d)> d8;
    const auto q = hn::Add(RoundAt(d, x + i, factor, low, high), hn::Set(d, zero_point));
    hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(d32, q)), d8, target + i);
  });
}

// The least and the greatest value of a row and 0. As by std::min and std::max, NaN is neither: Min() and Max() of
// vectors differ there from processor to processor.
struct RowRange {
  float min = 0.0F;
  float max = 0.0F;
};

RowRange RangeOf(const float* x, std::size_t n) {
  const Float d;
  const std::size_t lanes = hn::Lanes(d);
  FloatVector least = hn::Zero(d);
  FloatVector most = hn::Zero(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVector v = hn::LoadU(d, x + i);
    least = hn::IfThenElse(hn::Lt(v, least), v, least);
    most = hn::IfThenElse(hn::Lt(most, v), v, most);
  }
  RowRange range{.min = hn::GetLane(hn::MinOfLanes(d, least)), .max = hn::GetLane(hn::MaxOfLanes(d, most))};
  for (; i < n; ++i) {
    range.min = std::min(range.min, x[i]);
    range.max = std::max(range.max, x[i]);
  }
  return range;
}

template <typename Target>
DynamicScale RoundRowDynamic(const float* x, Target* target, std::size_t n) {
  const auto [min, max] = RangeOf(x, n);
  const float steps = min == max ? 1.0F : 255.0F / (max - min);
  const float low = min * steps;
  const float high = max * steps;
  const float wanted = (-128.0F + low) + (127.0F + high) > 0.0F ? -128.0F - low : 127.0F - high;
  const float zero_point = std::nearbyint(std::clamp(wanted, -128.0F, 127.0F));
  RoundRow(x, target, n, steps, zero_point);
  return {.scale = 1.0F / steps, .zero_point = static_cast<std::int32_t>(zero_point)};
}

float QuantizeRowDynamic(const float* x, float* target, std::size_t n) { return RoundRowDynamic(x, target, n).scale; }

DynamicScale QuantizeRowDynamicI8(const float* x, std::int8_t* target, std::size_t n) {
  return RoundRowDynamic(x, target, n);
}

void QuantizeRowStatic(const float* x, float* target, std::size_t n, float scale, std::int32_t zero_point) {
  RoundRow(x, target, n, 1.0F / scale, static_cast<float>(zero_point));
}

void QuantizeRowStaticI8(const float* x, std::int8_t* target, std::size_t n, float scale, std::int32_t zero_point) {
  RoundRow(x, target, n, 1.0F / scale, static_cast<float>(zero_point));
}

void DequantizeRowI8(const std::int8_t* x, float scale, float* target, std::size_t n) {
  ForEach(n, [=](auto d, std::size_t i) HWY_ATTR {
    const hn::RebindToSigned<decltype(d)> d32;
    const hn::Rebind<std::int8_t, decltype(d)> d8;
    const auto values = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, x + i)));
    hn::StoreU(hn::Mul(values, hn::Set(d, scale)), d, target + i);
  });
}

}  // namespace diffulex_edge::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace diffulex_edge::kernels {

HWY_EXPORT(AddRows);
HWY_EXPORT(RmsNormRow);
HWY_EXPORT(RopeRow);
HWY_EXPORT(SwigluRow);
HWY_EXPORT(SoftmaxRow);
HWY_EXPORT(ExpSumRow);
HWY_EXPORT(ExpectedDifferenceRow);
HWY_EXPORT(QuantizeRowDynamic);
HWY_EXPORT(QuantizeRowDynamicI8);
HWY_EXPORT(QuantizeRowStatic);
HWY_EXPORT(QuantizeRowStaticI8);
HWY_EXPORT(DequantizeRowI8);

void add_rows(const float* a, const float* b, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(AddRows)(a, b, target, n);
}
void rms_norm_row(const float* x, const float* weight, float epsilon, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(RmsNormRow)(x, weight, epsilon, target, n);
}
void rope_row(const float* x, const float* cos, const float* signed_sin, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(RopeRow)(x, cos, signed_sin, target, n);
}
void swiglu_row(const float* gate, const float* up, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(SwigluRow)(gate, up, target, n);
}
void softmax_row(float* x, std::size_t n) { HWY_DYNAMIC_DISPATCH(SoftmaxRow)(x, n); }
LogSumExpParts exp_sum_row(const float* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(ExpSumRow)(x, n); }
double expected_difference_row(const float* a, const float* b, std::size_t n, float log_sum_exp) {
  return HWY_DYNAMIC_DISPATCH(ExpectedDifferenceRow)(a, b, n, log_sum_exp);
}
float quantize_row_dynamic(const float* x, float* target, std::size_t n) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRowDynamic)(x, target, n);
}
void quantize_row_static(const float* x, float* target, std::size_t n, float scale, std::int32_t zero_point) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowStatic)(x, target, n, scale, zero_point);
}
DynamicScale quantize_row_dynamic_i8(const float* x, std::int8_t* target, std::size_t n) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRowDynamicI8)(x, target, n);
}
void quantize_row_static_i8(const float* x, std::int8_t* target, std::size_t n, float scale, std::int32_t zero_point) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowStaticI8)(x, target, n, scale, zero_point);
}
void dequantize_row_i8(const std::int8_t* x, float scale, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(DequantizeRowI8)(x, scale, target, n);
}

}  // namespace diffulex_edge::kernels
#endif  // HWY_ONCE
