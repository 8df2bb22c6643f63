// The packed kernels: the scalar definition against sums in double precision, and every instruction set that this
// machine can run against the definition, bit for bit.
#include "runtime/kernels/packed_kernels.h"

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quant/kernels/kernels.h"
#include "support/processor_features.h"

namespace diffulex_edge::kernels {
namespace {

struct Shape {
  PackedElement element = PackedElement::kI8;
  std::size_t panels = 1;
  std::size_t columns = 32;    // a multiple of step_columns
  std::size_t group_size = 0;  // 0: one scale for each row
};

std::string describe(const Shape& shape, std::size_t tokens) {
  const char* names[] = {"int8", "int4", "fp16"};
  return std::string(names[static_cast<int>(shape.element)]) + " panels " + std::to_string(shape.panels) + " columns " +
         std::to_string(shape.columns) + " group " + std::to_string(shape.group_size) + " tokens " +
         std::to_string(tokens);
}

// A packed weight of random values, and what each element stands for.
class RandomWeight {
 public:
  RandomWeight(const Shape& shape, unsigned seed) : random_(seed) {
    const std::size_t rows = shape.panels * kPanelRows;
    const std::size_t groups = shape.group_size == 0 ? 1 : shape.columns / shape.group_size;
    panels_ = {.element = shape.element,
               .panels = shape.panels,
               .columns = shape.columns,
               .group_columns = shape.columns / groups};
    bytes_ = hwy::AllocateAligned<std::uint8_t>(shape.panels * panels_.panel_bytes());
    panels_.values = bytes_.get();
    q_.resize(rows * shape.columns);
    scales_.resize(rows * groups);
    group_scales_.resize(rows * groups);
    row_sums_.resize(rows);
    row_totals_.resize(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t column = 0; column < shape.columns; ++column) set(row, column);
      set_scales(row, groups);
    }
    if (shape.element != PackedElement::kF16 && shape.group_size == 0) {
      panels_.row_scales = scales_.data();
      panels_.row_sums = row_sums_.data();
    } else if (shape.group_size != 0) {
      panels_.group_scales = group_scales_.data();
      panels_.row_totals = row_totals_.data();
    }
  }

  const PackedPanels& panels() const { return panels_; }
  double integer(std::size_t row, std::size_t column) const { return q_[row * panels_.columns + column]; }
  double scale(std::size_t row, std::size_t column) const {
    if (panels_.element == PackedElement::kF16) return 1.0;
    return scales_[row * panels_.groups() + column / panels_.group_columns];
  }

 private:
  void set(std::size_t row, std::size_t column) {
    const std::size_t width = step_columns(panels_.element);
    std::uint8_t* step =
        bytes_.get() + row / kPanelRows * panels_.panel_bytes() + column / width * step_bytes(panels_.element);
    const std::size_t in_panel = row % kPanelRows;
    float& q = q_[row * panels_.columns + column];
    if (panels_.element == PackedElement::kF16) {
      const std::uint16_t half = scalar::f32_to_f16_one(std::normal_distribution<float>()(random_));
      q = scalar::f16_to_f32_one(half);
      std::memcpy(step + 2 * in_panel, &half, sizeof(half));
    } else if (panels_.element == PackedElement::kI8) {
      const auto byte = static_cast<std::uint8_t>(random_() % 16 == 0 ? random_() % 2 * 255 : random_() % 256);
      q = static_cast<float>(byte) - 128.0F;
      step[4 * in_panel + column % 4] = byte;
    } else {
      const auto nibble = static_cast<std::uint8_t>(random_() % 16);
      q = static_cast<float>(nibble) - 8.0F;
      std::uint8_t& byte = step[4 * in_panel + column % 4];
      byte = column % 8 < 4 ? nibble : static_cast<std::uint8_t>(byte | nibble << 4U);
    }
  }

  void set_scales(std::size_t row, std::size_t groups) {
    double total = 0.0;
    for (std::size_t group = 0; group < groups; ++group) {
      const float wanted = std::ldexp(1.0F + static_cast<float>(random_() % 1000) / 1000.0F, -6);
      const std::uint16_t bits = scalar::f32_to_bf16_one(wanted);
      const float scale = groups == 1 && panels_.element == PackedElement::kI8 ? wanted : scalar::bf16_to_f32_one(bits);
      const std::size_t panel_group = row / kPanelRows * groups + group;
      group_scales_[panel_group * kPanelRows + row % kPanelRows] = bits;
      scales_[row * groups + group] = scale;
      double sum = 0.0;
      for (std::size_t i = 0; i < panels_.group_columns; ++i) sum += integer(row, group * panels_.group_columns + i);
      total += sum * static_cast<double>(scale);
      row_sums_[row] += static_cast<std::int32_t>(sum);
    }
    row_totals_[row] = static_cast<float>(total);
  }

