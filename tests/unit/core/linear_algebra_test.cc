#include "core/linear_algebra.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/parallel.h"

namespace diffulex_edge {
namespace {

std::vector<float> random_matrix(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> matrix(size);
  for (float& value : matrix) {
    value = static_cast<float>(generator() % 2001) / 1000.0F - 1.0F;
  }
  return matrix;
}

TEST(LinearAlgebra, MultipliesInAllThreeOrders) {
  constexpr std::int64_t kM = 5;
  constexpr std::int64_t kN = 7;
  constexpr std::int64_t kK = 11;
  const auto a = random_matrix(kM * kK, 1);  // [m, k]
  const auto b = random_matrix(kN * kK, 2);  // [n, k]
  std::vector<float> a_transposed(kK * kM);
  std::vector<float> b_transposed(kK * kN);
  for (std::size_t k = 0; k < kK; ++k) {
    for (std::size_t i = 0; i < kM; ++i) {
      a_transposed[k * kM + i] = a[i * kK + k];
    }
    for (std::size_t j = 0; j < kN; ++j) {
      b_transposed[k * kN + j] = b[j * kK + k];
    }
  }
  std::vector<float> expected(kM * kN);
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t j = 0; j < kN; ++j) {
      double sum = 0.0;
      for (std::size_t k = 0; k < kK; ++k) {
        sum += static_cast<double>(a[i * kK + k]) * b[j * kK + k];
      }
      expected[i * kN + j] = static_cast<float>(2.0 * sum + 0.5);
    }
  }
  const Gemm gemm{.m = kM, .n = kN, .k = kK, .alpha = 2.0F, .beta = 0.5F};
  std::vector<std::vector<float>> results(3, std::vector<float>(kM * kN, 1.0F));
  multiply_transposed(gemm, a.data(), kK, b.data(), kK, results[0].data(), kN);
  multiply(gemm, a.data(), kK, b_transposed.data(), kN, results[1].data(), kN);
  multiply_transposed_first(gemm, a_transposed.data(), kM, b_transposed.data(), kN, results[2].data(), kN);
  for (const auto& result : results) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(result[i], expected[i], 1e-5F);
    }
  }
}

// A = X^T X + I is positive definite.
std::vector<double> positive_definite(std::size_t n) {
  const auto x = random_matrix(n * n, 3);
  std::vector<double> a(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = i == j ? 1.0 : 0.0;
      for (std::size_t k = 0; k < n; ++k) {
        sum += static_cast<double>(x[k * n + i]) * x[k * n + j];
      }
      a[i * n + j] = sum;
    }
  }
  return a;
}

TEST(LinearAlgebra, GivesTheSameFromSeveralThreadsAtOnce) {
  constexpr std::int64_t kSize = 96;
  const auto a = random_matrix(kSize * kSize, 4);
  std::vector<std::vector<float>> results(400, std::vector<float>(kSize * kSize));
  parallel_for(results.size(), {.threads = 4, .stop = {}, .on_progress = {}}, [&](std::size_t item, std::size_t) {
    multiply_transposed({.m = kSize, .n = kSize, .k = kSize}, a.data(), kSize, a.data(), kSize, results[item].data(),
                        kSize);
  });
  for (const auto& result : results) {
    ASSERT_EQ(result, results[0]);
  }
}

