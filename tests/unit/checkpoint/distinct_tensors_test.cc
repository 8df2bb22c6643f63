#include "checkpoint/distinct_tensors.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::TestTensor;

class DistinctTensorsTest : public ::testing::Test {
 protected:
  Checkpoint open(const std::vector<TestTensor>& tensors) const {
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file(tensors));
    return Checkpoint(folder_ / "m.safetensors");
  }
  static TestTensor integers(const std::string& name, const std::string& bytes) {
    return {.name = name, .dtype = DType::kI8, .shape = {2, 2}, .bytes = bytes};
  }
  static TestTensor scales(const std::string& name, float second) {
    return {
        .name = name, .dtype = DType::kF32, .shape = {2}, .bytes = testing::bytes_of(std::vector<float>{1.0F, second})};
  }
  testing::TemporaryFolder folder_;
};

TEST_F(DistinctTensorsTest, AnswersWithTheFirstOneAskedFor) {
  const Checkpoint checkpoint = open({integers("a", "same"), integers("b", "same"), integers("c", "same")});
  DistinctTensors distinct(checkpoint);
  EXPECT_EQ(distinct.content_of("b"), "b");
  EXPECT_EQ(distinct.content_of("c"), "b");
  EXPECT_EQ(distinct.content_of("a"), "b");
  EXPECT_EQ(distinct.content_of("b"), "b");  // and goes on so
  EXPECT_EQ(distinct.content_of("a"), "b");
  EXPECT_EQ(DistinctTensors(checkpoint).content_of("a"), "a");
}

TEST_F(DistinctTensorsTest, TellsApartWhatDiffersInOneByte) {
  const Checkpoint checkpoint = open({integers("a", "same"), integers("b", "samf"), integers("c", "tame")});
  DistinctTensors distinct(checkpoint);
  for (const char* name : {"a", "b", "c"}) {
    EXPECT_EQ(distinct.content_of(name), name);
  }
}

TEST_F(DistinctTensorsTest, TellsTypesAndShapesApart) {
  const std::string bytes = "12345678";
  const Checkpoint checkpoint = open({{"a", DType::kF16, {2, 2}, bytes},
                                      {"b", DType::kBF16, {2, 2}, bytes},
                                      {"c", DType::kF16, {4, 1}, bytes},
                                      {"d", DType::kF16, {4}, bytes},
                                      {"e", DType::kF32, {2}, bytes},
                                      {"f", DType::kF16, {2, 2}, bytes}});
  DistinctTensors distinct(checkpoint);
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    EXPECT_EQ(distinct.content_of(name), name);
  }
  EXPECT_EQ(distinct.content_of("f"), "a");
}

TEST_F(DistinctTensorsTest, LooksAtTheirScalesToo) {
  const Checkpoint checkpoint =
      open({integers("a", "same"), scales("a_scale", 2.0F), integers("b", "same"), scales("b_scale", 3.0F),
            integers("c", "same"), scales("c_scale", 2.0F), integers("d", "same")});
  DistinctTensors distinct(checkpoint);
  EXPECT_EQ(distinct.content_of("a"), "a");
  EXPECT_EQ(distinct.content_of("b"), "b");
  EXPECT_EQ(distinct.content_of("c"), "a");
  EXPECT_EQ(distinct.content_of("d"), "d");  // it has none
  DistinctTensors other_way(checkpoint);
  EXPECT_EQ(other_way.content_of("d"), "d");
  EXPECT_EQ(other_way.content_of("a"), "a");
}

TEST_F(DistinctTensorsTest, ComparesLargeTensorsToTheEnd) {
  std::string bytes(std::size_t{9} << 20U, 'x');  // several pieces
  const auto large = [&](const std::string& name) {
    return TestTensor{
        .name = name, .dtype = DType::kI8, .shape = {static_cast<std::int64_t>(bytes.size())}, .bytes = bytes};
  };
  std::vector<TestTensor> tensors = {large("a"), large("b")};
  bytes.back() = 'y';
  tensors.push_back(large("c"));
  const Checkpoint checkpoint = open(tensors);
  DistinctTensors distinct(checkpoint);
  EXPECT_EQ(distinct.content_of("a"), "a");
  EXPECT_EQ(distinct.content_of("b"), "a");
  EXPECT_EQ(distinct.content_of("c"), "c");
}

TEST_F(DistinctTensorsTest, NamesATensorThatIsNotThere) {
  const Checkpoint checkpoint = open({integers("a", "same")});
  DistinctTensors distinct(checkpoint);
  testing::expect_error(ErrorCode::kBadFile, {"no tensor 'z'"}, [&] { distinct.content_of("z"); });
  EXPECT_EQ(distinct.content_of("a"), "a");
}

}  // namespace
}  // namespace diffulex_edge