  std::mt19937 random_;
  PackedPanels panels_;
  hwy::AlignedFreeUniquePtr<std::uint8_t[]> bytes_;
  std::vector<float> q_;
  std::vector<float> scales_;
  std::vector<std::uint16_t> group_scales_;
  std::vector<std::int32_t> row_sums_;
  std::vector<float> row_totals_;
};

// Activations in 8 bits with all values from -128 to 127, some rows far from zero.
class RandomTokens {
 public:
  RandomTokens(const PackedPanels& weights, std::size_t tokens, unsigned seed) : columns_(weights.columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    values_.resize(tokens * columns_);
    floats_.resize(values_.size());
    for (std::size_t i = 0; i < values_.size(); ++i) {
      values_[i] = static_cast<std::int8_t>(static_cast<int>(random() % 256) - 128);
      floats_[i] = normal(random);
    }
    for (std::size_t token = 0; token < tokens; ++token) {
      zero_points_.push_back(token == 0 ? -128 : static_cast<int>(random() % 256) - 128);
      scales_.push_back(std::exp(normal(random)));
      if (token == 1) std::fill_n(values_.begin() + static_cast<std::ptrdiff_t>(columns_), columns_, std::int8_t{-128});
      for (std::size_t group = 0; group < weights.groups(); ++group) {
        const std::int8_t* begin = &values_[token * columns_ + group * weights.group_columns];
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < weights.group_columns; ++i) sum += begin[i];
        offsets_.push_back(-8 * sum);
      }
    }
  }

  std::size_t count() const { return scales_.size(); }
  IntegerTokens integers() const {
    return {.tokens = count(),
            .values = values_.data(),
            .offsets = offsets_.data(),
            .zero_points = zero_points_.data(),
            .scales = scales_.data()};
  }
  FloatTokens floats() const { return {.tokens = count(), .values = floats_.data()}; }
  double integer(std::size_t token, std::size_t column) const {
    return (values_[token * columns_ + column] - zero_points_[token]) * static_cast<double>(scales_[token]);
  }
  double real(std::size_t token, std::size_t column) const { return floats_[token * columns_ + column]; }

 private:
  std::size_t columns_;
  std::vector<std::int8_t> values_;
  std::vector<float> floats_;
  std::vector<std::int32_t> offsets_;
  std::vector<std::int32_t> zero_points_;
  std::vector<float> scales_;
};

std::vector<Shape> shapes() {
  std::vector<Shape> shapes;
  for (const std::size_t panels : {1U, 2U, 3U, 5U}) {
    for (const std::size_t columns : {8U, 24U, 40U, 136U, 1000U}) {
      for (const PackedElement element : {PackedElement::kI8, PackedElement::kI4, PackedElement::kF16}) {
        shapes.push_back({.element = element, .panels = panels, .columns = columns});
      }
    }
    shapes.push_back({.element = PackedElement::kI8, .panels = panels, .columns = 4});
    shapes.push_back({.element = PackedElement::kI8, .panels = panels, .columns = 52});
    shapes.push_back({.element = PackedElement::kF16, .panels = panels, .columns = 1});
    shapes.push_back({.element = PackedElement::kF16, .panels = panels, .columns = 33});
    for (const std::size_t group_size : {32U, 64U, 128U, 256U}) {
      for (const std::size_t groups : {1U, 3U, 8U}) {
        shapes.push_back({.element = PackedElement::kI4,
                          .panels = panels,
                          .columns = group_size * groups,
                          .group_size = group_size});
      }
    }
  }
  return shapes;
}

constexpr std::size_t kTokenCounts[] = {1, 2, 3, 4, 5, 8, 9, 13};

// Within a share of the largest result of a token, as float32 rounds sums.
template <typename Input>
void expect_near(const std::vector<float>& out, const RandomWeight& weight, std::size_t tokens, double tolerance,
                 const Input& input) {
  const PackedPanels& panels = weight.panels();
  const std::size_t rows = panels.panels * kPanelRows;
  for (std::size_t token = 0; token < tokens; ++token) {
    double worst = 0.0;
    double largest = 0.0;
    for (std::size_t row = 0; row < rows; ++row) {
      double expected = 0.0;
      for (std::size_t column = 0; column < panels.columns; ++column) {
        expected += input(token, column) * weight.integer(row, column) * weight.scale(row, column);
      }
      worst = std::max(worst, std::fabs(expected - out[token * rows + row]));
      largest = std::max(largest, std::fabs(expected));
    }
    EXPECT_LE(worst, tolerance * largest);
  }
}

