// The kernels against independent truth (hand-computed values, exhaustive 16-bit tables) and the dispatched versions
// against their scalar twins, bit for bit, on every instruction set that this machine can run.
#include "quant/kernels/kernels.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace diffulex_edge::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kLeastNormal = std::numeric_limits<float>::min();
constexpr float kLeastSubnormal = std::numeric_limits<float>::denorm_min();

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// Runs `body` once for each instruction set, with that one dispatched.
template <class Body>
void on_every_target(const Body& body) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  for (const std::int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(target);
    SCOPED_TRACE(hwy::TargetName(target));
    body();
    if (::testing::Test::HasFailure()) break;
  }
  hwy::SetSupportedTargetsForTest(0);
}

// 0..67 crosses every tail of every vector width; the others cross unrolled loops.
std::vector<std::size_t> awkward_lengths() {
  std::vector<std::size_t> lengths(68);
  std::iota(lengths.begin(), lengths.end(), std::size_t{0});
  for (const std::size_t more : {127U, 128U, 129U, 255U, 256U, 1000U, 4099U}) lengths.push_back(more);
  return lengths;
}

// Finite values of every kind: weights, ties at multiples of 1/2, powers of two, subnormals, the largest floats, zeros.
std::vector<float> finite_values(std::size_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  const auto random = [&engine] { return static_cast<std::uint32_t>(engine()); };
  std::normal_distribution<float> weight(0.0F, 0.05F);
  std::uniform_int_distribution<int> half_steps(-300, 300);
  std::vector<float> values(n);
  for (float& value : values) {
    switch (random() % 8) {
      case 0:
        value = static_cast<float>(half_steps(engine)) * 0.5F;
        break;
      case 1:
        value = std::ldexp(static_cast<float>(half_steps(engine)), half_steps(engine) % 119);
        break;
      case 2:
        value = float_of(random() & 0x807FFFFFU);
        break;
      case 3:
        value = std::copysign(kMaxFloat, weight(engine));
        break;
      case 4:
        value = random() % 2 == 0 ? 0.0F : -0.0F;
        break;
      default:
        value = weight(engine);
        break;
    }
  }
  return values;
}

// Any 32 bits, so infinities and NaNs with payloads too, mixed with values near the limits of binary16.
std::vector<float> any_values(std::size_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  const auto random = [&engine] { return static_cast<std::uint32_t>(engine()); };
  std::vector<float> values(n);
  for (float& value : values) {
    switch (random() % 8) {
      case 0:
        value = float_of(random() | 0x7F800000U);
        break;
      case 1:
        value = random() % 2 == 0 ? kInfinity : -kInfinity;
        break;
      case 2:
        value = float_of((random() & 0x80000000U) | (0x477FE000U + random() % 0x3000U));
        break;
      case 3:
        value = float_of((random() & 0x80000000U) | (0x33000000U + random() % 0x06000000U));
        break;
      case 4:
        value = float_of((random() & 0xFFFFE000U) | 0x1000U);
        break;
      case 5:
        value = float_of((random() & 0xFFFF0000U) | 0x8000U);
        break;
      default:
        value = float_of(random());
        break;
    }
  }
  return values;
}

std::vector<std::uint16_t> all_patterns() {
  std::vector<std::uint16_t> patterns(65536);
  std::iota(patterns.begin(), patterns.end(), std::uint16_t{0});
  return patterns;
}

// The bytes of a row written by `kernel(source, target)`, with guards that must survive on both sides.
template <class Target, class Source, class Kernel>
std::vector<Target> run(const std::vector<Source>& source, std::size_t count, std::size_t offset,
                        const Kernel& kernel) {
  constexpr std::size_t kGuard = 64;
  std::vector<Source> shifted(offset + source.size());
  std::copy(source.begin(), source.end(), shifted.begin() + static_cast<std::ptrdiff_t>(offset));
  const std::size_t start = kGuard + offset;
  std::vector<Target> target(start + count + kGuard);
  std::memset(target.data(), 0xA5, target.size() * sizeof(Target));
  const std::vector<Target> before = target;
  kernel(shifted.data() + offset, target.data() + start);
  const std::size_t after = start + count;
  EXPECT_EQ(std::memcmp(target.data(), before.data(), start * sizeof(Target)), 0) << "wrote before the target";
  EXPECT_EQ(std::memcmp(target.data() + after, before.data() + after, kGuard * sizeof(Target)), 0)
      << "wrote beyond the target";
  return {target.begin() + static_cast<std::ptrdiff_t>(start), target.begin() + static_cast<std::ptrdiff_t>(after)};
}

