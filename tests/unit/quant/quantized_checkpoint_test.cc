#include <gtest/gtest.h>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/quantization.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class QuantizedCheckpoint : public ::testing::Test {
 protected:
  Model quantize(const QuantizationConfig& config, bool tied = false) {
    testing::write_sdar(folder_ / "model", tied);
    testing::write_file(folder_ / "model/tokenizer.json", "{}");
    const Model model = load_model(folder_ / "model");
    write_quantized_checkpoint(model, quantize_model(model, config).plan, folder_ / "q");
    return load_model(folder_ / "q");
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()));
  }
  testing::TemporaryFolder folder_;
};

TEST_F(QuantizedCheckpoint, ComesBackInItsFormats) {
  const Model model = quantize({.dtype = QuantizationDtype::INT4,
                                .mode = QuantizationMode::DYNAMIC,
                                .embedding_dtype = QuantizationDtype::INT8});
  EXPECT_EQ(find_stored_weight(*model.checkpoint, "model.layers.0.self_attn.q_proj.weight").format,
            int4_groups(32, ElementType::kBF16));
  EXPECT_EQ(find_stored_weight(*model.checkpoint, "model.embed_tokens.weight").format, int8_per_channel());
  EXPECT_EQ(find_stored_weight(*model.checkpoint, "lm_head.weight").format, float_format(ElementType::kF32));
  const QuantizationConfig config = default_quantization_config(model);
  EXPECT_EQ(config.dtype, QuantizationDtype::INT4);
  EXPECT_EQ(config.mode, QuantizationMode::DYNAMIC);
  EXPECT_EQ(config.embedding_dtype, QuantizationDtype::INT8);
  EXPECT_NO_THROW(quantize_model(model, config));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "q/tokenizer.json"));
}

TEST_F(QuantizedCheckpoint, CannotChangeItsFormat) {
  const Model model = quantize({.dtype = QuantizationDtype::INT8});
  testing::expect_error(ErrorCode::kInvalidArgument, {"stores it as i8", "unquantized checkpoint"},
                        [&] { quantize_model(model, {.dtype = QuantizationDtype::INT4}); });
}

TEST_F(QuantizedCheckpoint, NeedsANewFolderAndLeavesNothingBehind) {
  quantize({.dtype = QuantizationDtype::INT8});
  testing::expect_error(ErrorCode::kIo, {"not an empty folder"}, [&] { quantize({.dtype = QuantizationDtype::INT8}); });
  std::filesystem::remove_all(folder_ / "q");
  testing::expect_error(ErrorCode::kInvalidArgument, {"embed_tokens.weight", "shared by"}, [&] {
    quantize({.dtype = QuantizationDtype::INT8, .head_dtype = QuantizationDtype::INT8}, true);
  });
  EXPECT_EQ(entries(), 1U);
}

}  // namespace
}  // namespace diffulex_edge
