// Calibrated rounding of graphs: of a model's folder, and of modules, whose weights are in memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/quantization_session.h"
#include "quant/weight_decoder.h"
#include "runtime/calibrate.h"
#include "support/expect_error.h"
#include "support/memory_layers.h"
#include "support/static_model.h"

namespace diffulex_edge {
namespace {

const TokenSequences kSequences = {{5, 1, 30, 7, 7, 2, 19, 36, 0, 11, 4, 12},
                                   {3, 3, 8, 21, 9, 17, 28},
                                   {12, 0, 33, 6, 24, 14, 2, 9},
                                   {8, 31, 16, 5, 22, 22, 10, 35, 27, 1}};

CalibrationData data_of(const TokenSequences& sequences) {
  CalibrationData data{.inputs = sequences, .masked = {}, .counts = {}};
  for (const auto& sequence : sequences) {
    data.masked.emplace_back(sequence.size(), false);
    data.counts.emplace_back(sequence.size(), true);
  }
  return data;
}

CalibrationData runs_of(const TokenSequences& sequences) {
  CalibrationData data;
  for (const auto& sequence : sequences) {
    data.runs.push_back({{.shape = {1, static_cast<std::int64_t>(sequence.size())},
                          .values = std::vector<float>(sequence.begin(), sequence.end())}});
  }
  return data;
}

Model as_module(Model model) {
  model.path.clear();
  model.config = {};
  model.config.architecture = "Decoder";
  return model;
}

std::map<std::string, std::vector<std::byte>> tensors_of(const Model& model) {
  std::map<std::string, std::vector<std::byte>> tensors;
  for (const auto& [name, tensor] : model.checkpoint->tensors()) {
    tensors[name].assign(tensor.bytes.begin(), tensor.bytes.end());
  }
  return tensors;
}

QuantizationRequest request(const QuantizationConfig& config, const CalibrationData& data,
                            const CalibrationOptions& options, const TargetArithmetic& target = {}) {
  return {.config = config, .target = target, .calibration = options, .data = data, .known = {}};
}

const Model& copy_of(const CalibratedModel& calibrated) {
  if (!calibrated.rounded) {
    throw std::logic_error("nothing was rounded");
  }
  return *calibrated.rounded;
}

class ModuleRounding : public ::testing::TestWithParam<RoundingMethod>, protected testing::StaticModel {
 protected:
  ModuleRounding() : StaticModel("sdar") {}

