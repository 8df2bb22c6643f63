// Weights in other programs' layouts, as everything sees them that reads rows.
#include "checkpoint/row_decoder.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <memory>

#include "checkpoint/distinct_tensors.h"
#include "checkpoint/stored_weight.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kColumns = 3;

// Each byte times the first byte of the second part.
class ScaledBytes final : public RowDecoder {
 public:
  ScaledBytes(std::string name, const TensorView& values, const TensorView& scale)
      : RowDecoder(std::move(name), {kRows, kColumns}, "bytes",
                   std::vector<Part>{{.view = values, .layout = RowLayout::kConsecutive},
                                     {.view = scale, .layout = RowLayout::kTable}}) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const auto scale = std::to_integer<int>(part(1).bytes[0]);
    for (std::int64_t i = 0; i < count * kColumns; ++i) {
      const auto byte = std::to_integer<int>(part(0).bytes[static_cast<std::size_t>(row_begin * kColumns + i)]);
      target[static_cast<std::size_t>(i)] =
          byte == 255 ? std::numeric_limits<float>::infinity() : static_cast<float>(byte * scale);
    }
  }
};

class RowDecoderTest : public ::testing::Test {
 protected:
  RowDecoderTest() {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      values_[i] = static_cast<std::byte>(i);
    }
    checkpoint_ = std::make_unique<Checkpoint>(
        std::vector<TensorView>{view("a.packed", values_, {kRows * kColumns}), view("a.scale", two_, {1}),
                                view("b.packed", values_, {kRows * kColumns}), view("b.scale", two_, {1}),
                                view("c.packed", values_, {kRows * kColumns}), view("c.scale", three_, {1})});
    for (const std::string name : {"a", "b", "c"}) {
      const std::vector<std::string> parts = {name + ".packed", name + ".scale"};
      checkpoint_->replace(parts, std::make_unique<const ScaledBytes>(name + ".weight", checkpoint_->at(parts[0]),
                                                                      checkpoint_->at(parts[1])));
    }
  }
  static TensorView view(std::string name, std::span<const std::byte> bytes, std::vector<std::int64_t> shape) {
    return {.name = std::move(name), .dtype = DType::kU8, .shape = std::move(shape), .bytes = bytes};
  }

  std::array<std::byte, kRows * kColumns> values_{};
  std::array<std::byte, 1> two_ = {std::byte{2}};
  std::array<std::byte, 1> three_ = {std::byte{3}};
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(RowDecoderTest, TakesThePlaceOfItsTensors) {
  EXPECT_EQ(checkpoint_->tensors().size(), 3U);
  EXPECT_EQ(checkpoint_->find("a.packed"), nullptr);
  const StoredWeight weight = find_stored_weight(*checkpoint_, "a.weight");
  EXPECT_EQ(weight.rows, kRows);
  EXPECT_EQ(weight.columns, kColumns);
  EXPECT_EQ(weight.format, float_format(ElementType::kF32));
  EXPECT_EQ(weight.source_bytes(), kRows * kColumns + 1);
  EXPECT_EQ(weight.values->elements(), kRows * kColumns);
  testing::expect_error(ErrorCode::kBadFile, {"a.weight", "both"}, [&] {
    checkpoint_->replace(
        {}, std::make_unique<const ScaledBytes>("a.weight", view("p", values_, {15}), view("s", two_, {1})));
  });
}

TEST_F(RowDecoderTest, IsReadAndEncodedByRows) {
  const StoredWeight weight = find_stored_weight(*checkpoint_, "c.weight");
  std::vector<float> loaded(2 * kColumns);
  load_rows(weight, 2, 2, loaded);
  EXPECT_EQ(loaded, (std::vector<float>{18, 21, 24, 27, 30, 33}));
  std::vector<float> encoded(3 * kColumns);
  EncodeScratch scratch;
  encode_rows(weight, float_format(ElementType::kF32), {}, 1, 3, scratch, std::as_writable_bytes(std::span(encoded)),
              {});
  EXPECT_EQ(encoded, (std::vector<float>{9, 12, 15, 18, 21, 24, 27, 30, 33}));
  EXPECT_EQ(load_tensor(*checkpoint_, "a.weight")[14], 28.0F);
}

TEST_F(RowDecoderTest, NamesTheElementThatIsNotFinite) {
  values_[7] = std::byte{255};
  const StoredWeight weight = find_stored_weight(*checkpoint_, "a.weight");
  std::vector<float> rows(kRows * kColumns);
  testing::expect_error(ErrorCode::kBadFile, {"a.weight", "element [2, 1]", "not finite"},
                        [&] { load_rows(weight, 0, kRows, rows); });
  EncodeScratch scratch;
  testing::expect_error(ErrorCode::kBadFile, {"a.weight", "element [2, 1]", "not finite"}, [&] {
    encode_rows(weight, float_format(ElementType::kF32), {}, 0, kRows, scratch, std::as_writable_bytes(std::span(rows)),
                {});
  });
}

TEST_F(RowDecoderTest, IsAnotherWeightWithOtherScales) {
  DistinctTensors distinct(*checkpoint_);
  EXPECT_EQ(distinct.content_of("a.weight"), "a.weight");
  EXPECT_EQ(distinct.content_of("b.weight"), "a.weight");
  EXPECT_EQ(distinct.content_of("c.weight"), "c.weight");
}

TEST_F(RowDecoderTest, RefusesBytesThatAreNoRows) {
  testing::expect_error(ErrorCode::kBadFile, {"tensor 'p'", "5 rows"}, [&] {
    const ScaledBytes broken("w", view("p", std::span(values_).first(14), {14}), view("s", two_, {1}));
  });
}

}  // namespace
}  // namespace diffulex_edge