TEST(LinearAlgebra, TiledProductsAreThoseOfOneCall) {
  constexpr std::int64_t kM = 300;  // more than one tile
  constexpr std::int64_t kN = 40;
  constexpr std::int64_t kK = 24;
  const auto a = random_matrix(kM * kK, 5);  // [m, k], or [k, m]
  const auto b = random_matrix(kN * kK, 6);  // [n, k], or [k, n]
  const Gemm gemm{.m = kM, .n = kN, .k = kK};
  std::vector<std::vector<float>> expected(3, std::vector<float>(kM * kN));
  multiply(gemm, a.data(), kK, b.data(), kN, expected[0].data(), kN);
  multiply_transposed(gemm, a.data(), kK, b.data(), kK, expected[1].data(), kN);
  multiply_transposed_first(gemm, a.data(), kM, b.data(), kN, expected[2].data(), kN);
  const Product products[] = {Product::kPlain, Product::kTransposed, Product::kTransposedFirst};
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<float> one_thread(kM * kN);
    std::vector<float> three_threads(kM * kN);
    multiply_tiled(products[i], kM, kN, kK, a.data(), b.data(), one_thread.data(),
                   {.threads = 1, .stop = {}, .on_progress = {}});
    multiply_tiled(products[i], kM, kN, kK, a.data(), b.data(), three_threads.data(),
                   {.threads = 3, .stop = {}, .on_progress = {}});
    EXPECT_EQ(one_thread, three_threads);
    for (std::size_t j = 0; j < one_thread.size(); ++j) {
      ASSERT_NEAR(one_thread[j], expected[i][j], 1e-5F);
    }
  }
}

// Below, at and above the size at which the recursive algorithms stop, and sizes that leave every kind of remainder.
constexpr std::size_t kSizes[] = {1, 9, 16, 17, 33, 150};

// The largest element of |a b - expected|, a taken transposed where `first_transposed`.
double largest_difference(const std::vector<double>& a, bool first_transposed, const std::vector<double>& b,
                          const std::vector<double>& expected, std::size_t n) {
  double largest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (std::size_t k = 0; k < n; ++k) {
        sum += (first_transposed ? a[k * n + i] : a[i * n + k]) * b[k * n + j];
      }
      largest = std::max(largest, std::abs(sum - expected[i * n + j]));
    }
  }
  return largest;
}

std::vector<double> identity(std::size_t n) {
  std::vector<double> matrix(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    matrix[i * n + i] = 1.0;
  }
  return matrix;
}

TEST(LinearAlgebra, CholeskyGivesAnUpperTriangleWhoseSquareIsTheMatrix) {
  for (const std::size_t n : kSizes) {
    const auto a = positive_definite(n);
    auto u = a;
    ASSERT_TRUE(cholesky_upper(u, static_cast<std::int64_t>(n)));
    EXPECT_LT(largest_difference(u, true, u, a, n), 1e-11) << n;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        ASSERT_EQ(u[i * n + j], 0.0);
      }
    }
  }
}

TEST(LinearAlgebra, InverseOfAnUpperTriangleLeavesWhatIsBelow) {
  for (const std::size_t n : kSizes) {
    auto u = positive_definite(n);
    ASSERT_TRUE(cholesky_upper(u, static_cast<std::int64_t>(n)));
    auto inverse = u;
    ASSERT_TRUE(invert_upper(inverse, static_cast<std::int64_t>(n)));
    EXPECT_LT(largest_difference(inverse, false, u, identity(n), n), 1e-11) << n;
    u[n * n - 1] = 0.0;
    EXPECT_FALSE(invert_upper(u, static_cast<std::int64_t>(n)));
  }
}

TEST(LinearAlgebra, InverseTimesMatrixIsTheIdentity) {
  for (const std::size_t n : kSizes) {
    const auto a = positive_definite(n);
    auto inverse = a;
    ASSERT_TRUE(invert_positive_definite(inverse, static_cast<std::int64_t>(n)));
    EXPECT_LT(largest_difference(inverse, false, a, identity(n), n), 1e-10) << n;
  }
}

TEST(LinearAlgebra, SaysWhereAMatrixIsNotPositiveDefinite) {
  std::vector<double> indefinite = {1.0, 2.0, 2.0, 1.0};
  auto copy = indefinite;
  EXPECT_FALSE(cholesky_upper(copy, 2));
  EXPECT_FALSE(invert_positive_definite(indefinite, 2));
  // Only the last of many pivots is negative, so that every step before it succeeds.
  auto late = positive_definite(100);
  late.back() = -1.0;
  EXPECT_FALSE(cholesky_upper(late, 100));
}

}  // namespace
}  // namespace diffulex_edge
