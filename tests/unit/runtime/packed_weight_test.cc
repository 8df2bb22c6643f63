#include "runtime/packed_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/packed_multiply.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

const std::vector<WeightFormat>& formats() {
  static const std::vector<WeightFormat> formats = {
      float_format(ElementType::kF32),
      float_format(ElementType::kF16),
      int8_per_channel(),
      int4_per_channel(),
      int4_groups(32, ElementType::kBF16),
      int4_groups(64, ElementType::kBF16),
      int4_groups(128, ElementType::kBF16),
      int4_groups(256, ElementType::kBF16),
  };
  return formats;
}

std::vector<float> normal(std::size_t size, unsigned seed, float mean) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(mean, 1.0F);
  std::vector<float> values(size);
  for (float& value : values) {
    value = distribution(generator);
  }
  return values;
}

// A random weight: encoded, packed tile by tile, and what it stands for.
struct Packed {
  Packed(std::int64_t rows, std::int64_t columns, const WeightFormat& format) : weight(rows, columns, format) {
    const std::vector<float> values = normal(static_cast<std::size_t>(rows * columns), 7, 0.1F);
    const testing::TemporaryFolder folder;
    testing::write_file(
        folder / "m.safetensors",
        testing::safetensors_file(
            {{.name = "w", .dtype = DType::kF32, .shape = {rows, columns}, .bytes = testing::bytes_of(values)}}));
    const Checkpoint checkpoint(folder / "m.safetensors");
    const StoredWeight source = find_stored_weight(checkpoint, "w");
    decoded.resize(values.size());
    constexpr std::int64_t kTileRows = 7;  // tiles begin inside of panels
    EncodeScratch scratch;
    for (std::int64_t row = 0; row < rows; row += kTileRows) {
      const std::int64_t count = std::min(kTileRows, rows - row);
      std::vector<std::byte> bytes(static_cast<std::size_t>(count * format.row_bytes(columns)));
      std::vector<std::byte> scales(
          static_cast<std::size_t>(count * format.scales_per_row(columns) * format.scale_bytes()));
      encode_rows(source, format, {}, row, count, scratch, bytes, scales);
      decode_rows(format, bytes, scales, count, columns,
                  std::span(decoded).subspan(static_cast<std::size_t>(row * columns)));
      weight.store({.row_begin = row, .rows = count, .values = bytes, .scales = scales});
    }
  }

  PackedWeight weight;
  std::vector<float> decoded;
};

std::vector<float> multiply(const PackedWeight& weight, const std::vector<float>& x, std::int64_t tokens,
                            InputArithmetic arithmetic, const LayerPlan* plan, int threads) {
  const RunControl control{.threads = threads, .stop = {}, .on_progress = {}};
  const OutputArithmetic output(InputArithmetic::kFloat, nullptr, {});
  std::vector<float> y(static_cast<std::size_t>(tokens * weight.rows()), -1.0F);
  if (weight.is_float32()) {
    multiply_float32(weight, x, y, tokens, output, control);
  } else {
    multiply_packed(weight, PackedInput(weight, x, tokens, arithmetic, plan, control), y, tokens, output, control);
  }
  return y;
}

struct Shape {
  std::int64_t rows;
  std::int64_t columns;
};
constexpr Shape kShapes[] = {{1, 1}, {5, 3}, {16, 4}, {17, 33}, {63, 50}, {70, 256}, {130, 768}};

bool fits(const WeightFormat& format, const Shape& shape) {
  return format.granularity != Granularity::kGroup || shape.columns % format.group_size == 0;
}

TEST(PackedWeight, GivesBackWhatWasStored) {
  for (const WeightFormat& format : formats()) {
    for (const Shape& shape : kShapes) {
      if (!fits(format, shape)) {
        continue;
      }
      SCOPED_TRACE(to_string(format) + " columns " + std::to_string(shape.columns));
      const Packed packed(shape.rows, shape.columns, format);
      std::vector<float> row(static_cast<std::size_t>(shape.columns));
      for (std::int64_t i = 0; i < shape.rows; ++i) {
        packed.weight.decode_row(i, row);
        EXPECT_TRUE(std::ranges::equal(
            row, std::span(packed.decoded).subspan(static_cast<std::size_t>(i) * row.size(), row.size())));
      }
    }
  }
}