TEST(PackedKernels, TheDefinitionIsTheProduct) {
  unsigned seed = 1;
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(describe(shape, 3));
    const RandomWeight weight(shape, ++seed);
    const RandomTokens tokens(weight.panels(), 3, seed);
    const std::size_t rows = shape.panels * kPanelRows;
    std::vector<float> out(tokens.count() * rows);
    if (shape.element != PackedElement::kF16) {
      scalar::multiply_integers(weight.panels(), tokens.integers(), out.data(), rows);
      expect_near(out, weight, tokens.count(), 1e-5,
                  [&](std::size_t token, std::size_t column) { return tokens.integer(token, column); });
    }
    scalar::multiply_floats(weight.panels(), tokens.floats(), out.data(), rows);
    expect_near(out, weight, tokens.count(), 1e-5,
                [&](std::size_t token, std::size_t column) { return tokens.real(token, column); });
  }
}

TEST(PackedKernels, EveryInstructionSetGivesTheBitsOfTheDefinition) {
  unsigned seed = 1000;
  for (const Shape& shape : shapes()) {
    for (const std::size_t count : kTokenCounts) {
      SCOPED_TRACE(describe(shape, count));
      const RandomWeight weight(shape, ++seed);
      const RandomTokens tokens(weight.panels(), count, seed);
      const std::size_t stride = shape.panels * kPanelRows + 5;  // what lies between two tokens stays as it is
      std::vector<float> expected(count * stride, -1.0F);
      std::vector<float> out(expected.size());
      for (const PackedKernels& kernels : supported_packed_kernels()) {
        SCOPED_TRACE(kernels.name);
        const auto bytes_differ = [&] {
          return std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) != 0;
        };
        if (shape.element != PackedElement::kF16) {
          scalar::multiply_integers(weight.panels(), tokens.integers(), expected.data(), stride);
          std::ranges::fill(out, -1.0F);
          kernels.multiply_integers(weight.panels(), tokens.integers(), out.data(), stride);
          ASSERT_FALSE(bytes_differ()) << "integers";
        }
        scalar::multiply_floats(weight.panels(), tokens.floats(), expected.data(), stride);
        std::ranges::fill(out, -1.0F);
        kernels.multiply_floats(weight.panels(), tokens.floats(), out.data(), stride);
        ASSERT_FALSE(bytes_differ()) << "floats";
      }
    }
  }
}

// The largest sums that 32 bits hold: every product has the same sign.
TEST(PackedKernels, TheLongestInt8RowDoesNotOverflow) {
  constexpr std::size_t kColumns = 65792;
  PackedPanels panels = {.panels = 1, .columns = kColumns, .group_columns = kColumns};
  const auto bytes = hwy::AllocateAligned<std::uint8_t>(panels.panel_bytes());
  std::fill_n(bytes.get(), panels.panel_bytes(), std::uint8_t{0});
  const std::vector<float> scales(kPanelRows, 1.0F);
  const std::vector<std::int32_t> sums(kPanelRows, -128 * static_cast<std::int32_t>(kColumns));
  panels.values = bytes.get();
  panels.row_scales = scales.data();
  panels.row_sums = sums.data();
  const std::vector<std::int8_t> values(kColumns, std::int8_t{127});
  const std::int32_t offset = -8 * 127 * static_cast<std::int32_t>(kColumns);
  const std::int32_t zero_point = -128;
  const float one = 1.0F;
  const IntegerTokens tokens = {
      .tokens = 1, .values = values.data(), .offsets = &offset, .zero_points = &zero_point, .scales = &one};
  for (const PackedKernels& kernels : supported_packed_kernels()) {
    SCOPED_TRACE(kernels.name);
    std::vector<float> out(kPanelRows);
    kernels.multiply_integers(panels, tokens, out.data(), kPanelRows);
    EXPECT_EQ(out, std::vector<float>(kPanelRows, -128.0F * 255.0F * static_cast<float>(kColumns)));
  }
}

TEST(PackedKernels, UseWhatTheProcessorCanDo) {
  const std::string best = supported_packed_kernels().front().name;
#if HWY_ARCH_X86_64
  const auto has = [](const char* name) { return testing::processor_has(name); };
  if (has("avx2") && has("fma") && has("f16c")) {
    const bool vnni = has("avx512bw") && has("avx512vl") && has("avx512_vnni");
    EXPECT_EQ(best, vnni ? "AVX-512 VNNI" : "AVX2");
  }
#elif HWY_ARCH_ARM_A64
  EXPECT_EQ(best, testing::processor_has("asimddp") ? "NEON with dot products" : "NEON");
#endif
}

TEST(PackedKernels, TheScalarSetIsTheLast) { EXPECT_STREQ(supported_packed_kernels().back().name, "scalar"); }

}  // namespace
}  // namespace diffulex_edge::kernels
