#include "core/linear_algebra.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/matrix_kernels.h"
#include "core/parallel.h"
#include "core/round_up.h"

namespace diffulex_edge {
namespace {

using View = kernels::MatrixView<float>;

void multiply_views(const Gemm& gemm, const View& a, const View& b, float* c, std::int64_t ldc) {
  kernels::multiply_matrices({.m = gemm.m, .n = gemm.n, .k = gemm.k}, gemm.alpha, a, b, gemm.beta, c, ldc);
}

// The algorithms below are recursive: a matrix is cut into quarters, which leaves products of matrices, until a part is
// this small.
constexpr std::int64_t kSmall = 16;
// Cuts at a multiple of kSmall.
std::int64_t first_half(std::int64_t n) { return round_up(n / 2, kSmall); }

// A part of a row-major matrix.
struct Part {
  double* data = nullptr;
  std::int64_t stride = 0;

  double& at(std::int64_t i, std::int64_t j) const { return data[i * stride + j]; }
  Part from(std::int64_t row, std::int64_t column) const { return {data + row * stride + column, stride}; }
  kernels::MatrixView<double> view(bool transposed = false) const { return {data, stride, transposed}; }
};

// c [m, n] += alpha * a [m, k] * b [k, n]
void add_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const kernels::MatrixView<double>& a,
                 const kernels::MatrixView<double>& b, Part c) {
  kernels::multiply_matrices({.m = m, .n = n, .k = k}, alpha, a, b, 1.0, c.data, c.stride);
}

// The upper triangle of c [n, n] += alpha * x x^T, where x [n, k] is `transposed` in its memory or not. Up to 127
// elements below the diagonal of each row may change.
void add_square(std::int64_t n, std::int64_t k, double alpha, Part x, bool transposed, Part c) {
  constexpr std::int64_t kRows = 128;
  for (std::int64_t row = 0; row < n; row += kRows) {
    const Part rows = transposed ? x.from(0, row) : x.from(row, 0);
    add_product(std::min(kRows, n - row), n - row, k, alpha, rows.view(transposed), rows.view(!transposed),
                c.from(row, row));
  }
}

// x [n, columns] = u^-T x, u an upper triangle [n, n].
void solve_transposed(std::int64_t n, std::int64_t columns, Part u, Part x) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    solve_transposed(first, columns, u, x);
    add_product(n - first, columns, first, -1.0, u.from(0, first).view(true), x.view(), x.from(first, 0));
    solve_transposed(n - first, columns, u.from(first, first), x.from(first, 0));
    return;
  }
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t before = 0; before < row; ++before) {
      const double factor = u.at(before, row);
      for (std::int64_t column = 0; column < columns; ++column) {
        x.at(row, column) -= factor * x.at(before, column);
      }
    }
    for (std::int64_t column = 0; column < columns; ++column) {
      x.at(row, column) /= u.at(row, row);
    }
  }
}

// The upper triangle of a = u^T u becomes u.
bool factorize(std::int64_t n, Part a) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    if (!factorize(first, a)) {
      return false;
    }
    solve_transposed(first, n - first, a, a.from(0, first));
    add_square(n - first, first, -1.0, a.from(0, first), true, a.from(first, first));
    return factorize(n - first, a.from(first, first));
  }
  for (std::int64_t row = 0; row < n; ++row) {
    const double pivot = a.at(row, row);
    if (!(pivot > 0.0) || !std::isfinite(pivot)) {
      return false;
    }
    a.at(row, row) = std::sqrt(pivot);
    for (std::int64_t column = row + 1; column < n; ++column) {
      a.at(row, column) /= a.at(row, row);
    }
    for (std::int64_t below = row + 1; below < n; ++below) {
      for (std::int64_t column = below; column < n; ++column) {
        a.at(below, column) -= a.at(row, below) * a.at(row, column);
      }
    }
  }
  return true;
}

// x [n, columns] = u x, u an upper triangle [n, n].
void multiply_upper_left(std::int64_t n, std::int64_t columns, Part u, Part x) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    multiply_upper_left(first, columns, u, x);
    add_product(first, columns, n - first, 1.0, u.from(0, first).view(), x.from(first, 0).view(), x);
    multiply_upper_left(n - first, columns, u.from(first, first), x.from(first, 0));
    return;
  }
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      x.at(row, column) *= u.at(row, row);
    }
    for (std::int64_t after = row + 1; after < n; ++after) {
      for (std::int64_t column = 0; column < columns; ++column) {
        x.at(row, column) += u.at(row, after) * x.at(after, column);
      }
    }
  }
}