template <class T>
void expect_same_bits(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0)
        << "element " << i << " of " << actual.size() << ": " << +actual[i] << " instead of " << +expected[i];
  }
}

// A kernel that writes one target element for each source element equals its twin on every length and offset.
template <class Target, class Source, class Kernel, class Twin>
void expect_matches_scalar(const std::vector<Source>& source, const Kernel& kernel, const Twin& twin) {
  on_every_target([&] {
    for (const std::size_t n : awkward_lengths()) {
      const std::vector<Source> row(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(n));
      const std::size_t offset = n % 5;
      const auto call = [n](const auto& function) {
        return [n, &function](const Source* from, Target* to) { function(from, to, n); };
      };
      expect_same_bits(run<Target>(row, n, offset, call(kernel)), run<Target>(row, n, 0, call(twin)));
      if (::testing::Test::HasFailure()) return;
    }
    std::vector<Target> actual(source.size());
    std::vector<Target> expected(source.size());
    kernel(source.data(), actual.data(), source.size());
    twin(source.data(), expected.data(), source.size());
    expect_same_bits(actual, expected);
  });
}

// The value of a binary16 pattern from its definition.
double value_of_f16(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int mantissa = bits & 0x3FF;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  return (bits & 0x8000) == 0 ? magnitude : -magnitude;
}

// Positive finite patterns order like their values, so the midpoint of two neighbours must go to the even one, and
// whatever is nearer to one of them to that one.
template <class Narrow, class Widen>
void expect_rounds_to_nearest_even(std::uint16_t largest_finite, const Narrow& narrow, const Widen& widen) {
  for (std::uint16_t low = 0; low < largest_finite; ++low) {
    const auto high = static_cast<std::uint16_t>(low + 1);
    const auto middle = static_cast<float>((static_cast<double>(widen(low)) + static_cast<double>(widen(high))) / 2);
    const std::uint16_t even = low % 2 == 0 ? low : high;
    ASSERT_EQ(narrow(middle), even) << low;
    ASSERT_EQ(narrow(std::nextafter(middle, 0.0F)), low) << low;
    ASSERT_EQ(narrow(std::nextafter(middle, kInfinity)), high) << low;
    ASSERT_EQ(narrow(-middle), even | 0x8000) << low;
  }
}

// --- Dispatch

TEST(InstructionSet, FollowsTheChosenTarget) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  ASSERT_FALSE(targets.empty());
  for (const std::int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(target);
    EXPECT_STREQ(instruction_set(), hwy::TargetName(target));
    std::printf("instruction set: %s\n", instruction_set());
  }
  hwy::SetSupportedTargetsForTest(0);
  EXPECT_STREQ(instruction_set(), hwy::TargetName(targets.front()));
}

// --- Widening

TEST(F16ToF32, EveryPatternHasTheValueOfItsDefinition) {
  for (const std::uint16_t pattern : all_patterns()) {
    const float value = scalar::f16_to_f32_one(pattern);
    ASSERT_EQ(std::signbit(value), (pattern & 0x8000) != 0) << pattern;
    if ((pattern & 0x7FFF) > 0x7C00) {
      const std::uint32_t payload = (pattern & 0x3FFU) << 13U;
      ASSERT_EQ(bits_of(value) & 0x7FFFFFFFU, 0x7FC00000U | payload) << pattern;
    } else if ((pattern & 0x7FFF) == 0x7C00) {
      ASSERT_TRUE(std::isinf(value)) << pattern;
    } else {
      ASSERT_EQ(static_cast<double>(value), value_of_f16(pattern)) << pattern;
    }
  }
}

TEST(F16ToF32, MatchesScalarOnEveryTarget) {
  expect_matches_scalar<float>(all_patterns(), f16_to_f32, scalar::f16_to_f32);
}

TEST(Bf16ToF32, IsTheHighHalfOfAFloat) {
  for (const std::uint16_t pattern : all_patterns()) {
    const std::uint32_t quiet = (pattern & 0x7FFF) > 0x7F80 ? 0x400000U : 0U;
    ASSERT_EQ(bits_of(scalar::bf16_to_f32_one(pattern)), (std::uint32_t{pattern} << 16U) | quiet);
  }
  EXPECT_EQ(scalar::bf16_to_f32_one(0x3FC0), 1.5F);
}

TEST(Bf16ToF32, MatchesScalarOnEveryTarget) {
  expect_matches_scalar<float>(all_patterns(), bf16_to_f32, scalar::bf16_to_f32);
}

