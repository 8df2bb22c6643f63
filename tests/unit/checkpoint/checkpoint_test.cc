#include "diffulex_edge/checkpoint.h"

#include <gtest/gtest.h>

#include "checkpoint/same_bytes.h"
#include "checkpoint/stored_weight.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::TestTensor;

TestTensor tensor(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
  TestTensor result{.name = name, .dtype = dtype, .shape = shape};
  std::size_t bytes = byte_size(dtype);
  for (const std::int64_t size : shape) {
    bytes *= static_cast<std::size_t>(size);
  }
  result.bytes = std::string(bytes, '\x3f');
  return result;
}

class CheckpointTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::vector<TestTensor>& tensors) {
    testing::write_file(folder_ / name, testing::safetensors_file(tensors));
  }
  void index(const std::string& map) {
    testing::write_file(folder_ / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  }
  void expect_refused(std::initializer_list<std::string> parts) {
    testing::expect_error(ErrorCode::kBadFile, parts, [&] { Checkpoint checkpoint(folder_.path()); });
  }
  testing::TemporaryFolder folder_;
};

TEST(CheckpointInMemory, HasTheCallersTensors) {
  const std::vector<std::byte> bytes(24, std::byte{0x3f});
  const auto view = [&](const std::string& name, std::vector<std::int64_t> shape) {
    return TensorView{.name = name, .dtype = DType::kF32, .shape = std::move(shape), .bytes = bytes};
  };
  const Checkpoint checkpoint(std::vector{view("b", {2, 3}), view("a", {6})});
  EXPECT_EQ(checkpoint.path(), "");
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(checkpoint.at("b").bytes.data(), bytes.data());
  EXPECT_EQ(checkpoint.at("b").where(), "tensor 'b'");
  EXPECT_EQ(find_stored_weight(checkpoint, "b").rows, 2);
  testing::expect_error(ErrorCode::kInvalidArgument, {"no tensor 'c'"}, [&] { checkpoint.at("c"); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"tensor 'a'", "twice"},
                        [&] { Checkpoint(std::vector{view("a", {6}), view("a", {6})}); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"tensor 'a'", "24 bytes", "[7]"},
                        [&] { Checkpoint(std::vector{view("a", {7})}); });
}

TEST_F(CheckpointTest, ReadsShards) {
  write("1.safetensors", {tensor("a", DType::kF32, {2})});
  write("2.safetensors", {tensor("b", DType::kF16, {3})});
  index(R"("a": "1.safetensors", "b": "2.safetensors")");
  const Checkpoint checkpoint(folder_.path());
  EXPECT_EQ(checkpoint.at("b").elements(), 3);
  EXPECT_EQ(checkpoint.total_bytes(), 14);
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  testing::expect_error(ErrorCode::kBadFile, {"no tensor 'c'"}, [&] { checkpoint.at("c"); });
}

TEST_F(CheckpointTest, RefusesAnIndexThatLies) {
  write("1.safetensors", {tensor("a", DType::kF32, {2})});
  index(R"("a": "1.safetensors", "b": "1.safetensors")");
  expect_refused({"1.safetensors", "lacks tensor 'b'"});
  index(R"("a": "absent.safetensors")");
  expect_refused({"absent.safetensors", "missing"});
  index(R"("a": "../1.safetensors")");
  expect_refused({"not the name of a file"});
  index(R"("a": 3)");
  expect_refused({"not a string"});
  testing::write_file(folder_ / "model.safetensors.index.json", "[]");
  expect_refused({"weight_map"});
}

TEST_F(CheckpointTest, RefusesATensorInTwoShards) {
  write("1.safetensors", {tensor("a", DType::kF32, {2}), tensor("b", DType::kF32, {2})});
  write("2.safetensors", {tensor("a", DType::kF32, {2})});
  index(R"("b": "1.safetensors", "a": "2.safetensors")");
  expect_refused({"tensor 'a'", "is also in 1.safetensors"});
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  expect_refused({"no model.safetensors"});
  testing::write_file(folder_ / "pytorch_model.bin", "x");
  expect_refused({"pytorch_model.bin", "safe_serialization=True"});
}

