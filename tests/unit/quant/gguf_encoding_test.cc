#include "quant/gguf_encoding.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/small_floats.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr std::uint32_t kQ4 = 2;
constexpr std::uint32_t kQ8 = 8;

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

std::vector<float> decoded(const GgufBlockType& type, const std::vector<std::byte>& blocks) {
  std::vector<float> values(blocks.size() / static_cast<std::size_t>(type.bytes) * 32);
  for (std::size_t i = 0; i * 32 < values.size(); ++i) {
    type.decode(blocks.data() + i * static_cast<std::size_t>(type.bytes), values.data() + i * 32);
  }
  return values;
}

TEST(GgufEncoding, PacksIntegersOf4BitsWithTheirGroupsScale) {
  const LayerPlan layer{.layer = "l", .tensor = "t", .rows = 1, .columns = 128, .dtype = QuantizationDtype::INT4};
  const GgufEncoding encoding{
      .type = find_gguf_type(kQ4),
      .encoded = {.element = ElementType::kI4,
                  .granularity = Granularity::kGroup,
                  .group_size = 64,
                  .scale_type = ElementType::kBF16},
  };
  std::vector<std::byte> values;
  for (unsigned i = 0; i < 64; ++i) {
    values.push_back(static_cast<std::byte>((2 * i % 16) | ((2 * i + 1) % 16) << 4U));
  }
  const std::vector<std::uint16_t> scales = {0x3F00, 0x4000};  // 0.5 and 2
  const std::vector<float> found =
      decoded(*encoding.type, pack_gguf_rows(layer, encoding, 1, values, bytes_of(scales)));
  for (std::size_t i = 0; i < 128; ++i) {
    EXPECT_EQ(found[i], (static_cast<float>(i % 16) - 8.0F) * (i < 64 ? 0.5F : 2.0F)) << i;
  }
}

TEST(GgufEncoding, RepeatsARowsScale) {
  const LayerPlan layer{.layer = "l", .tensor = "t", .rows = 2, .columns = 64, .dtype = QuantizationDtype::INT8};
  const GgufEncoding encoding{.type = find_gguf_type(kQ8),
                              .encoded = {.element = ElementType::kI8, .granularity = Granularity::kChannel}};
  std::vector<std::int8_t> values;
  for (int i = 0; i < 128; ++i) {
    values.push_back(static_cast<std::int8_t>(i - 64));
  }
  const std::vector<float> scales = {0.1F, 0x1p-26F};  // the second is between FP16's least numbers, 0 and 2^-24
  const std::vector<float> found =
      decoded(*encoding.type, pack_gguf_rows(layer, encoding, 2, bytes_of(values), bytes_of(scales)));
  for (std::size_t i = 0; i < 128; ++i) {
    EXPECT_EQ(found[i], i < 64 ? (static_cast<float>(i) - 64.0F) * float_from_f16(0x2E66) : 0.0F) << i;
  }
  testing::expect_error(ErrorCode::kUnsupported, {"t", "65536", "FP16 does not hold"},
                        [&] { gguf_scales(layer, ElementType::kF32, bytes_of(std::vector<float>{1.0F, 65536.0F})); });
}

TEST(GgufEncoding, RefusesWhatHasNoBlocks) {
  const StoredWeight source{.values = nullptr};
  const TensorView view{.name = "t"};
  StoredWeight stored = source;
  stored.values = &view;
  LayerPlan layer{.layer = "l", .tensor = "t", .rows = 1, .columns = 80, .dtype = QuantizationDtype::INT8};
  testing::expect_error(ErrorCode::kUnsupported, {"l", "rows of 80 weights", "use FP16"},
                        [&] { gguf_encoding(layer, stored); });
  layer.dtype = QuantizationDtype::PALETTE6;
  testing::expect_error(ErrorCode::kUnsupported, {"l", "no block type for PALETTE6"},
                        [&] { gguf_encoding(layer, stored); });
  layer.role = LayerRole::kNorm;
  EXPECT_EQ(gguf_encoding(layer, stored).type->name, "F32");
}

}  // namespace
}  // namespace diffulex_edge