// --- Narrowing

TEST(F32ToF16, KnownValues) {
  EXPECT_EQ(scalar::f32_to_f16_one(1.0F), 0x3C00);
  EXPECT_EQ(scalar::f32_to_f16_one(-2.0F), 0xC000);
  EXPECT_EQ(scalar::f32_to_f16_one(0.1F), 0x2E66);
  EXPECT_EQ(scalar::f32_to_f16_one(65504.0F), 0x7BFF);
  EXPECT_EQ(scalar::f32_to_f16_one(65519.0F), 0x7BFF);
  EXPECT_EQ(scalar::f32_to_f16_one(65520.0F), 0x7C00);
  EXPECT_EQ(scalar::f32_to_f16_one(-kMaxFloat), 0xFC00);
  EXPECT_EQ(scalar::f32_to_f16_one(kInfinity), 0x7C00);
  EXPECT_EQ(scalar::f32_to_f16_one(-0.0F), 0x8000);
  EXPECT_EQ(scalar::f32_to_f16_one(kLeastSubnormal), 0x0000);
  EXPECT_EQ(scalar::f32_to_f16_one(float_of(0xFFA02000U)), 0xFF01);  // a signalling NaN, its payload kept
}

TEST(F32ToF16, RoundsToNearestEvenBetweenAllNeighbours) {
  expect_rounds_to_nearest_even(0x7BFF, scalar::f32_to_f16_one, scalar::f16_to_f32_one);
}

#if defined(__aarch64__)
using CompilerHalf = __fp16;
#define DIFFULEX_EDGE_HAS_COMPILER_HALF
#elif defined(__FLT16_MANT_DIG__) && !defined(__clang__)
using CompilerHalf = _Float16;
#define DIFFULEX_EDGE_HAS_COMPILER_HALF
#endif

#ifdef DIFFULEX_EDGE_HAS_COMPILER_HALF
TEST(F32ToF16, AgreesWithTheCompiler) {
  for (const float value : any_values(200000, 1)) {
    if (std::isnan(value)) continue;
    const auto expected = std::bit_cast<std::uint16_t>(static_cast<CompilerHalf>(value));
    ASSERT_EQ(scalar::f32_to_f16_one(value), expected) << value;
  }
}
#endif

TEST(F32ToF16, KeepsEveryPatternThroughFloat) {
  for (const std::uint16_t pattern : all_patterns()) {
    const bool is_nan = (pattern & 0x7FFF) > 0x7C00;
    ASSERT_EQ(scalar::f32_to_f16_one(scalar::f16_to_f32_one(pattern)), is_nan ? pattern | 0x200 : pattern);
  }
}

TEST(F32ToF16, MatchesScalarOnEveryTarget) {
  expect_matches_scalar<std::uint16_t>(any_values(200000, 2), f32_to_f16, scalar::f32_to_f16);
  expect_matches_scalar<std::uint16_t>(finite_values(20000, 3), f32_to_f16, scalar::f32_to_f16);
}

TEST(F32ToF16Saturate, StopsAtTheLargestFiniteValue) {
  const std::vector<float> source = {65519.0F, 65520.0F, -65520.0F, kMaxFloat, kInfinity, -kInfinity, kNan, 1.0F};
  const std::vector<std::uint16_t> expected = {0x7BFF, 0x7BFF, 0xFBFF, 0x7BFF, 0x7BFF, 0xFBFF, 0x7E00, 0x3C00};
  std::vector<std::uint16_t> target(source.size());
  scalar::f32_to_f16_saturate(source.data(), target.data(), source.size());
  EXPECT_EQ(target, expected);
}

TEST(F32ToF16Saturate, MatchesScalarOnEveryTarget) {
  expect_matches_scalar<std::uint16_t>(any_values(200000, 4), f32_to_f16_saturate, scalar::f32_to_f16_saturate);
}

TEST(F32ToBf16, KnownValues) {
  EXPECT_EQ(scalar::f32_to_bf16_one(1.0F), 0x3F80);
  EXPECT_EQ(scalar::f32_to_bf16_one(float_of(0x3F808000U)), 0x3F80);  // tie, to even
  EXPECT_EQ(scalar::f32_to_bf16_one(float_of(0x3F818000U)), 0x3F82);  // tie, to even
  EXPECT_EQ(scalar::f32_to_bf16_one(kMaxFloat), 0x7F80);
  EXPECT_EQ(scalar::f32_to_bf16_one(-kInfinity), 0xFF80);
  EXPECT_EQ(scalar::f32_to_bf16_one(-0.0F), 0x8000);
  EXPECT_EQ(scalar::f32_to_bf16_one(float_of(0x7F800001U)), 0x7FC0);  // a NaN whose high half is infinity
  EXPECT_EQ(scalar::f32_to_bf16_one(float_of(0xFFFFFFFFU)), 0xFFFF);
}

