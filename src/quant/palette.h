// Palettes: a table of 2^bits values, and for each weight the index of the nearest one. A weight passes twice, in
// tiles: through a histogram, which the table is fitted to, and through assign_palette. Memory does not grow with the
// weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// 2 to 256 values, a power of two, ascending; where there are fewer, the last one is repeated.
using Palette = std::vector<float>;

// Weights by the upper 16 bits of their float32: how many fell into each bin, and their sum. All sums are exact
// integers, so that the result depends neither on the order of rows nor on which thread's histogram they went through.
// Memory: 1.5 MiB, and 4 bytes a column with importance.
class PaletteHistogram {
 public:
  // `importance` is empty or has a finite factor >= 0 for each column's squared errors, else kInvalidArgument. It
  // counts in steps of 2^-31 of the largest factor. Where all factors are 0, all columns are alike.
  explicit PaletteHistogram(std::span<const float> importance = {});

  // Whole rows of finite weights (stream_weights has checked them). At most 2^32 - 1 weights in all (kUnsupported).
  void add(std::span<const float> rows);

  // Adds what another histogram with the same importance has seen, as the threads of a stream each fill their own.
  void merge(const PaletteHistogram& other);

  // The table of 2^bits values (1 to 8 bits) with the least sum of importance * (w - value of w's bin)^2: the optimum
  // for weights that bfloat16 holds; of others, those that share their upper 16 bits share a value. Each value is the
  // mean of its weights, rounded to `type`: kF32, or kF16, where a mean beyond 65504 is an error (kInvalidArgument). No
  // weights give zeros. Memory: at most 4 MiB, and 128 KiB for each value of the table.
  Palette fit(int bits, ElementType type) const;

 private:
  // Weights with the same sign, exponent and upper 7 bits of the mantissa.
  struct Bin {
    std::uint64_t weight = 0;  // sum of the factors
    std::uint64_t low = 0;     // sum of factor * lower 16 bits, less
    std::uint64_t high = 0;    // 2^64 times this

    void add(const Bin& other);
    double mean(std::uint32_t upper_bits) const;
  };
  void count(std::uint64_t weights);

  std::vector<std::uint32_t> factors_;  // of the columns; empty: all are 1
  std::vector<Bin> bins_;
  std::uint64_t count_ = 0;
};

// The index of the value nearest to each finite weight, the lower one of two equally near. Indices follow one another
// from a byte's low bits to its high ones; bits behind the last are 0. Writes (values.size() * bits + 7) / 8 bytes.
void assign_palette(std::span<const float> values, const Palette& palette, std::span<std::byte> indices);

// The values that `target.size()` indices stand for, the inverse of assign_palette.
void look_up_palette(std::span<const std::byte> indices, const Palette& palette, std::span<float> target);

}  // namespace diffulex_edge
