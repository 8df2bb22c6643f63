#include "core/linear_algebra.h"

#include <cblas.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "core/parallel.h"
#include "diffulex_edge/error.h"

// LAPACK has no header in Debian's OpenBLAS: these are its Fortran symbols, column-major.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming): LAPACK's names
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info, std::size_t uplo_length);
void dtrtri_(const char* uplo, const char* diagonal, const int* n, double* a, const int* lda, int* info,
             std::size_t uplo_length, std::size_t diagonal_length);
void dpotri_(const char* uplo, const int* n, double* a, const int* lda, int* info, std::size_t uplo_length);
// NOLINTEND(readability-identifier-naming)
}

namespace diffulex_edge {
namespace {

int blas_int(std::int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max()) {
    throw Error(ErrorCode::kInternal, "matrix", std::to_string(value) + " is not a size that BLAS takes");
  }
  return static_cast<int>(value);
}

// What a call to OpenBLAS holds while it runs. A threaded build would start threads of its own in each of ours, and is
// told not to. A sequential one hands the same scratch memory to several callers (Debian's does, measured: results were
// wrong), so that they take turns.
std::unique_lock<std::mutex> enter_blas() {
  static std::once_flag once;
  static std::mutex turn;
  static bool sequential = false;
  std::call_once(once, [] {
    openblas_set_num_threads(1);
    sequential = openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
  });
  return sequential ? std::unique_lock(turn) : std::unique_lock<std::mutex>();
}

void gemm(const Gemm& shape, CBLAS_TRANSPOSE transpose_a, CBLAS_TRANSPOSE transpose_b, const float* a, std::int64_t lda,
          const float* b, std::int64_t ldb, float* c, std::int64_t ldc) {
  const auto entered = enter_blas();
  if (shape.m == 0 || shape.n == 0) {
    return;
  }
  cblas_sgemm(CblasRowMajor, transpose_a, transpose_b, blas_int(shape.m), blas_int(shape.n), blas_int(shape.k),
              shape.alpha, a, blas_int(lda), b, blas_int(ldb), shape.beta, c, blas_int(ldc));
}

// A row-major upper triangle is a column-major lower one.
constexpr char kLower = 'L';

bool factorize(std::span<double> a, int n) {
  const auto entered = enter_blas();
  int info = 0;
  dpotrf_(&kLower, &n, a.data(), &n, &info, 1);
  return info == 0;
}

}  // namespace

void multiply_transposed(const Gemm& gemm_shape, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                         float* c, std::int64_t ldc) {
  gemm(gemm_shape, CblasNoTrans, CblasTrans, a, lda, b, ldb, c, ldc);
}

void multiply(const Gemm& gemm_shape, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
              std::int64_t ldc) {
  gemm(gemm_shape, CblasNoTrans, CblasNoTrans, a, lda, b, ldb, c, ldc);
}

void multiply_transposed_first(const Gemm& gemm_shape, const float* a, std::int64_t lda, const float* b,
                               std::int64_t ldb, float* c, std::int64_t ldc) {
  gemm(gemm_shape, CblasTrans, CblasNoTrans, a, lda, b, ldb, c, ldc);
}

void multiply_tiled(Product product, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c, const RunControl& control) {
  constexpr std::int64_t kTile = 128;  // rows of c
  const bool first = product == Product::kTransposedFirst;
  const bool second = product == Product::kTransposed;
  parallel_for(static_cast<std::size_t>((m + kTile - 1) / kTile), control, [&](std::size_t tile, std::size_t) {
    const std::int64_t begin = static_cast<std::int64_t>(tile) * kTile;
    gemm({.m = std::min(kTile, m - begin), .n = n, .k = k}, first ? CblasTrans : CblasNoTrans,
         second ? CblasTrans : CblasNoTrans, a + (first ? begin : begin * k), first ? m : k, b, second ? k : n,
         c + begin * n, n);
  });
}

bool cholesky_upper(std::span<double> a, std::int64_t n) {
  if (!factorize(a, blas_int(n))) {
    return false;
  }
  const auto size = static_cast<std::size_t>(n);
  for (std::size_t row = 0; row < size; ++row) {
    for (std::size_t column = 0; column < row; ++column) {
      a[row * size + column] = 0.0;
    }
  }
  return true;
}

bool invert_upper(std::span<double> a, std::int64_t n) {
  const auto entered = enter_blas();
  constexpr char kNotUnit = 'N';
  const int order = blas_int(n);
  int info = 0;
  dtrtri_(&kLower, &kNotUnit, &order, a.data(), &order, &info, 1, 1);
  return info == 0;
}

bool invert_positive_definite(std::span<double> a, std::int64_t n) {
  const int order = blas_int(n);
  if (!factorize(a, order)) {
    return false;
  }
  const auto entered = enter_blas();
  int info = 0;
  dpotri_(&kLower, &order, a.data(), &order, &info, 1);
  if (info != 0) {
    return false;
  }
  const auto size = static_cast<std::size_t>(n);
  for (std::size_t row = 0; row < size; ++row) {
    for (std::size_t column = 0; column < row; ++column) {
      a[row * size + column] = a[column * size + row];
    }
  }
  return true;
}

}  // namespace diffulex_edge
