// Products of matrices against their definition: bit for bit where the processor has fused multiply-adds, within the
// rounding of the sums elsewhere; on every instruction set that this machine can run.
#include "core/kernels/matrix_kernels.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/processor_features.h"

namespace diffulex_edge::kernels {
namespace {

template <class Body>
void on_every_target(const Body& body) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    SCOPED_TRACE(hwy::TargetName(target));
    body();
    if (::testing::Test::HasFailure()) {
      break;
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

template <typename T>
std::vector<T> random_values(std::int64_t count, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return normal(engine); });
  return values;
}

template <typename T>
T element(const MatrixView<T>& view, std::int64_t row, std::int64_t column) {
  return view.transposed ? view.data[column * view.stride + row] : view.data[row * view.stride + column];
}

// What the header promises: blocks of kDepth products, each a chain of fused multiply-adds.
template <typename T>
T defined(const MatrixView<T>& a, const MatrixView<T>& b, std::int64_t row, std::int64_t column, std::int64_t k,
          T alpha, T beta, T before) {
  T result = before;
  for (std::int64_t begin = 0; begin < k; begin += kDepth) {
    T sum = 0;
    for (std::int64_t i = begin; i < std::min(k, begin + kDepth); ++i) {
      sum = std::fma(element(a, row, i), element(b, i, column), sum);
    }
    const T scale = begin == 0 ? beta : T{1};
    result = scale == T{0} ? alpha * sum : std::fma(alpha, sum, scale * result);
  }
  return result;
}

// The sum of the magnitudes: what rounding errors are measured by.
template <typename T>
T magnitude(const MatrixView<T>& a, const MatrixView<T>& b, std::int64_t row, std::int64_t column, std::int64_t k) {
  T sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    sum += std::abs(element(a, row, i) * element(b, i, column));
  }
  return sum;
}

struct Case {
  ProductShape shape;
  bool a_transposed = false;
  bool b_transposed = false;
  double alpha = 1.0;
  double beta = 0.0;
};

template <typename T>
void check(const Case& one) {
  const auto [m, n, k] = one.shape;
  SCOPED_TRACE(::testing::Message() << m << " x " << n << " x " << k << (one.a_transposed ? ", a transposed" : "")
                                    << (one.b_transposed ? ", b transposed" : ""));
  constexpr std::int64_t kMore = 3;  // elements between rows, which nobody may touch
  const std::int64_t a_stride = (one.a_transposed ? m : k) + kMore;
  const std::int64_t b_stride = (one.b_transposed ? k : n) + kMore;
  const auto a_values = random_values<T>((one.a_transposed ? k : m) * a_stride, 1);
  const auto b_values = random_values<T>((one.b_transposed ? n : k) * b_stride, 2);
  const MatrixView<T> a = {a_values.data(), a_stride, one.a_transposed};
  const MatrixView<T> b = {b_values.data(), b_stride, one.b_transposed};
  const T alpha = static_cast<T>(one.alpha);
  const T beta = static_cast<T>(one.beta);
  const std::int64_t c_stride = n + kMore;
  auto c = random_values<T>(m * c_stride, 3);
  if (beta == T{0}) {
    std::fill(c.begin(), c.end(), std::numeric_limits<T>::quiet_NaN());
  }
  const auto before = c;
  multiply_matrices(one.shape, alpha, a, b, beta, c.data(), c_stride);
  for (std::int64_t row = 0; row < m; ++row) {
    for (std::int64_t column = 0; column < c_stride; ++column) {
      const auto at = static_cast<std::size_t>(row * c_stride + column);
      if (column >= n) {
        ASSERT_TRUE(c[at] == before[at] || std::isnan(before[at])) << "between the rows";
        continue;
      }
      const T expected = defined(a, b, row, column, k, alpha, beta, before[at]);
      if (matrix_products_are_fused()) {
        ASSERT_EQ(c[at], expected) << row << ", " << column;
      } else {
        const T started = beta == T{0} ? T{0} : std::abs(beta * before[at]);
        const T size = std::abs(alpha) * magnitude(a, b, row, column, k) + started;
        ASSERT_NEAR(c[at], expected, static_cast<T>(k + 3) * std::numeric_limits<T>::epsilon() * size);
      }
    }
  }
}