  CalibratedModel calibrate(const Model& model, const QuantizationConfig& config, const CalibrationData& data,
                            const std::string& folder, const CalibrationOptions& options = {},
                            const TargetArithmetic& target = {}) const {
    const ModelOptions model_options = {
        .seq_len = 16, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}};
    return calibrate_model(model, model_options, request(config, data, options, target),
                           [&] { return folder_ / folder; }, {.threads = 2});
  }
};

TEST_P(ModuleRounding, GivesTheIntegersOfTheCheckpoint) {
  QuantizationConfig config{.dtype = QuantizationDtype::INT4, .head_dtype = QuantizationDtype::INT8};
  config.method = GetParam();
  const CalibratedModel expected = calibrate(model_, config, data_of(kSequences), "checkpoint");
  const CalibratedModel found = calibrate(as_module(model_), config, runs_of(kSequences), "module");
  EXPECT_EQ(tensors_of(copy_of(found)), tensors_of(copy_of(expected)));
  EXPECT_NE(tensors_of(copy_of(found)), tensors_of(model_));
  ASSERT_TRUE(found.calibration);
  EXPECT_EQ(found.calibration->sequences, 4);
  EXPECT_EQ(found.calibration->tokens, expected.calibration->tokens);
  ASSERT_EQ(found.calibration->rounding.size(), 15U);
  for (std::size_t i = 0; i < 15; ++i) {
    EXPECT_EQ(found.calibration->rounding[i].error, expected.calibration->rounding[i].error) << i;
  }
  for (const LayerPlan& layer : quantize_model(copy_of(found), config).plan.layers) {  // the integers are there
    EXPECT_EQ(layer.format.is_quantized(), layer.source.is_quantized()) << layer.layer;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ModuleRounding,
                         ::testing::Values(RoundingMethod::GPTQ, RoundingMethod::AWQ, RoundingMethod::AUTO,
                                           RoundingMethod::MSE),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

class ModuleCalibration : public ModuleRounding {};

TEST_P(ModuleCalibration, FindsTheRangesOfTheCheckpoint) {
  const QuantizationConfig config = int8_static();
  const CalibratedModel expected = calibrate(model_, config, data_of(kSequences), "checkpoint", {}, everywhere(16));
  const CalibratedModel found = calibrate(as_module(model_), config, runs_of(kSequences), "module", {}, everywhere(16));
  EXPECT_FALSE(found.findings.layers.empty());
  EXPECT_EQ(found.findings.layers, expected.findings.layers);
  EXPECT_EQ(found.findings.graph, expected.findings.graph);
}

TEST_P(ModuleCalibration, RefusesInputsOfOtherShapes) {
  const Model module = as_module(model_);
  const QuantizationConfig config{.dtype = QuantizationDtype::INT8, .method = RoundingMethod::GPTQ};
  const auto refuses = [&](const CalibrationData& data, std::initializer_list<std::string> words) {
    testing::expect_error(ErrorCode::kInvalidArgument, words, [&] { calibrate(module, config, data, "refused"); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused"));
  };
  CalibrationData data = runs_of(kSequences);
  data.runs[2].push_back(data.runs[2][0]);
  refuses(data, {"calibration run 2", "2 inputs", "1"});
  data = runs_of(kSequences);
  data.runs[1][0].shape = {7};
  refuses(data, {"calibration run 1", "[7]", "seq"});
  data = runs_of({TokenSequences::value_type(17, 1)});
  refuses(data, {"calibration run 0", "[1, 17]"});
  data = runs_of({{1, 2, 37}});
  refuses(data, {"37", "table of 37"});
  refuses({}, {"no data"});
  testing::expect_error(ErrorCode::kInvalidArgument, {"mask weight", "module"}, [&] {
    calibrate(module, config, runs_of(kSequences), "refused", {.data = {}, .mask_weight = 2.0});
  });
}

INSTANTIATE_TEST_SUITE_P(Once, ModuleCalibration, ::testing::Values(RoundingMethod::GPTQ),
                         [](const auto&) { return std::string("module"); });

// A module with fixed shapes: two rows of 64 go through one layer twice, a norm, and a layer of its own.
class SharedLayer : public ::testing::Test {
 protected:
  SharedLayer() {
    add_tensor("shared.weight", {64, 64});
    add_tensor("norm.weight", {64});
    add_tensor("own.weight", {32, 64});
    std::vector<TensorView> views;
    for (const auto& [name, array] : values_) {
      views.push_back(
          {.name = name, .dtype = DType::kF32, .shape = shapes_.at(name), .bytes = std::as_bytes(std::span(array))});
    }
    module_.config.architecture = "Shared";
    module_.seq_len = 1;
    module_.checkpoint = std::make_shared<const Checkpoint>(std::move(views));
    Graph& graph = module_.graph;
    const auto weight = [&](const std::string& name) { return graph.weight(name, static_shape(shapes_.at(name))); };
    const ValueId x = graph.input("x", DType::kF32, static_shape(std::vector<std::int64_t>{2, 64}));
    const ValueId shared = weight("shared.weight");
    const ValueId once = graph.add(Op::kLinear, {x, shared}, NoAttributes{}, "shared");
    const ValueId twice = graph.add(Op::kLinear, {once, shared}, NoAttributes{}, "shared");
    normed_ = graph.add(Op::kRmsNorm, {twice, weight("norm.weight")}, RmsNormAttributes{.epsilon = 1e-6F}, "norm");
    const ValueId own = graph.add(Op::kLinear, {normed_, weight("own.weight")}, NoAttributes{}, "own");
    graph.set_output(own, "output");
  }

  CalibratedModel calibrate(const QuantizationConfig& config, const CalibrationOptions& options = {}) const {
    CalibrationData data;
    for (unsigned seed = 0; seed < 5; ++seed) {
      const testing::Array x = testing::random_values({2, 64}, 100 + seed);
      data.runs.push_back({{.shape = {2, 64}, .values = {x.values.begin(), x.values.end()}}});
    }
    return calibrate_model(module_, {}, request(config, data, options), [&] { return folder_ / "rounded"; },
                           {.threads = 2});
  }

  Model module_;
  ValueId normed_ = -1;
  std::map<std::string, std::vector<float>> values_;
  testing::TemporaryFolder folder_;

 private:
  void add_tensor(const std::string& name, const std::vector<std::int64_t>& shape) {
    const testing::Array array = testing::random_values(shape, static_cast<unsigned>(values_.size()));
    values_[name].assign(array.values.begin(), array.values.end());
    shapes_[name] = shape;
    // Columns of different sizes, which AWQ scales.
    for (std::size_t i = 0; name == "norm.weight" && i < values_[name].size(); ++i) {
      values_[name][i] = std::exp(0.2F * static_cast<float>(i % 16) - 2.0F);
    }
  }

  std::map<std::string, std::vector<std::int64_t>> shapes_;
};

TEST_F(SharedLayer, IsRoundedOnce) {
  for (const RoundingMethod method : {RoundingMethod::GPTQ, RoundingMethod::AUTO}) {
    std::filesystem::remove_all(folder_ / "rounded");
    QuantizationConfig config{.dtype = QuantizationDtype::INT8};
    config.exclude_layers = {};
    config.method = method;
    const CalibratedModel rounded = calibrate(config);
    std::vector<std::string> layers;
    for (const LayerRounding& rounding : rounded.calibration->rounding) {
      layers.push_back(rounding.layer);
      EXPECT_LT(rounding.error, rounding.nearest_error) << rounding.layer;
    }
    EXPECT_EQ(layers, (std::vector<std::string>{"shared", "own"}));
    EXPECT_TRUE(find_stored_weight(*copy_of(rounded).checkpoint, "shared.weight").format.is_quantized());
  }
}

TEST_F(SharedLayer, HasRangesOfBothUses) {
  QuantizationConfig config{.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
  const CalibratedModel calibrated = calibrate(config, {.observer = Observer::MIN_MAX});
  const LayerActivations& shared = calibrated.findings.layers.at("shared");
  EXPECT_EQ(std::max(shared.input.max, shared.output.max), shared.output.max);
  // The second use's input is the first one's output, and wider than the first one's input.
  EXPECT_GT(shared.input.max, 8.0F);
  EXPECT_GT(shared.output.max, 2.0F * shared.input.max);
  EXPECT_TRUE(calibrated.findings.layers.contains("own"));
}

TEST_F(SharedLayer, AwqScalesWhatNothingElseUses) {
  QuantizationConfig config{.dtype = QuantizationDtype::INT4, .group_size = 32};
  config.exclude_layers = {"norm"};
  config.method = RoundingMethod::AWQ;
  const auto norm_of = [](const CalibratedModel& rounded) {
    const auto bytes = copy_of(rounded).checkpoint->at("norm.weight").bytes;
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  const auto as_given = std::as_bytes(std::span(values_.at("norm.weight")));
  const std::vector<std::byte> given(as_given.begin(), as_given.end());
  EXPECT_NE(norm_of(calibrate(config)), given);
  std::filesystem::remove_all(folder_ / "rounded");
  EXPECT_EQ(norm_of(calibrate(config, {.fixed_tensors = {"norm.weight"}})), given);
  // The norm's output is the module's as well.
  std::filesystem::remove_all(folder_ / "rounded");
  module_.graph.set_output(normed_, "output");
  EXPECT_EQ(norm_of(calibrate(config)), given);
}

// A head that shares its weight with the embedding can't be scaled, whose rows would be too.
TEST(TiedHead, IsNotScaledByAwq) {
  testing::TemporaryFolder folder;
  nlohmann::json config = testing::transformers_config("sdar", "SDARForCausalLM");
  config["tie_word_embeddings"] = true;
  std::vector<testing::TestTensor> tensors = testing::qwen3_tensors(false);
  std::vector<float> norm(64);
  for (std::size_t i = 0; i < norm.size(); ++i) {
    norm[i] = std::exp(0.2F * static_cast<float>(i % 16) - 2.0F);
  }
  const auto last = std::ranges::find(tensors, "model.norm.weight", &testing::TestTensor::name);
  last->bytes = testing::bytes_of(norm);
  testing::write_model(folder / "model", config, tensors);
  const Model model = load_model(folder / "model");
  QuantizationConfig wanted{.dtype = QuantizationDtype::INT8,
                            .embedding_dtype = QuantizationDtype::INT8,
                            .head_dtype = QuantizationDtype::INT8,
                            .method = RoundingMethod::AWQ};
  const CalibratedModel rounded = calibrate_model(model, {}, request(wanted, data_of(kSequences), {}),
                                                  [&] { return folder / "rounded"; }, {.threads = 2});
  const std::vector<float> before = load_tensor(*model.checkpoint, "model.embed_tokens.weight");
  const StoredWeight stored = find_stored_weight(*copy_of(rounded).checkpoint, "model.embed_tokens.weight");
  std::vector<float> after(before.size());
  load_rows(stored, 0, stored.rows, after);
  double lost = 0.0;
  double given = 0.0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    lost += std::pow(static_cast<double>(after[i]) - static_cast<double>(before[i]), 2);
    given += std::pow(static_cast<double>(before[i]), 2);
  }
  EXPECT_LT(std::sqrt(lost / given), 0.02);
  EXPECT_TRUE(std::ranges::none_of(rounded.calibration->rounding, [](const LayerRounding& layer) {
    return layer.layer == "lm_head" && layer.awq_scaled;
  }));
}

}  // namespace
}  // namespace diffulex_edge
