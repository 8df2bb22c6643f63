#include "diffulex_edge/mixed_precision.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "quant/layer_formats.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

FormatEffect effect(const char* format, double kl) {
  return {.format = parse_layer_format(format), .output_error = kl, .kl_divergence = kl, .measured = true};
}

// Three layers of which one is much more sensitive and one can't become INT4.
std::vector<LayerSensitivity> three_layers() {
  return {
      {.layers = {"a"}, .parameters = 100, .formats = {effect("fp32", 0), effect("int8", 1), effect("int4_g32", 9)}},
      {.layers = {"b"},
       .parameters = 100,
       .formats = {effect("fp32", 0), effect("int8", 0.1), effect("int4_g32", 0.5)}},
      {.layers = {"c", "d"}, .parameters = 50, .formats = {effect("fp32", 0), effect("int8", 0.2)}}};
}

std::int64_t bytes_of(const LayerFormat& format, std::int64_t parameters) {
  switch (format.dtype) {
    case QuantizationDtype::INT8:
      return parameters;
    case QuantizationDtype::INT4:
      return parameters / 2;
    default:
      return 4 * parameters;
  }
}

// 1000 bytes beside the layers, and some more where a layer is INT4, as alignment makes it.
ArtefactSizes predict(const QuantizationConfig& config) {
  ArtefactSizes sizes{.total = 1000, .layers = {}};
  for (const auto& [name, format] : config.layer_formats) {
    const std::int64_t bytes = name == "d" ? 0 : bytes_of(format, name == "c" ? 50 : 100);  // d shares c's
    sizes.layers[name] = bytes;
    sizes.total += bytes + (format.dtype == QuantizationDtype::INT4 ? 7 : 0);
  }
  return sizes;
}

MixedPrecisionPlanner planner() { return {QuantizationConfig{}, three_layers(), predict}; }

std::string formats(const MixedPrecisionPlan& plan) {
  std::string text;
  for (const auto& [name, format] : plan.config.layer_formats) {
    text += name + "=" + to_string(format) + " ";
  }
  return text;
}

TEST(MixedPrecision, SpendsBytesWhereTheyHelpMost) {
  EXPECT_EQ(formats(planner().for_size(10000)), "a=fp32 b=fp32 c=fp32 d=fp32 ");
  // a in FP32 and the others in INT8 is 1550; in INT4, b saves 43 more.
  EXPECT_EQ(formats(planner().for_size(1550)), "a=fp32 b=int8 c=int8 d=int8 ");
  const MixedPrecisionPlan smaller = planner().for_size(1549);
  EXPECT_EQ(formats(smaller), "a=fp32 b=int4_g32 c=int8 d=int8 ");
  EXPECT_EQ(smaller.file_bytes, 1507);
  EXPECT_DOUBLE_EQ(smaller.kl_divergence, 0.7);
  EXPECT_LE(smaller.kl_divergence_bound, smaller.kl_divergence);
}

TEST(MixedPrecision, CountsWhatTheChoiceItselfAdds) {
  // The smallest of all: 1000 + 50 + 50 + 50 + 14.
  const MixedPrecisionPlan smallest = planner().for_size(1164);
  EXPECT_EQ(smallest.file_bytes, 1164);
  testing::expect_error(ErrorCode::kInvalidArgument, {"target size", "1163"}, [] { planner().for_size(1163); });
  for (std::int64_t size = 1164; size < 2000; size += 3) {
    EXPECT_LE(planner().for_size(size).file_bytes, size);
  }
}

TEST(MixedPrecision, FindsTheSmallestFileForALoss) {
  EXPECT_EQ(formats(planner().for_loss(0.0)), "a=fp32 b=fp32 c=fp32 d=fp32 ");
  EXPECT_EQ(formats(planner().for_loss(0.75)), "a=fp32 b=int4_g32 c=int8 d=int8 ");
  EXPECT_EQ(formats(planner().for_loss(100)), "a=int4_g32 b=int4_g32 c=int8 d=int8 ");
  auto coarse = three_layers();
  for (LayerSensitivity& unit : coarse) {
    unit.formats.erase(unit.formats.begin());
  }
  const MixedPrecisionPlanner without_floats(QuantizationConfig{}, coarse, predict);
  testing::expect_error(ErrorCode::kInvalidArgument, {"largest loss", "1.3"}, [&] { without_floats.for_loss(1.2); });
}

TEST(MixedPrecision, UniformTakesTheNextFinerFormatWhereALayerCant) {
  EXPECT_EQ(formats(planner().uniform(parse_layer_format("int4_g32"))), "a=int4_g32 b=int4_g32 c=int8 d=int8 ");
  EXPECT_EQ(formats(planner().uniform(parse_layer_format("fp16"))), "a=fp32 b=fp32 c=fp32 d=fp32 ");
}

class PlanFile : public ::testing::Test {
 protected:
  PlanFile() { testing::write_sdar(folder_.path() / "model"); }
  Model model() const { return load_model(folder_.path() / "model"); }

  std::vector<LayerSensitivity> sensitivity() const {
    std::vector<LayerSensitivity> units;
    for (const LayerPlan& layer : quantize_model(model(), {}).plan.layers) {
      if (layer.role == LayerRole::kLinear || layer.role == LayerRole::kEmbedding) {
        units.push_back({.layers = {layer.layer},
                         .parameters = layer.parameters(),
                         .formats = {effect("fp16", 0.125), effect("int4_g32", 1e-3 / 3.0)}});
      }
    }
    return units;
  }