// x [rows, n] = -x u, u an upper triangle [n, n].
void multiply_upper_right_negated(std::int64_t rows, std::int64_t n, Part x, Part u) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    multiply_upper_right_negated(rows, n - first, x.from(0, first), u.from(first, first));
    add_product(rows, n - first, first, -1.0, x.view(), u.from(0, first).view(), x.from(0, first));
    multiply_upper_right_negated(rows, first, x, u);
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = n - 1; column >= 0; --column) {
      double sum = 0.0;
      for (std::int64_t k = 0; k <= column; ++k) {
        sum += x.at(row, k) * u.at(k, column);
      }
      x.at(row, column) = -sum;
    }
  }
}

// x [rows, n] = x u^T, u an upper triangle [n, n].
void multiply_upper_transposed_right(std::int64_t rows, std::int64_t n, Part x, Part u) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    multiply_upper_transposed_right(rows, first, x, u);
    add_product(rows, first, n - first, 1.0, x.from(0, first).view(), u.from(0, first).view(true), x);
    multiply_upper_transposed_right(rows, n - first, x.from(0, first), u.from(first, first));
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < n; ++column) {
      double sum = 0.0;
      for (std::int64_t k = column; k < n; ++k) {
        sum += x.at(row, k) * u.at(column, k);
      }
      x.at(row, column) = sum;
    }
  }
}

// An upper triangle without zeros on its diagonal becomes its inverse.
void invert_triangle(std::int64_t n, Part u) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    invert_triangle(first, u);
    invert_triangle(n - first, u.from(first, first));
    multiply_upper_left(first, n - first, u, u.from(0, first));
    multiply_upper_right_negated(first, n - first, u.from(0, first), u.from(first, first));
    return;
  }
  for (std::int64_t column = 0; column < n; ++column) {
    u.at(column, column) = 1.0 / u.at(column, column);
    for (std::int64_t row = 0; row < column; ++row) {
      double sum = 0.0;
      for (std::int64_t k = row; k < column; ++k) {
        sum += u.at(row, k) * u.at(k, column);
      }
      u.at(row, column) = -sum * u.at(column, column);
    }
  }
}

// The upper triangle u becomes that of u u^T.
void square_triangle(std::int64_t n, Part u) {
  if (n > kSmall) {
    const std::int64_t first = first_half(n);
    square_triangle(first, u);
    add_square(first, n - first, 1.0, u.from(0, first), false, u);
    multiply_upper_transposed_right(first, n - first, u.from(0, first), u.from(first, first));
    square_triangle(n - first, u.from(first, first));
    return;
  }
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t column = row; column < n; ++column) {
      double sum = 0.0;
      for (std::int64_t k = column; k < n; ++k) {
        sum += u.at(row, k) * u.at(column, k);
      }
      u.at(row, column) = sum;
    }
  }
}

}  // namespace

void multiply_transposed(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                         std::int64_t ldc) {
  multiply_views(gemm, {a, lda, false}, {b, ldb, true}, c, ldc);
}

void multiply(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
              std::int64_t ldc) {
  multiply_views(gemm, {a, lda, false}, {b, ldb, false}, c, ldc);
}

void multiply_transposed_first(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                               float* c, std::int64_t ldc) {
  multiply_views(gemm, {a, lda, true}, {b, ldb, false}, c, ldc);
}

void multiply_tiled(Product product, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c, const RunControl& control) {
  constexpr std::int64_t kTile = 128;  // rows of c
  const bool first = product == Product::kTransposedFirst;
  const bool second = product == Product::kTransposed;
  parallel_for(static_cast<std::size_t>((m + kTile - 1) / kTile), control, [&](std::size_t tile, std::size_t) {
    const std::int64_t begin = static_cast<std::int64_t>(tile) * kTile;
    multiply_views({.m = std::min(kTile, m - begin), .n = n, .k = k},
                   {a + (first ? begin : begin * k), first ? m : k, first}, {b, second ? k : n, second}, c + begin * n,
                   n);
  });
}

bool cholesky_upper(std::span<double> a, std::int64_t n) {
  const Part whole = {a.data(), n};
  if (!factorize(n, whole)) {
    return false;
  }
  for (std::int64_t row = 0; row < n; ++row) {
    std::fill_n(a.data() + row * n, row, 0.0);
  }
  return true;
}

bool invert_upper(std::span<double> a, std::int64_t n) {
  const Part whole = {a.data(), n};
  for (std::int64_t row = 0; row < n; ++row) {
    if (whole.at(row, row) == 0.0) {
      return false;
    }
  }
  invert_triangle(n, whole);
  return true;
}

bool invert_positive_definite(std::span<double> a, std::int64_t n) {
  const Part whole = {a.data(), n};
  if (!factorize(n, whole)) {
    return false;
  }
  invert_triangle(n, whole);
  square_triangle(n, whole);
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t column = 0; column < row; ++column) {
      whole.at(row, column) = whole.at(column, row);
    }
  }
  return true;
}

}  // namespace diffulex_edge