TEST(F32ToBf16, RoundsToNearestEvenBetweenAllNeighbours) {
  expect_rounds_to_nearest_even(0x7F7F, scalar::f32_to_bf16_one, scalar::bf16_to_f32_one);
}

TEST(F32ToBf16, MatchesScalarOnEveryTarget) {
  expect_matches_scalar<std::uint16_t>(any_values(200000, 5), f32_to_bf16, scalar::f32_to_bf16);
}

// --- Measuring

TEST(F32AbsMax, KnownValues) {
  const std::vector<float> values = {0.5F, -3.0F, 2.0F, -0.0F};
  EXPECT_EQ(scalar::f32_abs_max(values.data(), values.size()), 3.0F);
  EXPECT_EQ(bits_of(scalar::f32_abs_max(nullptr, 0)), 0U);
  const std::vector<float> infinite = {1.0F, -kInfinity, kMaxFloat};
  EXPECT_EQ(scalar::f32_abs_max(infinite.data(), infinite.size()), kInfinity);
  const std::vector<float> broken = {kInfinity, float_of(0xFF800001U), 1.0F};
  EXPECT_TRUE(std::isnan(scalar::f32_abs_max(broken.data(), broken.size())));
}

TEST(F32AbsMax, MatchesScalarOnEveryTarget) {
  const std::vector<float> finite = finite_values(5000, 6);
  const std::vector<float> any = any_values(5000, 7);
  on_every_target([&] {
    for (const std::size_t n : awkward_lengths()) {
      for (const std::size_t offset : {0U, 1U, 3U}) {
        const float* row = finite.data() + offset;
        ASSERT_EQ(bits_of(f32_abs_max(row, n)), bits_of(scalar::f32_abs_max(row, n))) << n;
        row = any.data() + offset;
        ASSERT_EQ(bits_of(f32_abs_max(row, n)), bits_of(scalar::f32_abs_max(row, n))) << n;
      }
    }
  });
}

TEST(F32AbsMax, FindsOneNanOrInfinityOrPeakAnywhere) {
  on_every_target([] {
    for (std::size_t n = 1; n <= 259; n += 43) {
      std::vector<float> values(n, -1.0F);
      for (std::size_t i = 0; i < n; ++i) {
        values[i] = float_of(0xFF800001U);
        ASSERT_TRUE(std::isnan(f32_abs_max(values.data(), n))) << i << " of " << n;
        values[i] = -kInfinity;
        ASSERT_EQ(f32_abs_max(values.data(), n), kInfinity) << i << " of " << n;
        values[i] = -kMaxFloat;
        ASSERT_EQ(f32_abs_max(values.data(), n), kMaxFloat) << i << " of " << n;
        values[i] = -1.0F;
      }
    }
  });
}

TEST(F32MinMax, KnownValues) {
  const std::vector<float> values = {0.5F, -3.0F, 2.0F, -0.0F};
  const MinMax range = scalar::f32_min_max(values.data(), values.size());
  EXPECT_EQ(range.min, -3.0F);
  EXPECT_EQ(range.max, 2.0F);
  const float negative_zero = -0.0F;
  EXPECT_EQ(bits_of(scalar::f32_min_max(&negative_zero, 1).min), 0U);
  EXPECT_EQ(bits_of(scalar::f32_min_max(&negative_zero, 1).max), 0U);
  EXPECT_EQ(scalar::f32_min_max(nullptr, 0).max, 0.0F);
}

TEST(F32MinMax, MatchesScalarOnEveryTarget) {
  std::vector<std::vector<float>> sources = {finite_values(5000, 8), std::vector<float>(5000, -0.0F)};
  sources.emplace_back(sources[0]);
  for (float& value : sources.back()) value = std::fabs(value) + 1.0F;  // all positive
  on_every_target([&] {
    for (const std::vector<float>& source : sources) {
      for (const std::size_t n : awkward_lengths()) {
        const float* row = source.data() + n % 4;
        const MinMax actual = f32_min_max(row, n);
        const MinMax expected = scalar::f32_min_max(row, n);
        ASSERT_EQ(bits_of(actual.min), bits_of(expected.min)) << n;
        ASSERT_EQ(bits_of(actual.max), bits_of(expected.max)) << n;
      }
    }
  });
}

