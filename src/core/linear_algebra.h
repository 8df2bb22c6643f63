// Dense linear algebra: products in float32, factorizations in double precision. Matrices are row-major.
//
// Each call but multiply_tiled runs on the calling thread: callers tile their work and run the tiles with parallel_for,
// so that results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "diffulex_edge/progress.h"

namespace diffulex_edge {

// c [m, n] = alpha * a [m, k] * b [n, k]^T + beta * c. `lda`, `ldb`, `ldc` are elements from one row to the next.
// With beta = 0, c may hold anything.
struct Gemm {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  float alpha = 1.0F;
  float beta = 0.0F;
};
void multiply_transposed(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                         std::int64_t ldc);
// c [m, n] = alpha * a [m, k] * b [k, n] + beta * c.
void multiply(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
              std::int64_t ldc);
// c [m, n] = alpha * a [k, m]^T * b [k, n] + beta * c: sums outer products of rows, such as a Hessian's X^T X.
void multiply_transposed_first(const Gemm& gemm, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                               float* c, std::int64_t ldc);

enum class Product { kPlain, kTransposed, kTransposedFirst };  // as multiply, multiply_transposed, ..._first
// c [m, n] = a [m, k] * b [k, n], with a or b transposed as `product` says, all of them dense; on all threads.
void multiply_tiled(Product product, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c, const RunControl& control);

// The following take a symmetric matrix a [n, n] in place (double precision: Hessians are ill-conditioned) and return
// false, leaving `a` undefined, where it is not positive definite.
// a becomes the upper triangle U of its Cholesky factorization a = U^T U; what is below the diagonal becomes 0.
bool cholesky_upper(std::span<double> a, std::int64_t n);
// The inverse of an upper triangle, in place; false where its diagonal has a zero. What is below it is not read.
bool invert_upper(std::span<double> a, std::int64_t n);
// a becomes its inverse.
bool invert_positive_definite(std::span<double> a, std::int64_t n);

}  // namespace diffulex_edge
