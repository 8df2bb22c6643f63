// Products of matrices by blocks that fit the caches and tiles that fit the registers.
//
// This file is compiled once for each instruction set (foreach_target) and dispatched at run time.
#include "core/kernels/matrix_kernels.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "core/round_up.h"

// Vectors of unknown length can't be kept in arrays: SVE's processors have NEON as well.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/matrix_kernels.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace diffulex_edge::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A tile of the result that is summed in registers: kTileRows x kTileVectors accumulators, beside which a row of b and
// one value of a have to fit (32 registers in AVX-512 and NEON, 16 elsewhere).
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr std::int64_t kTileRows = 12;
constexpr std::int64_t kTileVectors = 2;
#elif HWY_ARCH_ARM_A64
constexpr std::int64_t kTileRows = 6;
constexpr std::int64_t kTileVectors = 4;
#else
constexpr std::int64_t kTileRows = 6;
constexpr std::int64_t kTileVectors = 2;
#endif

constexpr std::int64_t kBlockRows = 192;     // of a, copied at once: they stay in the second cache
constexpr std::int64_t kBlockColumns = 512;  // of b
// From one copied row of a to the next; a power of two would put all rows in the same places of the cache.
constexpr std::int64_t kRowStride = kDepth + 16;

template <typename T>
constexpr std::int64_t tile_columns() {
  return kTileVectors * static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<T>()));
}

// Memory of the calling thread, kept for its next product.
template <typename T>
T* scratch(std::int64_t elements) {
  static thread_local std::vector<std::byte> memory;
  constexpr std::size_t kAlignment = 64;
  std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T) + kAlignment;
  if (memory.size() < bytes) {
    memory = std::vector<std::byte>(bytes);
  }
  bytes = memory.size();
  void* begin = memory.data();
  return static_cast<T*>(std::align(kAlignment, static_cast<std::size_t>(elements) * sizeof(T), begin, bytes));
}

// Asks for a row that is copied soon: the parts of rows that are copied are too short for the processor to see where
// the next one lies. The row may lie beyond the matrix, since this reads nothing.
template <typename T>
HWY_INLINE void fetch_row(const T* row, std::int64_t columns) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t column = 0; column < columns; column += kLine) {
    hwy::Prefetch(row + column);
  }
}
constexpr std::int64_t kRowsAhead = 8;

template <typename T>
void copy_rows(const T* source, std::int64_t source_stride, std::int64_t rows, std::int64_t columns, T* target,
               std::int64_t target_stride) {
  for (std::int64_t row = 0; row < rows; ++row) {
    std::copy_n(source + row * source_stride, columns, target + row * target_stride);
  }
}

// Four rows of four floats become four columns.
HWY_INLINE void transpose_square(const float* source, std::int64_t source_stride, float* target,
                                 std::int64_t target_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) {
      target[j * target_stride + i] = source[i * source_stride + j];
    }
  }
#else
  const hn::FixedTag<float, 4> d;
  const auto row0 = hn::LoadU(d, source);
  const auto row1 = hn::LoadU(d, source + source_stride);
  const auto row2 = hn::LoadU(d, source + 2 * source_stride);
  const auto row3 = hn::LoadU(d, source + 3 * source_stride);
  const auto even_low = hn::InterleaveLower(d, row0, row2);
  const auto odd_low = hn::InterleaveLower(d, row1, row3);
  const auto even_high = hn::InterleaveUpper(d, row0, row2);
  const auto odd_high = hn::InterleaveUpper(d, row1, row3);
  hn::StoreU(hn::InterleaveLower(d, even_low, odd_low), d, target);
  hn::StoreU(hn::InterleaveUpper(d, even_low, odd_low), d, target + target_stride);
  hn::StoreU(hn::InterleaveLower(d, even_high, odd_high), d, target + 2 * target_stride);
  hn::StoreU(hn::InterleaveUpper(d, even_high, odd_high), d, target + 3 * target_stride);
#endif
}

HWY_INLINE void transpose_square(const double* source, std::int64_t source_stride, double* target,
                                 std::int64_t target_stride) {
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) {
      target[j * target_stride + i] = source[i * source_stride + j];
    }
  }
}

// target[column][row] = source[row][column]
template <typename T>
void copy_transposed(const T* source, std::int64_t source_stride, std::int64_t height, std::int64_t width, T* target,
                     std::int64_t target_stride) {
  const std::int64_t square_rows = height / 4 * 4;
  const std::int64_t square_columns = width / 4 * 4;
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t row = 0; row < square_rows; row += 4) {
    for (std::int64_t column = 0; column < square_columns; column += 4) {
      if (column % kLine == 0) {
        for (std::int64_t next = row + 4; next < row + 8; ++next) {
          fetch_row(source + next * source_stride + column, 1);
        }
      }
      transpose_square(source + row * source_stride + column, source_stride, target + column * target_stride + row,
                       target_stride);
    }
  }
  for (std::int64_t row = 0; row < height; ++row) {
    for (std::int64_t column = row < square_rows ? square_columns : 0; column < width; ++column) {
      target[column * target_stride + row] = source[row * source_stride + column];
    }
  }
}