  MixedPrecisionPlan plan() const {
    MixedPrecisionPlan plan;
    plan.config.mode = QuantizationMode::DYNAMIC;
    plan.config.method = RoundingMethod::HQQ;
    for (const LayerSensitivity& unit : sensitivity()) {
      plan.config.layer_formats[unit.layers[0]] = unit.formats[plan.config.layer_formats.size() % 2].format;
    }
    return plan;
  }

  std::filesystem::path write(const nlohmann::json& document) const {
    const std::filesystem::path file = folder_.path() / "plan.json";
    testing::write_file(file, document.dump());
    return file;
  }
  nlohmann::json document() const { return nlohmann::json::parse(plan_json(plan(), sensitivity(), "model")); }

  testing::TemporaryFolder folder_;
};

TEST_F(PlanFile, BringsBackFormatsAndMeasurements) {
  const std::filesystem::path file = write(document());
  const QuantizationConfig config = read_plan(file, model());
  EXPECT_EQ(config.mode, QuantizationMode::DYNAMIC);
  EXPECT_EQ(config.method, RoundingMethod::HQQ);
  EXPECT_EQ(config.layer_formats, plan().config.layer_formats);
  const auto units = read_sensitivity(file, model());
  ASSERT_EQ(units.size(), sensitivity().size());
  for (std::size_t i = 0; i < units.size(); ++i) {
    EXPECT_EQ(units[i].layers, sensitivity()[i].layers);
    EXPECT_EQ(units[i].parameters, sensitivity()[i].parameters);
    EXPECT_EQ(units[i].formats[1].kl_divergence, 1e-3 / 3.0);
    EXPECT_EQ(units[i].formats[1].format, parse_layer_format("int4_g32"));
  }
}

TEST_F(PlanFile, FillsInTheDefault) {
  nlohmann::json edited = document();
  edited["layers"] = {{"lm_head", "FP16"}};
  testing::expect_error(ErrorCode::kBadFile, {"plan.json", "no format for 'embedding'"},
                        [&] { read_plan(write(edited), model()); });
  edited["default"] = "int8";
  const QuantizationConfig config = read_plan(write(edited), model());
  EXPECT_EQ(config.layer_formats.size(), 16U);
  EXPECT_EQ(config.layer_formats.at("lm_head"), parse_layer_format("fp16"));
  EXPECT_EQ(config.layer_formats.at("layers.1.up_proj"), parse_layer_format("int8"));
}

TEST_F(PlanFile, NamesWhatIsWrong) {
  const auto expect_bad = [&](const std::function<void(nlohmann::json&)>& edit,
                              std::initializer_list<std::string> words) {
    nlohmann::json edited = document();
    edit(edited);
    testing::expect_error(ErrorCode::kBadFile, words, [&] { read_plan(write(edited), model()); });
  };
  expect_bad([](auto& plan) { plan["format"] = "recipe"; }, {"plan.json", "not a mixed-precision plan"});
  expect_bad([](auto& plan) { plan = nlohmann::json::array(); }, {"not a mixed-precision plan"});
  expect_bad([](auto& plan) { plan["version"] = 2; }, {"version 2"});
  expect_bad([](auto& plan) { plan["layer"] = 1; }, {"'layer'"});
  expect_bad([](auto& plan) { plan.erase("mode"); }, {"'mode'"});
  expect_bad([](auto& plan) { plan["mode"] = "sometimes"; }, {"'mode'", "sometimes"});
  expect_bad([](auto& plan) { plan["method"] = 3; }, {"'method'"});
  expect_bad([](auto& plan) { plan["layers"] = "int8"; }, {"'layers'"});
  expect_bad([](auto& plan) { plan["layers"]["layers.7.q_proj"] = "int8"; }, {"layers.7.q_proj"});
  expect_bad([](auto& plan) { plan["layers"]["layers.1.q_proj"] = "int3"; }, {"layers.1.q_proj", "int3", "int4_g32"});
  expect_bad([](auto& plan) { plan["layers"]["layers.1.q_proj"] = 4; }, {"layers.1.q_proj", "4"});
  nlohmann::json without = document();
  without.erase("sensitivity");
  testing::expect_error(ErrorCode::kBadFile, {"sensitivity"}, [&] { read_sensitivity(write(without), model()); });
  nlohmann::json twice = document();
  twice["sensitivity"].push_back(twice["sensitivity"][0]);
  testing::expect_error(ErrorCode::kBadFile, {"once"}, [&] { read_sensitivity(write(twice), model()); });
  nlohmann::json broken = document();
  broken["sensitivity"][0].erase("formats");
  testing::expect_error(ErrorCode::kBadFile, {"formats"}, [&] { read_sensitivity(write(broken), model()); });
}

TEST(LayerFormat, HasANameThatReadsBack) {
  for (const LayerFormat& format : all_layer_formats()) {
    EXPECT_EQ(parse_layer_format(to_string(format)), format);
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"int4_g48", "int4_g32"}, [] { parse_layer_format("int4_g48"); });
}

}  // namespace
}  // namespace diffulex_edge