template <typename T>
void check_all() {
  on_every_target([] {
    // Every remainder of every tile.
    for (const std::int64_t m : {1, 2, 3, 5, 7, 12, 13, 25}) {
      for (const std::int64_t n : {1, 7, 8, 15, 17, 31, 33, 70}) {
        check<T>({.shape = {m, n, 19}, .a_transposed = m % 2 == 0, .b_transposed = n % 2 == 0});
      }
    }
    // More than one block in each direction, and sums of several blocks.
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        check<T>({.shape = {197, 35, 259}, .a_transposed = a_transposed, .b_transposed = b_transposed});
        check<T>({.shape = {9, 523, 7},
                  .a_transposed = a_transposed,
                  .b_transposed = b_transposed,
                  .alpha = -1.5,
                  .beta = 0.75});
        check<T>({.shape = {3, 2, 600}, .a_transposed = a_transposed, .b_transposed = b_transposed, .beta = 1.0});
      }
    }
  });
}

TEST(MatrixKernels, FloatsAreSummedInTheOrderThatIsPromised) { check_all<float>(); }
TEST(MatrixKernels, DoublesAreSummedInTheOrderThatIsPromised) { check_all<double>(); }

TEST(MatrixKernels, WithoutProductsTheResultIsOnlyScaled) {
  std::vector<float> c = {1.0F, 2.0F};
  multiply_matrices({.m = 1, .n = 2, .k = 0}, 1.0F, MatrixView<float>{}, MatrixView<float>{}, 0.5F, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{0.5F, 1.0F}));
  c[0] = std::numeric_limits<float>::quiet_NaN();
  multiply_matrices({.m = 1, .n = 2, .k = 0}, 1.0F, MatrixView<float>{}, MatrixView<float>{}, 0.0F, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{0.0F, 0.0F}));
  multiply_matrices({.m = 0, .n = 2, .k = 3}, 1.0F, MatrixView<float>{}, MatrixView<float>{}, 0.0F, c.data(), 2);
}

TEST(MatrixKernels, NotFiniteValuesReachTheResult) {
  on_every_target([] {
    std::vector<float> a(40, 1.0F);
    a[3] = std::numeric_limits<float>::quiet_NaN();
    a[25] = std::numeric_limits<float>::infinity();
    const std::vector<float> b(20, 1.0F);
    std::vector<float> c(2);
    multiply_matrices({.m = 2, .n = 1, .k = 20}, 1.0F, MatrixView<float>{a.data(), 20, false},
                      MatrixView<float>{b.data(), 20, true}, 0.0F, c.data(), 1);
    EXPECT_TRUE(std::isnan(c[0]));
    EXPECT_TRUE(std::isinf(c[1]));
  });
}

TEST(MatrixKernels, UseWhatTheProcessorCanDo) {
#if HWY_ARCH_X86_64
  const auto has = [](const char* name) { return testing::processor_has(name); };
  if (has("avx512f") && has("avx512bw") && has("avx512cd") && has("avx512dq") && has("avx512vl")) {
    EXPECT_TRUE(matrix_instruction_set().starts_with("AVX3")) << matrix_instruction_set();
  } else if (has("avx2") && has("fma") && has("f16c") && has("bmi2")) {
    EXPECT_EQ(matrix_instruction_set(), "AVX2");
    EXPECT_TRUE(matrix_products_are_fused());
  }
#elif HWY_ARCH_ARM_A64
  EXPECT_EQ(matrix_instruction_set(), "NEON");
  EXPECT_TRUE(matrix_products_are_fused());
#endif
}

}  // namespace
}  // namespace diffulex_edge::kernels