TEST_F(CheckpointTest, DescribesTheStoredQuantizedLayouts) {
  write("model.safetensors",
        {tensor("w8", DType::kI8, {4, 6}), tensor("w8_scale", DType::kF32, {4}), tensor("w4", DType::kU8, {4, 32}),
         tensor("w4_scale", DType::kBF16, {4, 2}), tensor("c4", DType::kU8, {4, 32}),
         tensor("c4_scale", DType::kF32, {4}), tensor("f", DType::kBF16, {5})});
  const Checkpoint checkpoint(folder_.path());
  EXPECT_EQ(find_stored_weight(checkpoint, "w8").format, int8_per_channel());
  EXPECT_EQ(find_stored_weight(checkpoint, "w4").format, int4_groups(32, ElementType::kBF16));
  EXPECT_EQ(find_stored_weight(checkpoint, "w4").columns, 64);
  EXPECT_EQ(find_stored_weight(checkpoint, "c4").format, int4_per_channel());
  EXPECT_EQ(find_stored_weight(checkpoint, "f").format, float_format(ElementType::kBF16));
  EXPECT_TRUE(same_bytes(checkpoint.at("w4"), checkpoint.at("c4")));
  EXPECT_FALSE(same_bytes(checkpoint.at("w4"), checkpoint.at("w8")));
}

TEST_F(CheckpointTest, RefusesScalesThatDoNotFit) {
  const TestTensor values[] = {tensor("w", DType::kI8, {4, 6}), tensor("w", DType::kU8, {4, 32}),
                               tensor("w", DType::kU8, {4, 32}), tensor("w", DType::kI8, {4, 6})};
  const TestTensor scales[] = {tensor("w_scale", DType::kF32, {5}), tensor("w_scale", DType::kBF16, {4, 3}),
                               tensor("w_scale", DType::kBF16, {4, 64}), tensor("w_scale", DType::kF16, {4})};
  for (std::size_t i = 0; i < std::size(values); ++i) {
    write("model.safetensors", {values[i], scales[i]});
    const Checkpoint checkpoint(folder_.path());
    testing::expect_error(ErrorCode::kBadFile, {"'w_scale'", "do not fit"},
                          [&] { find_stored_weight(checkpoint, "w"); });
  }
}

TEST_F(CheckpointTest, RefusesWeightsOfOtherTypesAndRanks) {
  write("model.safetensors", {tensor("i", DType::kI64, {2}), tensor("q", DType::kI8, {2, 2}),
                              tensor("r", DType::kF32, {1, 2, 2}), tensor("e", DType::kF32, {0, 2})});
  const Checkpoint checkpoint(folder_.path());
  for (const char* name : {"i", "q", "r", "e"}) {
    testing::expect_error(ErrorCode::kBadFile, {std::string("tensor '") + name + "'"},
                          [&] { find_stored_weight(checkpoint, name); });
  }
}

TEST_F(CheckpointTest, ReadsZerosWhereItsFileWasCutAndSaysSo) {
  write("model.safetensors", {tensor("a", DType::kF32, {4, 2048}), tensor("b", DType::kF32, {4, 2048})});
  const Checkpoint checkpoint(folder_.path());
  const TensorView& last = checkpoint.at("b");
  EXPECT_EQ(last.bytes.back(), std::byte{0x3f});
  last.check();
  std::filesystem::resize_file(folder_ / "model.safetensors", 4096);
  EXPECT_EQ(last.bytes.back(), std::byte{0});
  testing::expect_error(ErrorCode::kBadFile, {"model.safetensors"}, [&] { last.check(); });
}

}  // namespace
}  // namespace diffulex_edge