TEST(F32MinMax, FindsThePeaksAnywhere) {
  on_every_target([] {
    for (std::size_t n = 2; n <= 259; n += 43) {
      std::vector<float> values(n, 1.0F);
      for (std::size_t i = 0; i < n; ++i) {
        values[i] = 3.0F;
        ASSERT_EQ(f32_min_max(values.data(), n).max, 3.0F) << i << " of " << n;
        values[i] = -3.0F;
        ASSERT_EQ(f32_min_max(values.data(), n).min, -3.0F) << i << " of " << n;
        values[i] = 1.0F;
      }
    }
  });
}

// --- INT8

TEST(F32ToI8Rtn, RoundsTiesToEvenAndClamps) {
  const std::vector<float> source = {0.25F, 0.75F, 1.25F, -0.25F, -0.75F, 63.5F, 63.75F, 1e30F, -64.0F, -64.25F, -0.0F};
  const std::vector<std::int8_t> expected = {0, 2, 2, 0, -2, 127, 127, 127, -128, -128, 0};
  std::vector<std::int8_t> target(source.size());
  scalar::f32_to_i8_rtn(source.data(), target.data(), source.size(), 0.5F);
  EXPECT_EQ(target, expected);
}

TEST(F32ToI8Rtn, DividesByTheScale) {
  // 45.5 / 7 is a tie and rounds to 6; 45.5 times the float nearest to 1 / 7 is above 6.5 and would round to 7.
  ASSERT_GT(45.5F * (1.0F / 7.0F), 6.5F);
  on_every_target([] {
    const std::vector<float> source(100, 45.5F);
    std::vector<std::int8_t> target(source.size());
    f32_to_i8_rtn(source.data(), target.data(), source.size(), 7.0F);
    EXPECT_EQ(target, std::vector<std::int8_t>(source.size(), 6));
  });
}

TEST(F32ToI8Rtn, MatchesScalarOnEveryTarget) {
  const std::vector<float> source = finite_values(100000, 9);
  for (const float scale : {1.0F, 0.5F, 0.00123F, 3.0F, kLeastNormal, kLeastSubnormal, kMaxFloat}) {
    SCOPED_TRACE(scale);
    expect_matches_scalar<std::int8_t>(
        source, [scale](const float* from, std::int8_t* to, std::size_t n) { f32_to_i8_rtn(from, to, n, scale); },
        [scale](const float* from, std::int8_t* to, std::size_t n) { scalar::f32_to_i8_rtn(from, to, n, scale); });
  }
}

// --- INT4

TEST(F32ToI4GroupRtn, KnownGroups) {
  // max 7, min -8: scale 1. Ties go to even: 0.5 -> 0, 1.5 -> 2, -2.5 -> -2.
  const std::vector<float> source = {7.0F,  -8.0F, 0.5F,  1.5F,  -2.5F, 0.0F,    // scale max(1, 1)
                                     -4.0F, 1.0F,  0.25F, 0.75F, -0.0F, 3.0F,    // scale max(3 / 7, 0.5)
                                     0.0F,  -0.0F, 0.0F,  0.0F,  0.0F,  -0.0F};  // zeros: scale 1
  std::vector<std::uint8_t> target(9);
  std::vector<std::uint16_t> scales(3);
  scalar::f32_to_i4_group_rtn(source.data(), target.data(), scales.data(), source.size(), 6);
  EXPECT_EQ(scales, (std::vector<std::uint16_t>{0x3F80, 0x3F00, 0x3F80}));
  const std::vector<std::uint8_t> expected = {0x0F, 0xA8, 0x86, 0xA0, 0xA8, 0xE8, 0x88, 0x88, 0x88};
  EXPECT_EQ(target, expected);
}

TEST(F32ToI4GroupRtn, RoundsAgainstTheStoredScale) {
  // 1 / 7 = 0x3E124925 is stored as the bfloat16 0x3E12 = 0.142578125. The weight 0.35676 lies between 2.5 of the
  // exact scale (0.357143) and 2.5 of the stored one (0.356445): it must round to 3, not 2.
  std::vector<float> source(32, 0.35676F);
  source[0] = 1.0F;
  std::vector<std::uint8_t> target(16);
  std::uint16_t scale = 0;
  scalar::f32_to_i4_group_rtn(source.data(), target.data(), &scale, 32, 32);
  EXPECT_EQ(scale, 0x3E12);
  EXPECT_EQ(target[0], 0xBF);
  EXPECT_EQ(target[15], 0xBB);
}

