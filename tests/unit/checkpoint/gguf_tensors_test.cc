#include "checkpoint/gguf_tensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/expect_error.h"
#include "support/gguf_bytes.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::gguf_file;
using testing::gguf_key;
using testing::gguf_text;
using testing::GgufEntry;
using testing::raw;

constexpr std::uint32_t kF32 = 0;
constexpr std::uint32_t kQ8 = 8;

class GgufTensorsTest : public ::testing::Test {
 protected:
  Checkpoint open(const std::vector<GgufEntry>& tensors, const std::string& data,
                  const std::vector<std::string>& keys = {}) {
    testing::write_file(folder_ / "m.gguf", gguf_file(keys, tensors, data));
    return Checkpoint(folder_ / "m.gguf");
  }
  testing::TemporaryFolder folder_;
};

TEST_F(GgufTensorsTest, DecodesRowsOfBlocks) {
  std::string data;
  for (int row = 0; row < 3; ++row) {
    data += raw<std::uint16_t>(0x3800);  // 0.5
    for (int i = 0; i < 32; ++i) {
      data += raw(static_cast<std::int8_t>(row * 32 + i - 40));
    }
  }
  const Checkpoint checkpoint = open({{.name = "token_embd.weight", .sizes = {32, 3}, .type = kQ8, .offset = 0}}, data);
  const TensorView& view = checkpoint.at("model.embed_tokens.weight");
  ASSERT_NE(view.decoder, nullptr);
  EXPECT_EQ(view.shape, (std::vector<std::int64_t>{3, 32}));
  EXPECT_EQ(checkpoint.total_bytes(), 3 * 34);
  std::vector<float> rows(64);
  view.decoder->decode(1, 2, rows);
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(rows[static_cast<std::size_t>(i)], 0.5F * static_cast<float>(32 + i - 40));
  }
}

