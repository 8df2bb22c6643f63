#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/xnnpack_backend.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class QuantizedCheckpoint : public ::testing::Test {
 protected:
  Model quantize(const QuantizationConfig& config, bool tied = false) {
    testing::write_sdar(folder_ / "model", tied);
    testing::write_file(folder_ / "model/tokenizer.json", "{}");
    const Model model = load_model(folder_ / "model");
    write_quantized_checkpoint(model, quantize_model(model, config, findings_).plan, folder_ / "q");
    return load_model(folder_ / "q");
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()));
  }
  testing::TemporaryFolder folder_;
  CalibrationFindings findings_ = testing::wide_findings();
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

TEST_F(QuantizedCheckpoint, GivesItsSizeAndKeepsTheRestByteForByte) {
  testing::write_sdar(folder_ / "model");
  const Model model = load_model(folder_ / "model");
  std::filesystem::create_directory(folder_ / "q");  // an empty folder is taken
  const std::int64_t bytes = write_quantized_checkpoint(
      model, quantize_model(model, {.dtype = QuantizationDtype::FP16}).plan, folder_.path().string() + "/q/");
  EXPECT_EQ(bytes, static_cast<std::int64_t>(std::filesystem::file_size(folder_ / "q/model.safetensors")));
  const Checkpoint written(folder_ / "q");
  EXPECT_EQ(written.at("model.layers.0.mlp.up_proj.weight").dtype, DType::kF16);
  for (const char* name : {"lm_head.weight", "model.norm.weight", "model.layers.1.self_attn.k_norm.weight"}) {
    EXPECT_TRUE(std::ranges::equal(written.at(name).bytes, model.checkpoint->at(name).bytes)) << name;
  }
}

TEST_F(QuantizedCheckpoint, ExportsTheBytesThatTheOriginalWouldHave) {
  const QuantizationConfig kConfigs[] = {
      {.dtype = QuantizationDtype::INT8, .embedding_dtype = QuantizationDtype::INT8},
      {.dtype = QuantizationDtype::INT4, .group_size = 64, .head_dtype = QuantizationDtype::INT8},
      {.dtype = QuantizationDtype::INT4, .group_size = 0},
      {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC, .head_dtype = QuantizationDtype::INT8}};
  for (const QuantizationConfig& config : kConfigs) {
    const Model quantized = quantize(config);
    const auto export_bytes = [&](const Model& model, const QuantizationConfig& with,
                                  const CalibrationFindings& findings) {
      const ExportResult result = XNNPACKBackend({.quant_config = with, .activation_dtype = {}, .backend_options = {}})
                                      .export_model(model, folder_ / "x.pte", {}, findings);
      EXPECT_TRUE(result.success) << result.error_message;
      return testing::read_file(folder_ / "x.pte");
    };
    const std::string direct = export_bytes(load_model(folder_ / "model"), config, findings_);
    EXPECT_TRUE(export_bytes(quantized, default_quantization_config(quantized), {}) == direct);
    EXPECT_TRUE(export_bytes(quantized, config, {}) == direct);  // the request holds for what came of it
    std::filesystem::remove_all(folder_ / "q");
  }
}

TEST_F(QuantizedCheckpoint, LeavesNothingWhereAWeightIsBrokenOrTheCallerStops) {
  auto tensors = testing::qwen3_tensors(true);
  tensors[2].bytes.replace(4, 4, "\xff\xff\xff\x7f");  // a NaN
  testing::write_model(folder_ / "model", testing::transformers_config("sdar", "SDARForCausalLM"), tensors);
  const Model model = load_model(folder_ / "model");
  const auto plan = quantize_model(model, {.dtype = QuantizationDtype::INT8}).plan;
  testing::expect_error(ErrorCode::kBadFile, {"self_attn.q_proj.weight", "element [0, 1]"},
                        [&] { write_quantized_checkpoint(model, plan, folder_ / "q"); });
  EXPECT_EQ(entries(), 1U);
  std::stop_source source;
  source.request_stop();
  for (const QuantizationDtype dtype : {QuantizationDtype::FP32, QuantizationDtype::INT8}) {
    testing::expect_error(ErrorCode::kCancelled, {}, [&] {
      write_quantized_checkpoint(model, quantize_model(model, {.dtype = dtype}).plan, folder_ / "q",
                                 {.stop = source.get_token()});
    });
    EXPECT_EQ(entries(), 1U);
  }
}