TEST(F32ToI4GroupRtn, RoundsTheScaleToNearestEven) {
  // 1.00390625 and 1.01171875 lie halfway between two bfloat16 values.
  std::vector<float> source(4 * 32, 0.0F);
  source[0] = 7.0F * 1.00390625F;
  source[32] = 7.0F * 1.01171875F;
  source[64] = -8.0F * 1.00390625F;
  source[96] = -8.0F * 1.01171875F;
  const std::vector<std::uint16_t> expected = {0x3F80, 0x3F82, 0x3F80, 0x3F82};
  std::vector<std::uint8_t> target(source.size() / 2);
  std::vector<std::uint16_t> scales(4);
  scalar::f32_to_i4_group_rtn(source.data(), target.data(), scales.data(), source.size(), 32);
  EXPECT_EQ(scales, expected);
  on_every_target([&] {
    f32_to_i4_group_rtn(source.data(), target.data(), scales.data(), source.size(), 32);
    EXPECT_EQ(scales, expected);
  });
}

TEST(F32ToI4GroupRtn, RaisesSubnormalScalesToTheLeastNormal) {
  std::vector<float> source(64, 0.0F);
  source[0] = kLeastSubnormal;
  source[32] = -8.0F * kLeastNormal;
  std::vector<std::uint8_t> target(32);
  std::vector<std::uint16_t> scales(2);
  scalar::f32_to_i4_group_rtn(source.data(), target.data(), scales.data(), 64, 32);
  EXPECT_EQ(scales, (std::vector<std::uint16_t>{0x0080, 0x0080}));
  EXPECT_EQ(target[0], 0x88);
  EXPECT_EQ(target[16], 0x80);
}

TEST(F32ToI4GroupRtn, ClipsNothing) {
  const std::size_t n = 32 * 1000;
  std::mt19937 random(10);
  std::normal_distribution<float> weight(0.0F, 0.05F);
  std::vector<float> source(n);
  for (float& value : source) value = weight(random);
  std::vector<std::uint8_t> target(n / 2);
  std::vector<std::uint16_t> scales(n / 32);
  f32_to_i4_group_rtn(source.data(), target.data(), scales.data(), n, 32);
  for (std::size_t i = 0; i < n; ++i) {
    const unsigned pair = target[i / 2];
    const int quantized = static_cast<int>(i % 2 == 0 ? pair & 15U : pair >> 4U) - 8;
    const float scale = scalar::bf16_to_f32_one(scales[i / 32]);
    ASSERT_LE(std::fabs(source[i] - static_cast<float>(quantized) * scale), 0.52F * scale) << i;
  }
}