// target [rows][columns] of the part of `view` that begins at (row, column).
template <typename T>
void copy_part(const MatrixView<T>& view, std::int64_t row, std::int64_t column, std::int64_t rows,
               std::int64_t columns, T* target, std::int64_t target_stride) {
  if (view.transposed) {
    copy_transposed(view.data + column * view.stride + row, view.stride, columns, rows, target, target_stride);
  } else {
    const T* source = view.data + row * view.stride + column;
    for (std::int64_t i = 0; i < rows; ++i, source += view.stride) {
      fetch_row(source + kRowsAhead * view.stride, columns);
      std::copy_n(source, columns, target + i * target_stride);
    }
  }
}

// Strips of tile_columns() columns of b, each [depth][tile_columns()]; columns that b does not have are zeros.
template <typename T>
void copy_strips(const MatrixView<T>& b, std::int64_t row, std::int64_t column, std::int64_t depth,
                 std::int64_t columns, T* target) {
  const std::int64_t width = tile_columns<T>();
  std::int64_t begin = 0;
  // Four strips at once where rows of b lie in a row of memory: a strip by itself would take a line or two of each.
  for (; !b.transposed && begin + 4 * width <= columns; begin += 4 * width, target += 4 * depth * width) {
    const T* source = b.data + row * b.stride + column + begin;
    for (std::int64_t step = 0; step < depth; ++step, source += b.stride) {
      fetch_row(source + kRowsAhead * b.stride, 4 * width);
      for (std::int64_t strip = 0; strip < 4; ++strip) {
        std::copy_n(source + strip * width, width, target + (strip * depth + step) * width);
      }
    }
  }
  for (; begin < columns; begin += width, target += depth * width) {
    const std::int64_t count = std::min(width, columns - begin);
    if (count < width) {
      std::fill_n(target, depth * width, T{});
    }
    copy_part(b, row, column + begin, depth, count, target, width);
  }
}

// How sums become a part of the result: c = alpha * sum + beta * c.
template <typename T>
struct Update {
  T alpha = 0;
  T beta = 0;
};

// The tile [kRows, tile_columns()] of c, with `depth` products for each element.
template <std::int64_t kRows, typename T>
HWY_INLINE void add_tile(std::int64_t depth, const T* HWY_RESTRICT a, const T* HWY_RESTRICT strip,
                         const Update<T>& update, T* HWY_RESTRICT c, std::int64_t c_stride) {
  const hn::ScalableTag<T> d;
  using Vector = hn::Vec<hn::ScalableTag<T>>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums[kRows][kTileVectors];
#pragma GCC unroll 16
  for (std::int64_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (std::int64_t vector = 0; vector < kTileVectors; ++vector) {
      sums[row][vector] = hn::Zero(d);
    }
  }
  for (std::int64_t step = 0; step < depth; ++step, strip += kTileVectors * lanes) {
    Vector values[kTileVectors];
#pragma GCC unroll 4
    for (std::int64_t vector = 0; vector < kTileVectors; ++vector) {
      values[vector] = hn::Load(d, strip + vector * lanes);
    }
#pragma GCC unroll 16
    for (std::int64_t row = 0; row < kRows; ++row) {
      const Vector factor = hn::Set(d, a[row * kRowStride + step]);
#pragma GCC unroll 4
      for (std::int64_t vector = 0; vector < kTileVectors; ++vector) {
        sums[row][vector] = hn::MulAdd(factor, values[vector], sums[row][vector]);
      }
    }
  }
  const Vector alpha = hn::Set(d, update.alpha);
  const Vector beta = hn::Set(d, update.beta);
#pragma GCC unroll 16
  for (std::int64_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (std::int64_t vector = 0; vector < kTileVectors; ++vector) {
      T* target = c + row * c_stride + vector * lanes;
      if (update.beta == T{0}) {
        hn::StoreU(hn::Mul(alpha, sums[row][vector]), d, target);
      } else {
        hn::StoreU(hn::MulAdd(alpha, sums[row][vector], hn::Mul(beta, hn::LoadU(d, target))), d, target);
      }
    }
  }
}

// As add_tile for the first `columns` columns of the tile.
template <std::int64_t kRows, typename T>
void add_narrow_tile(std::int64_t depth, const T* a, const T* strip, const Update<T>& update, T* c,
                     std::int64_t c_stride, std::int64_t columns) {
  constexpr std::int64_t kMostColumns = kTileVectors * HWY_MAX_BYTES / static_cast<std::int64_t>(sizeof(T));
  T whole[static_cast<std::size_t>(kRows * kMostColumns)] = {};
  if (update.beta != T{0}) {
    copy_rows(c, c_stride, kRows, columns, whole, kMostColumns);
  }
  add_tile<kRows>(depth, a, strip, update, whole, kMostColumns);
  copy_rows(whole, kMostColumns, kRows, columns, c, c_stride);
}