TEST_F(GgufTensorsTest, PutsRowsOfHeadsInOrder) {
  std::string data;
  for (const float value : {0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F}) {
    data += raw(value);
  }
  const std::vector<std::string> keys = {gguf_key("general.architecture", 8, gguf_text("llama")),
                                         gguf_key("llama.attention.head_count", 4, raw<std::uint32_t>(2))};
  const Checkpoint checkpoint =
      open({{.name = "blk.0.attn_q.weight", .sizes = {1, 8}, .type = kF32, .offset = 0}}, data, keys);
  std::vector<float> rows(8);
  checkpoint.at("model.layers.0.self_attn.q_proj.weight").decoder->decode(0, 8, rows);
  EXPECT_EQ(rows, (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
}

TEST_F(GgufTensorsTest, SplitsExpertsAndChecksHowManyThereAre) {
  std::string data;
  for (int i = 0; i < 12; ++i) {
    data += raw(static_cast<float>(i));
  }
  const auto open_with = [&](std::uint32_t experts) {
    return open({{.name = "blk.1.ffn_up_exps.weight", .sizes = {2, 3, 2}, .type = kF32, .offset = 0}}, data,
                {gguf_key("general.architecture", 8, gguf_text("qwen3moe")),
                 gguf_key("qwen3moe.expert_count", 4, raw(experts))});
  };
  const Checkpoint checkpoint = open_with(2);
  const TensorView& view = checkpoint.at("model.layers.1.mlp.experts.1.up_proj.weight");
  EXPECT_EQ(view.shape, (std::vector<std::int64_t>{3, 2}));
  float first = 0.0F;
  std::memcpy(&first, view.bytes.data(), sizeof(first));
  EXPECT_EQ(first, 6.0F);
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  testing::expect_error(ErrorCode::kBadFile, {"ffn_up_exps", "each of 3 experts"}, [&] { open_with(3); });
}

TEST_F(GgufTensorsTest, GivesTheMagnitudesOfScales) {
  std::string data = raw<std::uint16_t>(0xB800) + std::string(16, '\0') + raw<std::uint16_t>(0x3C00);  // -0.5 and 1
  data += std::string(16, '\0');
  const Checkpoint checkpoint = open({{.name = "token_embd.weight", .sizes = {64, 1}, .type = 2, .offset = 0}}, data);
  const RowDecoder* decoder = checkpoint.at("model.embed_tokens.weight").decoder;
  std::vector<float> scales(2);
  ASSERT_TRUE(decoder->read_scales(0, 32, scales));
  EXPECT_EQ(scales, (std::vector<float>{0.5F, 1.0F}));
  EXPECT_FALSE(decoder->read_scales(0, 64, scales));
}

TEST_F(GgufTensorsTest, ChecksPlacesBeforeTheyAreRead) {
  const auto expect_broken = [&](const GgufEntry& tensor, std::initializer_list<std::string> parts) {
    testing::expect_error(ErrorCode::kBadFile, parts, [&] { open({tensor}, std::string(128, '\0')); });
  };
  expect_broken({.name = "t", .sizes = {33}, .type = kF32, .offset = 0}, {"tensor 't'", "beyond the file"});
  expect_broken({.name = "t", .sizes = {1}, .type = kF32, .offset = 1ULL << 63U}, {"beyond the file"});
  expect_broken({.name = "t", .sizes = {1}, .type = kF32, .offset = 4}, {"multiple of 32"});
  expect_broken({.name = "t", .sizes = {1ULL << 62U, 1ULL << 62U}, .type = kF32, .offset = 0}, {"beyond the file"});
  expect_broken({.name = "t", .sizes = {1ULL << 62U}, .type = kF32, .offset = 0}, {"beyond the file"});
  expect_broken({.name = "t", .sizes = {33, 1}, .type = kQ8, .offset = 0}, {"blocks of 32"});
  expect_broken({.name = "t", .sizes = {0, 4}, .type = kF32, .offset = 0}, {"holds nothing"});
  testing::expect_error(ErrorCode::kBadFile, {"overlaps 'a'"}, [&] {
    open({{.name = "a", .sizes = {16}, .type = kF32, .offset = 0},
          {.name = "b", .sizes = {8}, .type = kF32, .offset = 32}},
         std::string(128, '\0'));
  });
}

TEST_F(GgufTensorsTest, RefusesWhatItDoesNotRead) {
  testing::expect_error(ErrorCode::kUnsupported, {"tensor 't'", "Q2_K", "Q4_K"}, [&] {
    open({{.name = "t", .sizes = {256}, .type = 10, .offset = 0}}, std::string(128, '\0'));
  });
  testing::expect_error(ErrorCode::kUnsupported, {"tensor 't'", "number 77"}, [&] {
    open({{.name = "t", .sizes = {256}, .type = 77, .offset = 0}}, std::string(128, '\0'));
  });
  testing::expect_error(ErrorCode::kUnsupported, {"3 parts", "llama-gguf-split"},
                        [&] { open({}, std::string(128, '\0'), {gguf_key("split.count", 2, raw<std::uint16_t>(3))}); });
}

TEST(CheckpointName, IsTheFamilys) {
  EXPECT_EQ(checkpoint_name("qwen3", "blk.12.attn_k_norm.weight"), "model.layers.12.self_attn.k_norm.weight");
  EXPECT_EQ(checkpoint_name("llada", "blk.3.ffn_gate.weight"), "model.transformer.blocks.3.ff_proj.weight");
  EXPECT_EQ(checkpoint_name("llada", "output_norm.weight"), "model.transformer.ln_f.weight");
  EXPECT_EQ(checkpoint_name("llama", "blk.0.attn_q.bias"), "model.layers.0.self_attn.q_proj.bias");
  for (const char* other : {"blk.0.weight", "blk.", "blk.0.ssm_a.weight", "weight", ""}) {
    EXPECT_EQ(checkpoint_name("llama", other), other);
  }
}

}  // namespace
}  // namespace diffulex_edge
