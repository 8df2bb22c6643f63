#include "runtime/logits_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "checkpoint/tensor_source.h"
#include "diffulex_edge/checkpoint.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kVocab = 3;
constexpr std::int64_t kNo = kIgnoredTarget;

class LogitsFileTest : public ::testing::Test {
 protected:
  std::vector<float> read(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const SafetensorsFile file(path_);
    const auto found = std::ranges::find(file.tensors(), name, &TensorView::name);
    EXPECT_NE(found, file.tensors().end()) << name;
    EXPECT_EQ(found->shape, shape);
    EXPECT_EQ(found->dtype, DType::kF32);
    std::vector<float> values(found->bytes.size() / sizeof(float));
    std::memcpy(values.data(), found->bytes.data(), found->bytes.size());
    return values;
  }

  testing::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "logits.safetensors";
  std::vector<EvaluationSet> sets_ = {
      {.label = "15", .inputs = {{5, 1}, {2, 7}}, .targets = {{kNo, 1}, {2, 0}}},
      {.label = "next", .inputs = {{4, 4, 4}}, .targets = {{kNo, 2, kNo}}},
  };
};

TEST_F(LogitsFileTest, HasARowForEachCountedPositionBesideTheData) {
  LogitsFile file(path_, sets_, kVocab);
  file.append(0, std::vector<float>{1, 2, 3});
  file.append(1, std::vector<float>{7, 8, 9});  // sets may take turns
  file.append(0, std::vector<float>{4, 5, 6});
  file.append(0, std::vector<float>{-1, -2, -3});
  EXPECT_FALSE(std::filesystem::exists(path_));
  file.commit({});
  EXPECT_EQ(read("logits_15", {3, kVocab}), (std::vector<float>{1, 2, 3, 4, 5, 6, -1, -2, -3}));
  EXPECT_EQ(read("logits_next", {1, kVocab}), (std::vector<float>{7, 8, 9}));
  const std::vector<EvaluationSet> read_back = read_evaluation_sets(path_, 8);
  ASSERT_EQ(read_back.size(), sets_.size());
  for (std::size_t i = 0; i < sets_.size(); ++i) {
    EXPECT_EQ(read_back[i].label, sets_[i].label);
    EXPECT_EQ(read_back[i].inputs, sets_[i].inputs);
    EXPECT_EQ(read_back[i].targets, sets_[i].targets);
  }
}

TEST_F(LogitsFileTest, TakesSequencesOfOneLength) {
  sets_[0].inputs[1].push_back(1);
  sets_[0].targets[1].push_back(1);
  testing::expect_error(ErrorCode::kInvalidArgument, {"set 15", "length"}, [&] { LogitsFile(path_, sets_, kVocab); });
}

TEST_F(LogitsFileTest, LeavesNothingUnfinished) {
  {
    const LogitsFile file(path_, sets_, kVocab);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  testing::expect_error(ErrorCode::kIo, {"logits.safetensors"},
                        [&] { LogitsFile(folder_ / "none/logits.safetensors", sets_, kVocab); });
}

}  // namespace
}  // namespace diffulex_edge