// `rows` rows of the copied part of a times one strip.
template <std::int64_t kRows, typename T>
void add_column_of_tiles(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, const T* strip,
                         const Update<T>& update, T* c, std::int64_t c_stride) {
  const bool narrow = columns < tile_columns<T>();
  std::int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    if (narrow) {
      add_narrow_tile<kRows>(depth, a + row * kRowStride, strip, update, c + row * c_stride, c_stride, columns);
    } else {
      add_tile<kRows>(depth, a + row * kRowStride, strip, update, c + row * c_stride, c_stride);
    }
  }
  if constexpr (kRows > 1) {
    if (row < rows) {
      constexpr std::int64_t kFewer = kRows > 4 ? 4 : kRows / 2;
      add_column_of_tiles<kFewer>(rows - row, columns, depth, a + row * kRowStride, strip, update, c + row * c_stride,
                                  c_stride);
    }
  }
}

template <typename T>
void multiply_blocks(const ProductShape& shape, T alpha, const MatrixView<T>& a, const MatrixView<T>& b, T beta, T* c,
                     std::int64_t c_stride) {
  const std::int64_t width = tile_columns<T>();
  const std::int64_t most_columns = std::min(kBlockColumns, round_up(shape.n, width));
  T* const copied_b = scratch<T>(std::min(kDepth, shape.k) * most_columns + std::min(kBlockRows, shape.m) * kRowStride);
  T* const copied_a = copied_b + std::min(kDepth, shape.k) * most_columns;
  for (std::int64_t column = 0; column < shape.n; column += kBlockColumns) {
    const std::int64_t columns = std::min(kBlockColumns, shape.n - column);
    for (std::int64_t begin = 0; begin < shape.k; begin += kDepth) {
      const std::int64_t depth = std::min(kDepth, shape.k - begin);
      const Update<T> update = {.alpha = alpha, .beta = begin == 0 ? beta : T{1}};
      copy_strips(b, begin, column, depth, columns, copied_b);
      for (std::int64_t row = 0; row < shape.m; row += kBlockRows) {
        const std::int64_t rows = std::min(kBlockRows, shape.m - row);
        copy_part(a, row, begin, rows, depth, copied_a, kRowStride);
        for (std::int64_t strip = 0; strip < columns; strip += width) {
          add_column_of_tiles<kTileRows>(rows, std::min(width, columns - strip), depth, copied_a,
                                         copied_b + strip * depth, update, c + row * c_stride + column + strip,
                                         c_stride);
        }
      }
    }
  }
}

void MultiplyFloats(const ProductShape& shape, float alpha, const MatrixView<float>& a, const MatrixView<float>& b,
                    float beta, float* c, std::int64_t c_stride) {
  multiply_blocks(shape, alpha, a, b, beta, c, c_stride);
}

void MultiplyDoubles(const ProductShape& shape, double alpha, const MatrixView<double>& a, const MatrixView<double>& b,
                     double beta, double* c, std::int64_t c_stride) {
  multiply_blocks(shape, alpha, a, b, beta, c, c_stride);
}

const char* MatrixInstructionSet() { return hwy::TargetName(HWY_TARGET); }

bool MatrixProductsAreFused() { return HWY_NATIVE_FMA != 0; }

}  // namespace
}  // namespace diffulex_edge::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace diffulex_edge::kernels {
namespace {

HWY_EXPORT(MultiplyFloats);
HWY_EXPORT(MultiplyDoubles);
HWY_EXPORT(MatrixInstructionSet);
HWY_EXPORT(MatrixProductsAreFused);

// True where nothing is to be summed: c is then only scaled.
template <typename T>
bool only_scales(const ProductShape& shape, T beta, T* c, std::int64_t c_stride) {
  if (shape.m > 0 && shape.n > 0 && shape.k > 0) {
    return false;
  }
  for (std::int64_t row = 0; row < shape.m; ++row) {
    for (std::int64_t column = 0; column < shape.n; ++column) {
      T& value = c[row * c_stride + column];
      value = beta == T{0} ? T{0} : beta * value;
    }
  }
  return true;
}

}  // namespace

void multiply_matrices(const ProductShape& shape, float alpha, const MatrixView<float>& a, const MatrixView<float>& b,
                       float beta, float* c, std::int64_t c_stride) {
  if (!only_scales(shape, beta, c, c_stride)) {
    HWY_DYNAMIC_DISPATCH(MultiplyFloats)(shape, alpha, a, b, beta, c, c_stride);
  }
}

void multiply_matrices(const ProductShape& shape, double alpha, const MatrixView<double>& a,
                       const MatrixView<double>& b, double beta, double* c, std::int64_t c_stride) {
  if (!only_scales(shape, beta, c, c_stride)) {
    HWY_DYNAMIC_DISPATCH(MultiplyDoubles)(shape, alpha, a, b, beta, c, c_stride);
  }
}

std::string_view matrix_instruction_set() { return HWY_DYNAMIC_DISPATCH(MatrixInstructionSet)(); }

bool matrix_products_are_fused() { return HWY_DYNAMIC_DISPATCH(MatrixProductsAreFused)(); }

}  // namespace diffulex_edge::kernels
#endif  // HWY_ONCE
