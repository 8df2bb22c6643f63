// The product of dense matrices: the one kernel that floating-point layers, attention, Hessians and their factors are
// computed with. Written once with Google Highway and chosen at run time by what the processor can do.
//
// Each element of a result is summed in a fixed order, whatever the processor, the shape or the tile: by blocks of
// kDepth products, each block a chain of fused multiply-adds from its first product to its last, the blocks added one
// after the other. So the result has the same bits on every processor with fused multiply-adds (AVX2, AVX-512, NEON),
// for any number of threads, and for any way in which a caller cuts the result into tiles.
#pragma once

#include <cstdint>
#include <string_view>

namespace diffulex_edge::kernels {

inline constexpr std::int64_t kDepth = 256;

// Element (i, j) is data[i * stride + j], or with `transposed` data[j * stride + i].
template <typename T>
struct MatrixView {
  const T* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
};

struct ProductShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

// c [m, n] = alpha * a [m, k] * b [k, n] + beta * c, on the calling thread. Rows of c are `c_stride` elements apart. c
// overlaps neither a nor b. With beta = 0, what c held is not read.
void multiply_matrices(const ProductShape& shape, float alpha, const MatrixView<float>& a, const MatrixView<float>& b,
                       float beta, float* c, std::int64_t c_stride);
void multiply_matrices(const ProductShape& shape, double alpha, const MatrixView<double>& a,
                       const MatrixView<double>& b, double beta, double* c, std::int64_t c_stride);

// The instruction set that multiply_matrices uses here, such as "AVX2".
std::string_view matrix_instruction_set();
// Whether it has fused multiply-adds, so that results have the bits that every such processor gives.
bool matrix_products_are_fused();

}  // namespace diffulex_edge::kernels
