// A model with packed weights against the same model simulated.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>

#include "diffulex_edge/error.h"
#include "diffulex_edge/runtime.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/static_ranges.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::ReferenceDecoder;

TokenSequences sequences_of(std::int64_t vocab) {
  TokenSequences sequences = {std::vector<std::int64_t>(1), std::vector<std::int64_t>(40),
                              std::vector<std::int64_t>(9)};
  std::int64_t next = 3;
  for (auto& sequence : sequences) {
    for (auto& id : sequence) {
      id = next = (next * 7 + 5) % vocab;
    }
  }
  return sequences;
}

CalibrationFindings findings() {
  CalibrationFindings findings = testing::wide_findings();
  for (auto& [name, ranges] : findings.layers) {
    ranges = {.input = {.min = -5.0F, .max = 7.0F}, .output = {.min = -10.0F, .max = 8.0F}};
  }
  return findings;
}

std::vector<QuantizationConfig> configs() {
  std::vector<QuantizationConfig> configs;
  const auto add = [&](QuantizationDtype dtype, QuantizationMode mode, std::int64_t group_size,
                       std::optional<QuantizationDtype> others) {
    QuantizationConfig config;
    config.dtype = dtype;
    config.mode = mode;
    config.group_size = group_size;
    config.embedding_dtype = others;
    config.head_dtype = others;
    configs.push_back(config);
  };
  using enum QuantizationDtype;
  using enum QuantizationMode;
  add(FP32, WEIGHT_ONLY, 32, {});
  add(FP16, WEIGHT_ONLY, 32, FP16);
  add(INT8, WEIGHT_ONLY, 32, INT8);
  add(INT8, STATIC, 32, {});
  add(INT4, WEIGHT_ONLY, 32, INT4);
  add(INT4, DYNAMIC, 32, {});
  add(INT4, WEIGHT_ONLY, 0, INT4);
  add(INT4, STATIC, 0, {});
  return configs;
}

class PackedModelTest : public ::testing::Test {
 protected:
  Model load(const ReferenceDecoder& reference) {
    path_ = folder_.path() / std::to_string(models_++);
    testing::write_model(path_, reference.config, reference.tensors());
    return load_model(path_);
  }

  testing::TemporaryFolder folder_;
  std::filesystem::path path_;
  int models_ = 0;
};

// The largest difference over the largest logit.
double relative_error(const std::vector<std::vector<float>>& actual, const std::vector<std::vector<float>>& expected) {
  double worst = 0.0;
  double largest = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].size(), expected[i].size());
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      worst = std::max(worst, std::fabs(static_cast<double>(actual[i][j]) - static_cast<double>(expected[i][j])));
      largest = std::max(largest, std::fabs(static_cast<double>(expected[i][j])));
    }
  }
  return worst / largest;
}

TEST_F(PackedModelTest, ComputesWhatTheSimulationDoesForEveryFormat) {
  for (const char* family : {"llada", "qwen2", "sdar"}) {
    for (const bool tied : {false, true}) {
      const Model model = load(testing::reference_decoder(family, tied));
      const TokenSequences sequences = sequences_of(model.config.vocab_size);
      for (const QuantizationConfig& config : configs()) {
        SCOPED_TRACE(std::string(family) + (tied ? ", tied, " : ", ") + std::string(to_string(config.dtype)) + " " +
                     std::string(to_string(config.mode)) + " " + std::to_string(config.group_size));
        const QuantizationPlan plan = quantize_model(model, config, findings()).plan;
        const PackedModel packed(model, &plan);
        // A value half-way between two steps of a static output may round either way, and moves what sees it.
        const double tolerance = config.mode == QuantizationMode::STATIC ? 3e-2 : 1e-5;
        EXPECT_LT(relative_error(packed.forward(sequences), forward(model, sequences, &plan)), tolerance);
      }
    }
  }
}

TEST_F(PackedModelTest, RunsWithoutItsCheckpointAgainAndAgain) {
  std::optional<PackedModel> packed;
  std::vector<std::vector<float>> expected;
  TokenSequences sequences;
  {
    const Model model = load(testing::reference_decoder("llada"));
    sequences = sequences_of(model.config.vocab_size);
    expected = forward(model, sequences);
    packed.emplace(model);
  }
  std::filesystem::remove_all(path_);
  for (int run = 0; run < 2; ++run) {
    EXPECT_LT(relative_error(packed->forward(sequences), expected), 1e-5);
  }
}