TEST_F(QuantizedCheckpoint, KeepsStaticRangesToTheBit) {
  testing::Activations& activations = findings_.layers;
  activations.at("layers.0.q_proj") = {.input = {.min = -0.1F, .max = 1.0F / 3.0F},
                                       .output = {.min = -3.4028235e38F, .max = 1e-45F}};
  const Model model = quantize(
      {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC, .head_dtype = QuantizationDtype::INT8});
  const QuantizationConfig config = default_quantization_config(model);
  EXPECT_EQ(config.mode, QuantizationMode::STATIC);
  const QuantizationPlan plan = quantize_model(model, config).plan;
  EXPECT_EQ(plan.findings.layers, activations);
  EXPECT_EQ(plan.at("lm_head", "lm_head.weight").activations, activations.at("lm_head"));
}

TEST_F(QuantizedCheckpoint, HasNoRangesInOtherModes) {
  const Model model = quantize({.dtype = QuantizationDtype::INT8});
  EXPECT_TRUE(model.stored_quantization.value().activations.empty());
  EXPECT_EQ(testing::read_file(folder_ / "q/config.json").find("activations"), std::string::npos);
}

TEST_F(QuantizedCheckpoint, ReadsStaticRangesStrictly) {
  quantize({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC});
  const nlohmann::json written = nlohmann::json::parse(testing::read_file(folder_ / "q/config.json"));
  const auto expect_refused = [&](const nlohmann::json& activations, const std::string& word) {
    nlohmann::json config = written;
    config["quantization_config"]["activations"] = activations;
    testing::write_file(folder_ / "q/config.json", config.dump());
    testing::expect_error(ErrorCode::kBadFile, {"config.json", "activations", word},
                          [&] { load_model(folder_ / "q"); });
  };
  const nlohmann::json good = written["quantization_config"]["activations"];
  expect_refused(nlohmann::json::array(), "object");
  const auto with = [&](const char* layer, const nlohmann::json& value) {
    nlohmann::json changed = good;
    changed[layer] = value;
    return changed;
  };
  expect_refused(with("layers.2.q_proj", good["lm_head"]), "layers.2.q_proj");
  expect_refused(with("embedding", good["lm_head"]), "embedding");
  const nlohmann::json range = {-1.0, 1.0};
  for (const nlohmann::json& value :
       {nlohmann::json(nullptr), nlohmann::json(1), nlohmann::json{{"input", range}},
        nlohmann::json{{"input", range}, {"output", range}, {"other", range}},
        nlohmann::json{{"input", range}, {"output", {1.0, -1.0}}}, nlohmann::json{{"input", range}, {"output", {1.0}}},
        nlohmann::json{{"input", {-1.0, 1.0, 2.0}}, {"output", range}},
        nlohmann::json{{"input", {"-1", 1.0}}, {"output", range}},
        nlohmann::json{{"input", {-1.0, 3.5e38}}, {"output", range}}, nlohmann::json{{"input", 1.0}, {"output", range}},
        nlohmann::json{{"input", {{"min", -1.0}, {"max", 1.0}}}, {"output", range}}}) {
    expect_refused(with("layers.0.q_proj", value), "layers.0.q_proj");
  }
}

TEST_F(QuantizedCheckpoint, WarnsThatAnExcludedLayerStaysQuantized) {
  const Model stored = quantize({.dtype = QuantizationDtype::INT8});
  QuantizationConfig config = default_quantization_config(stored);
  config.exclude_layers.emplace_back("q_proj");
  EXPECT_EQ(quantize_model(stored, config).warnings.size(), 2U);
}

}  // namespace
}  // namespace diffulex_edge