TEST(F32ToI4GroupRtn, MatchesScalarOnEveryTarget) {
  std::mt19937 random(11);
  std::normal_distribution<float> weight(0.0F, 0.05F);
  std::vector<float> weights(8192);
  for (float& value : weights) value = weight(random);
  std::vector<float> tiny = weights;
  for (std::size_t i = 0; i < tiny.size(); ++i) tiny[i] *= std::ldexp(1.0F, -120 - static_cast<int>(i / 256));
  std::vector<float> with_zeros = finite_values(8192, 12);
  std::fill(with_zeros.begin() + 1024, with_zeros.begin() + 2048, 0.0F);
  std::vector<float> one_sign = weights;
  for (std::size_t i = 0; i < one_sign.size(); ++i) one_sign[i] = std::copysign(one_sign[i], i < 4096 ? 1.0F : -1.0F);
  std::vector<float> ties(8192);
  for (std::size_t i = 0; i < ties.size(); ++i) {
    const auto halves = static_cast<float>(static_cast<int>(i * 7 % 31) - 16);
    ties[i] = halves * std::ldexp(0.5F, static_cast<int>(i / 512));
  }

  on_every_target([&] {
    for (const std::vector<float>& source : {weights, tiny, with_zeros, one_sign, ties}) {
      for (const std::size_t group_size : {2U, 6U, 24U, 32U, 64U, 96U, 128U, 256U}) {
        for (const std::size_t groups : {std::size_t{0}, std::size_t{1}, std::size_t{3}, 8192 / group_size}) {
          SCOPED_TRACE(testing::Message() << groups << " groups of " << group_size);
          const std::size_t n = groups * group_size;
          const std::vector<float> row(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(n));
          const std::size_t offset = group_size / 2 % 5;
          std::vector<std::uint16_t> expected_scales(groups);
          const auto expected = run<std::uint8_t>(row, n / 2, 0, [&](const float* from, std::uint8_t* to) {
            scalar::f32_to_i4_group_rtn(from, to, expected_scales.data(), n, group_size);
          });
          std::vector<std::uint8_t> actual;
          const auto scales = run<std::uint16_t>(row, groups, offset, [&](const float* from, std::uint16_t* to_scales) {
            actual = run<std::uint8_t>(row, n / 2, offset, [&](const float*, std::uint8_t* to) {
              f32_to_i4_group_rtn(from, to, to_scales, n, group_size);
            });
          });
          expect_same_bits(scales, expected_scales);
          expect_same_bits(actual, expected);
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  });
}

TEST(F32ToI4Rtn, RoundsTiesToEvenClampsAndFillsTheLastNibble) {
  const std::vector<float> source = {0.25F, 0.75F, -0.75F, 3.75F, 100.0F, -4.25F, -100.0F};
  std::vector<std::uint8_t> target(4);
  scalar::f32_to_i4_rtn(source.data(), target.data(), source.size(), 0.5F);
  EXPECT_EQ(target, (std::vector<std::uint8_t>{0xA8, 0xF6, 0x0F, 0x80}));
}

TEST(F32ToI4Rtn, MatchesScalarOnEveryTarget) {
  const std::vector<float> source = finite_values(5000, 13);
  on_every_target([&] {
    for (const float scale : {1.0F, 0.5F, 0.00123F, 0.02F, kLeastNormal, kLeastSubnormal, kMaxFloat}) {
      for (const std::size_t n : awkward_lengths()) {
        const std::vector<float> row(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(n));
        const auto actual = run<std::uint8_t>(
            row, (n + 1) / 2, n % 5, [&](const float* from, std::uint8_t* to) { f32_to_i4_rtn(from, to, n, scale); });
        const auto expected = run<std::uint8_t>(row, (n + 1) / 2, 0, [&](const float* from, std::uint8_t* to) {
          scalar::f32_to_i4_rtn(from, to, n, scale);
        });
        expect_same_bits(actual, expected);
        if (::testing::Test::HasFailure()) return;
      }
    }
  });
}

// --- Searching scales

// Weights of a usual size, some ties, zeros and outliers.
std::vector<float> search_values(std::size_t n) {
  std::mt19937 random(15);
  std::normal_distribution<float> weight(0.0F, 1.0F);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto halves = static_cast<float>(static_cast<int>(random() % 41) - 20) * 0.5F;
    values[i] = i % 7 == 0 ? halves : i % 11 == 0 ? 0.0F : weight(random) * (i % 97 == 0 ? 300.0F : 1.0F);
  }
  return values;
}

TEST(F32SquaredErrors, KnownSums) {
  const std::vector<float> source = {1.0F, 2.5F, -9.0F, 0.25F};  // scale 1: errors 0, 0.5 (2), -1 (-8), 0.25
  const std::vector<float> importance = {1.0F, 2.0F, 3.0F, 4.0F};
  const std::vector<float> scales = {1.0F, 0.5F};  // scale 0.5: 0, 0, -5 (-4), 0.25 (tie to 0)
  std::vector<float> errors(2);
  scalar::f32_squared_errors(source.data(), nullptr, 4, scales.data(), errors.data(), 2, -8.0F, 7.0F);
  EXPECT_EQ(errors, (std::vector<float>{1.3125F, 25.0625F}));
  scalar::f32_squared_errors(source.data(), importance.data(), 4, scales.data(), errors.data(), 2, -8.0F, 7.0F);
  EXPECT_EQ(errors, (std::vector<float>{3.75F, 75.25F}));
}

TEST(F32SquaredErrors, MatchesScalarOnEveryTarget) {
  const std::vector<float> source = search_values(300);
  std::vector<float> importance = search_values(300);
  for (float& value : importance) value = std::fabs(value);
  std::vector<float> scales(130);
  for (std::size_t k = 0; k < scales.size(); ++k) scales[k] = 0.01F * static_cast<float>(k + 1);
  on_every_target([&] {
    for (const std::size_t n : {0U, 1U, 7U, 32U, 256U, 299U}) {
      for (const std::size_t count : {0U, 1U, 15U, 16U, 17U, 64U, 130U}) {
        for (const float* factors :
             {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data() + 1)}) {
          std::vector<float> actual(count + 1, -1.0F);
          std::vector<float> expected(count + 1, -1.0F);
          f32_squared_errors(source.data() + 1, factors, n, scales.data(), actual.data(), count, -8.0F, 7.0F);
          scalar::f32_squared_errors(source.data() + 1, factors, n, scales.data(), expected.data(), count, -8.0F, 7.0F);
          expect_same_bits(actual, expected);
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  });
}

TEST(PowerOne, IsThePowerToAMillionth) {
  for (const float exponent : {-0.3F, -0.5F, -1.0F, 0.0F}) {
    for (float magnitude = 0x1p-40F; magnitude < 1e30F; magnitude *= 1.0137F) {
      const double exact = std::pow(static_cast<double>(magnitude), static_cast<double>(exponent));
      ASSERT_NEAR(scalar::power_one(magnitude, exponent) / exact, 1.0, 5e-6) << magnitude << "^" << exponent;
    }
  }
  EXPECT_EQ(scalar::power_one(0.0F, -0.5F), scalar::power_one(0x1p-40F, -0.5F));
}

TEST(F32HalfQuadraticSums, FollowTheirFormula) {
  const std::vector<float> source = search_values(64);
  const HalfQuadraticSums sums =
      scalar::f32_half_quadratic_sums(source.data(), source.size(), 0.3F, 10.0F, 0.7F, -8.0F, 7.0F);
  double q_dot_target = 0.0;
  double q_dot_q = 0.0;
  double lp_error = 0.0;
  for (const float value : source) {
    const double q = std::clamp(std::nearbyint(static_cast<double>(value) / 0.3), -8.0, 7.0);
    const double r = static_cast<double>(value) - q * 0.3;
    const double shrunk = r == 0.0 ? 0.0 : std::fabs(r) - std::pow(std::fabs(r), -0.3) / 10.0;
    q_dot_target += q * (static_cast<double>(value) - std::copysign(std::max(shrunk, 0.0), r));
    q_dot_q += q * q;
    lp_error += std::pow(std::fabs(r), 0.7);
  }
  EXPECT_NEAR(sums.q_dot_target / q_dot_target, 1.0, 1e-5);
  EXPECT_NEAR(sums.q_dot_q / q_dot_q, 1.0, 1e-5);
  EXPECT_NEAR(sums.lp_error / lp_error, 1.0, 1e-5);
}

TEST(F32HalfQuadraticSums, MatchesScalarOnEveryTarget) {
  const std::vector<float> source = search_values(513);
  on_every_target([&] {
    for (const std::size_t n : {0U, 16U, 32U, 48U, 256U, 512U}) {
      for (const float scale : {0.05F, 0.3F, 1.0F, 4.0F}) {
        const auto actual = f32_half_quadratic_sums(source.data() + 1, n, scale, 10.1F, 0.7F, -8.0F, 7.0F);
        const auto expected = scalar::f32_half_quadratic_sums(source.data() + 1, n, scale, 10.1F, 0.7F, -8.0F, 7.0F);
        ASSERT_EQ(bits_of(actual.q_dot_target), bits_of(expected.q_dot_target)) << n << " " << scale;
        ASSERT_EQ(bits_of(actual.q_dot_q), bits_of(expected.q_dot_q)) << n << " " << scale;
        ASSERT_EQ(bits_of(actual.lp_error), bits_of(expected.lp_error)) << n << " " << scale;
      }
    }
  });
}

// --- Repacking

TEST(SwapNibbles, SwapsEveryByte) {
  on_every_target([] {
    std::vector<std::uint8_t> bytes(256);
    std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
    std::vector<std::uint8_t> swapped(256);
    swap_nibbles(bytes.data(), swapped.data(), bytes.size());
    for (unsigned i = 0; i < 256; ++i) ASSERT_EQ(swapped[i], (i % 16) * 16 + i / 16);
  });
}

TEST(SwapNibbles, MatchesScalarOnEveryTarget) {
  std::mt19937 random(14);
  std::vector<std::uint8_t> source(5000);
  for (std::uint8_t& byte : source) byte = static_cast<std::uint8_t>(random());
  expect_matches_scalar<std::uint8_t>(source, swap_nibbles, scalar::swap_nibbles);
}

TEST(SwapNibbles, WorksInPlace) {
  on_every_target([] {
    std::vector<std::uint8_t> bytes(333, 0x2C);
    swap_nibbles(bytes.data(), bytes.data(), bytes.size());
    EXPECT_EQ(bytes, std::vector<std::uint8_t>(333, 0xC2));
  });
}

}  // namespace
}  // namespace diffulex_edge::kernels