TEST_F(PackedModelTest, IsTheSameForAnyNumberOfThreads) {
  const Model model = load(testing::reference_decoder("llada"));
  QuantizationConfig config;
  config.dtype = QuantizationDtype::INT4;
  const QuantizationPlan plan = quantize_model(model, config, findings()).plan;
  const TokenSequences sequences = sequences_of(model.config.vocab_size);
  const PackedModel packed(model, &plan, {.threads = 3, .stop = {}, .on_progress = {}});
  const auto one = packed.forward(sequences, {.threads = 1, .stop = {}, .on_progress = {}});
  EXPECT_EQ(one, packed.forward(sequences, {.threads = 5, .stop = {}, .on_progress = {}}));
}

// Without a plan a quantized checkpoint's integers stay packed.
TEST_F(PackedModelTest, TakesAboutThePlannedMemoryAndSharesTiedWeights) {
  const Model model = load(testing::reference_decoder("qwen3", true));
  QuantizationConfig config;
  config.dtype = QuantizationDtype::INT4;
  config.embedding_dtype = QuantizationDtype::INT8;
  config.head_dtype = QuantizationDtype::INT8;
  const QuantizationPlan plan = quantize_model(model, config, findings()).plan;
  const std::int64_t bytes = PackedModel(model, &plan).weight_bytes();
  EXPECT_GE(bytes, planned_bytes(plan));
  EXPECT_LT(bytes, planned_bytes(plan) * 5 / 4);
  write_quantized_checkpoint(model, plan, folder_ / "stored");
  EXPECT_EQ(PackedModel(load_model(folder_ / "stored")).weight_bytes(), bytes);
}

TEST_F(PackedModelTest, NamesABrokenWeight) {
  const ReferenceDecoder reference = testing::reference_decoder("qwen3");
  std::vector<testing::TestTensor> tensors = reference.tensors();
  const auto broken =
      std::ranges::find_if(tensors, [](const auto& tensor) { return tensor.name.ends_with("up_proj.weight"); });
  const float nan = std::nanf("");
  std::memcpy(broken->bytes.data(), &nan, sizeof(nan));
  testing::write_model(folder_ / "broken", reference.config, tensors);
  const Model model = load_model(folder_ / "broken");
  testing::expect_error(ErrorCode::kBadFile, {broken->name, "not finite"}, [&] { const PackedModel packed(model); });
}

TEST_F(PackedModelTest, NamesALayerWhoseInt8RowsAreTooLong) {
  const Model model = load(testing::reference_decoder("qwen3"));
  QuantizationPlan plan = quantize_model(model, {.dtype = QuantizationDtype::INT8}).plan;
  const auto layer = std::ranges::find(plan.layers, "layers.1.down_proj", &LayerPlan::layer);
  ASSERT_NE(layer, plan.layers.end());
  layer->columns = 65794;
  testing::expect_error(ErrorCode::kUnsupported, {"layers.1.down_proj", "65794", "--arithmetic simulated"},
                        [&] { const PackedModel packed(model, &plan); });
}

TEST_F(PackedModelTest, RefusesWrongSequencesAndStopsWhenAsked) {
  const Model model = load(testing::reference_decoder("qwen3"));
  const PackedModel packed(model);
  testing::expect_error(ErrorCode::kInvalidArgument, {"vocabulary"},
                        [&] { packed.forward({{model.config.vocab_size}}); });
  std::stop_source source;
  source.request_stop();
  const RunControl stopped{.threads = 1, .stop = source.get_token(), .on_progress = {}};
  testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] { packed.forward({{1, 2}}, stopped); });
  testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] { const PackedModel again(model, nullptr, stopped); });
}

TEST(QuantizedArithmeticNames, AreReadBackAndOthersRefused) {
  for (const QuantizedArithmetic arithmetic : {QuantizedArithmetic::SIMULATED, QuantizedArithmetic::FAST}) {
    EXPECT_EQ(parse_quantized_arithmetic(to_string(arithmetic)), arithmetic);
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"slow", "simulated, fast"},
                        [] { parse_quantized_arithmetic("slow"); });
}

}  // namespace
}  // namespace diffulex_edge