// What an integer layer multiplies: x rounded as the simulation rounds it.
std::vector<double> rounded(const std::vector<float>& x, std::int64_t tokens, InputArithmetic arithmetic,
                            const LayerPlan& plan) {
  const std::size_t width = x.size() / static_cast<std::size_t>(tokens);
  std::vector<double> values(x.begin(), x.end());
  std::vector<float> q(width);
  for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
    const float* row = x.data() + token * width;
    float scale = 0.0F;
    if (arithmetic == InputArithmetic::kDynamicInt8) {
      scale = kernels::quantize_row_dynamic(row, q.data(), width);
    } else if (arithmetic == InputArithmetic::kStaticInt8) {
      const AffineScale affine = affine_scale(plan.activations.value_or(LayerActivations()).input, 8);
      kernels::quantize_row_static(row, q.data(), width, affine.scale, affine.zero_point);
      scale = affine.scale;
    } else {
      continue;
    }
    for (std::size_t i = 0; i < width; ++i) {
      values[token * width + i] = static_cast<double>(q[i]) * static_cast<double>(scale);
    }
  }
  return values;
}

TEST(PackedWeight, MultipliesAsTheSimulationDoes) {
  LayerPlan plan;
  plan.activations = LayerActivations{.input = {.min = -1.0F, .max = 6.0F}, .output = {}};
  for (const WeightFormat& format : formats()) {
    for (const Shape& shape : kShapes) {
      if (!fits(format, shape)) {
        continue;
      }
      const Packed packed(shape.rows, shape.columns, format);
      for (const InputArithmetic arithmetic :
           {InputArithmetic::kFloat, InputArithmetic::kDynamicInt8, InputArithmetic::kStaticInt8}) {
        if (!format.is_quantized() && arithmetic != InputArithmetic::kFloat) {
          continue;
        }
        for (const std::int64_t tokens : {1, 3, 8, 300}) {
          SCOPED_TRACE(to_string(format) + " " + std::to_string(shape.rows) + " x " + std::to_string(shape.columns) +
                       ", tokens " + std::to_string(tokens));
          const std::vector<float> x = normal(static_cast<std::size_t>(tokens * shape.columns), 9, 2.0F);
          const std::vector<float> y = multiply(packed.weight, x, tokens, arithmetic, &plan, 1);
          EXPECT_EQ(y, multiply(packed.weight, x, tokens, arithmetic, &plan, 3));
          const std::vector<double> input = rounded(x, tokens, arithmetic, plan);
          double worst = 0.0;
          double largest = 0.0;
          for (std::int64_t token = 0; token < tokens; ++token) {
            for (std::int64_t row = 0; row < shape.rows; ++row) {
              double expected = 0.0;
              for (std::int64_t i = 0; i < shape.columns; ++i) {
                expected += input[static_cast<std::size_t>(token * shape.columns + i)] *
                            static_cast<double>(packed.decoded[static_cast<std::size_t>(row * shape.columns + i)]);
              }
              const double actual = y[static_cast<std::size_t>(token * shape.rows + row)];
              worst = std::max(worst, std::fabs(actual - expected));
              largest = std::max(largest, std::fabs(expected));
            }
          }
          EXPECT_LE(worst, 1e-5 * largest);
        }
      }
    }
  }
}

TEST(PackedWeight, TakesAboutThePlannedBytes) {
  for (const WeightFormat& format : formats()) {
    const PackedWeight weight(1024, 3072, format);
    const std::int64_t planned = 1024 * (format.row_bytes(3072) + format.scales_per_row(3072) * format.scale_bytes());
    EXPECT_GE(weight.bytes(), planned);
    EXPECT_LE(weight.bytes(), planned + 4 * 1024) << to_string(format);
  }
}

TEST(PackedWeight, RefusesInt8RowsThatSumsOf32BitsCannotHold) {
  EXPECT_NO_THROW(PackedWeight(1, 65793, int8_per_channel()));
  testing::expect_error(ErrorCode::kUnsupported, {"65794", "65793"},
                        [] { const PackedWeight weight(1, 65794, int8_per_channel()); });
}

}  // namespace
}  // namespace diffulex_edge
