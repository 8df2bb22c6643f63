// Plans for every family's own tensor names, and the corners of the configuration.

#include <gtest/gtest.h>

#include <algorithm>

#include "diffulex_edge/quantization.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/reference_decoder.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::ReferenceDecoder;

class PlanFamilies : public ::testing::Test {
 protected:
  Model load(const ReferenceDecoder& reference) {
    testing::write_model(folder_.path(), reference.config, reference.tensors());
    return load_model(folder_.path());
  }
  static const LayerPlan& layer(const QuantizationResult& result, const std::string& name,
                                LayerRole role = LayerRole::kLinear) {
    return *std::ranges::find_if(result.plan.layers, [&](const LayerPlan& candidate) {
      return candidate.layer == name && (candidate.role == role || candidate.role == LayerRole::kEmbedding);
    });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(PlanFamilies, CallTheHeadLmHeadInEveryFamily) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      SCOPED_TRACE(std::string(family) + (tied ? ", tied" : ""));
      const Model model = load(testing::reference_decoder(family, tied));
      const auto result = quantize_model(model, {.dtype = QuantizationDtype::INT8});
      EXPECT_TRUE(layer(result, "lm_head").excluded);
      EXPECT_TRUE(layer(result, "embedding").excluded);
      EXPECT_EQ(layer(result, "lm_head").tensor == layer(result, "embedding").tensor, tied);
      EXPECT_EQ(layer(result, "layers.1.down_proj").format, int8_per_channel());
      EXPECT_TRUE(result.warnings.empty());
      const auto head =
          quantize_model(model, {.dtype = QuantizationDtype::INT8, .head_dtype = QuantizationDtype::INT8});
      EXPECT_EQ(layer(head, "lm_head").format, int8_per_channel());
      EXPECT_EQ(layer(head, "embedding").format, float_format(ElementType::kF32));
    }
  }
}

TEST_F(PlanFamilies, MatchPatternsAgainstTheFilesNamesToo) {
  const Model model = load(testing::reference_decoder("llada"));
  const auto result = quantize_model(model, {.dtype = QuantizationDtype::INT8, .exclude_layers = {"FF_OUT"}});
  EXPECT_TRUE(layer(result, "lm_head").excluded);  // model.transformer.ff_out
  EXPECT_TRUE(layer(result, "layers.0.down_proj").excluded);
  EXPECT_FALSE(layer(result, "layers.0.o_proj").excluded);
  EXPECT_FALSE(layer(result, "embedding").excluded);
  const auto by_block = quantize_model(model, {.dtype = QuantizationDtype::INT8, .exclude_layers = {"Blocks.1."}});
  EXPECT_FALSE(layer(by_block, "layers.0.q_proj").excluded);
  EXPECT_TRUE(layer(by_block, "layers.1.q_proj").excluded);
}

TEST_F(PlanFamilies, KeepBiasesAndNormsInFp32) {
  const Model model = load(testing::reference_decoder("dream"));
  for (const QuantizationDtype dtype : {QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const auto result = quantize_model(model, {.dtype = dtype, .exclude_layers = {}});
    int biases = 0;
    int norms = 0;
    for (const LayerPlan& plan : result.plan.layers) {
      biases += plan.role == LayerRole::kBias ? 1 : 0;
      norms += plan.role == LayerRole::kNorm ? 1 : 0;
      if (plan.role == LayerRole::kBias || plan.role == LayerRole::kNorm) {
        EXPECT_EQ(plan.format, float_format(ElementType::kF32)) << plan.tensor;
        EXPECT_FALSE(plan.excluded);
      } else {
        EXPECT_NE(plan.format, float_format(ElementType::kF32)) << plan.tensor;
      }
    }
    EXPECT_EQ(biases, 2 * 3);
    EXPECT_EQ(norms, 2 * 2 + 1);
  }
}

TEST_F(PlanFamilies, HaveOneEntryForEachUseOfATensor) {
  const auto tied = quantize_model(load(testing::reference_decoder("sdar", true)), {.dtype = QuantizationDtype::INT8});
  const auto untied = quantize_model(load(testing::reference_decoder("sdar")), {.dtype = QuantizationDtype::INT8});
  EXPECT_EQ(tied.plan.layers.size(), untied.plan.layers.size());
  EXPECT_EQ(tied.parameters, untied.parameters - 37 * 96);
  EXPECT_EQ(planned_bytes(tied.plan), planned_bytes(untied.plan) - 4 * 37 * 96);
  EXPECT_DOUBLE_EQ(tied.original_memory_mb, 4.0 * static_cast<double>(tied.parameters) / 1e6);
  EXPECT_DOUBLE_EQ(tied.quantized_memory_mb, static_cast<double>(planned_bytes(tied.plan)) / 1e6);
}

TEST_F(PlanFamilies, FallBackToTheNextSmallerGroupLayerByLayer) {
  // Inputs: 96 = 3 * 32, 160 = 5 * 32, and 192 = 3 * 64 for o_proj.
  const Model model = load(testing::reference_decoder("qwen3"));
  const auto result = quantize_model(model, {.dtype = QuantizationDtype::INT4, .group_size = 256});
  EXPECT_EQ(layer(result, "layers.0.q_proj").format.group_size, 32);
  EXPECT_EQ(layer(result, "layers.0.o_proj").format.group_size, 64);
  EXPECT_EQ(layer(result, "layers.0.down_proj").format.group_size, 32);
  EXPECT_EQ(result.warnings.size(), 2U * 7);
  EXPECT_NE(std::ranges::find_if(result.warnings,
                                 [](const std::string& warning) {
                                   return warning.find("layers.1.o_proj") != std::string::npos &&
                                          warning.find("256") != std::string::npos &&
                                          warning.find("192") != std::string::npos &&
                                          warning.find("groups of 64") != std::string::npos;
                                 }),
            result.warnings.end());
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.q_proj", "groups of 256", "96"}, [&] {
    quantize_model(model, {.dtype = QuantizationDtype::INT4, .group_size = 256, .strict_group_size = true});
  });
  EXPECT_TRUE(quantize_model(model, {.dtype = QuantizationDtype::INT4, .group_size = 32, .strict_group_size = true})
                  .warnings.empty());
}

TEST_F(PlanFamilies, RefuseOtherGroupSizesWhateverTheDtype) {
  const Model model = load(testing::reference_decoder("qwen3"));
  for (const std::int64_t size : {-32, 1, 16, 31, 33, 96, 512, 1 << 30}) {
    for (const QuantizationDtype dtype : {QuantizationDtype::INT4, QuantizationDtype::INT8}) {
      testing::expect_error(ErrorCode::kInvalidArgument, {"group size", std::to_string(size)},
                            [&] { quantize_model(model, {.dtype = dtype, .group_size = size}); });
    }
  }
}

// Activations stay as they are where the weights do.
TEST_F(PlanFamilies, IgnoreTheModeOfFloatingPointWeights) {
  const Model model = load(testing::reference_decoder("qwen3"));
  for (const QuantizationDtype dtype : {QuantizationDtype::FP32, QuantizationDtype::FP16}) {
    const auto result = quantize_model(
        model, {.dtype = dtype, .mode = QuantizationMode::STATIC, .embedding_dtype = QuantizationDtype::INT8},
        testing::wide_findings());
    EXPECT_TRUE(
        std::ranges::none_of(result.plan.layers, [](const LayerPlan& layer) { return layer.activations.has_value(); }));
  }
}

TEST_F(PlanFamilies, GiveEveryQuantizedLinearLayerItsActivations) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    const Model model = load(testing::reference_decoder(family));
    testing::Activations activations = testing::wide_activations();
    activations.at("layers.1.k_proj").input.max = 7.0F;
    const auto result = quantize_model(model,
                                       {.dtype = QuantizationDtype::INT8,
                                        .mode = QuantizationMode::STATIC,
                                        .embedding_dtype = QuantizationDtype::INT8,
                                        .head_dtype = QuantizationDtype::INT8},
                                       {.layers = activations});
    for (const LayerPlan& layer : result.plan.layers) {
      if (layer.role == LayerRole::kLinear) {
        EXPECT_EQ(layer.activations, activations.at(layer.layer)) << family << ' ' << layer.layer;
      } else {
        EXPECT_FALSE(layer.activations.has_value()) << family << ' ' << layer.layer;
      }
    }
  }
}

TEST_F(PlanFamilies, SayWhatTheyDoNotHave) {
  const auto result = quantize_model(load(testing::reference_decoder("qwen3")), {});
  EXPECT_EQ(result.plan.at("layers.0.q_proj", "model.layers.0.self_attn.q_proj.weight").rows, 192);
  testing::expect_error(ErrorCode::kInternal, {"layers.0.q_proj", "nope"},
                        [&] { static_cast<void>(result.plan.at("layers.0.q_proj", "nope")); });
}

TEST_F(PlanFamilies, WarnAboutPatternsThatMatchNothing) {
  const Model model = load(testing::reference_decoder("qwen3"));
  const auto result = quantize_model(
      model, {.dtype = QuantizationDtype::INT8, .exclude_layers = {"", "layers.2.", "q_proj", "lm_head"}});
  ASSERT_EQ(result.warnings.size(), 2U);
  EXPECT_NE(result.warnings[0].find("''"), std::string::npos);
  EXPECT_NE(result.warnings[1].find("'layers.2.'"), std::string::npos);
  EXPECT_FALSE(layer(result, "layers.0.k_proj").excluded);  // an empty pattern matches nothing
}

TEST(QuantizationSpellings, RoundTrip) {
  for (const QuantizationDtype dtype :
       {QuantizationDtype::FP32, QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    EXPECT_EQ(parse_quantization_dtype(to_string(dtype)), dtype);
  }
  for (const QuantizationMode mode :
       {QuantizationMode::DYNAMIC, QuantizationMode::STATIC, QuantizationMode::WEIGHT_ONLY}) {
    EXPECT_EQ(parse_quantization_mode(to_string(mode)), mode);
  }
  for (const char* text : {"", "int", "int8 ", "INT-8", "weight-only"}) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"dtype"}, [&] { parse_quantization_dtype(text); });
    testing::expect_error(ErrorCode::kInvalidArgument, {"mode"}, [&] { parse_quantization_mode(text); });
  }
  EXPECT_EQ(to_string(LayerRole::kLinear), "linear");
  EXPECT_EQ(to_string(LayerRole::kEmbedding), "embedding");
  EXPECT_EQ(to_string(LayerRole::kNorm), "norm");
  EXPECT_EQ(to_string(LayerRole::kBias), "bias");
}

TEST(QuantizationSizes, OfNothingAreNoDivisionByZero) {
  const QuantizationResult empty;
  EXPECT_EQ(empty.memory_reduction_pct(), 0.0);
  EXPECT_EQ(empty.compression_ratio(), 1.0);
}

// --- Quantized checkpoints of every family.

TEST_F(PlanFamilies, ReadBackWhatQuantizeWrote) {
  for (const char* family : {"llada", "dream", "sdar", "llama"}) {
    for (const bool tied : {false, true}) {
      for (const QuantizationDtype dtype :
           {QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
        SCOPED_TRACE(std::string(family) + (tied ? ", tied, " : ", ") + std::string(to_string(dtype)));
        const Model model = load(testing::reference_decoder(family, tied));
        const auto plan = quantize_model(model, {.dtype = dtype}).plan;
        const testing::TemporaryFolder target;
        const std::int64_t bytes = write_quantized_checkpoint(model, plan, target / "q", {.threads = 2});
        EXPECT_EQ(static_cast<std::uintmax_t>(bytes), std::filesystem::file_size(target / "q/model.safetensors"));
        const Model again = load_model(target / "q");
        const auto second = quantize_model(again, default_quantization_config(again)).plan;
        ASSERT_EQ(second.layers.size(), plan.layers.size());
        for (std::size_t i = 0; i < plan.layers.size(); ++i) {
          EXPECT_EQ(second.layers[i].format, plan.layers[i].format) << plan.layers[i].layer;
          EXPECT_EQ(second.layers[i].tensor, plan.layers[i].tensor);
        }
        EXPECT_EQ(planned_bytes(second), planned_bytes(plan));
      }
    }
  }
}

TEST_F(PlanFamilies, QuantizedCheckpointsDoNotDependOnThreads) {
  const Model model = load(testing::reference_decoder("qwen3"));
  const auto plan = quantize_model(model, {.dtype = QuantizationDtype::INT4}).plan;
  const testing::TemporaryFolder target;
  write_quantized_checkpoint(model, plan, target / "1", {.threads = 1});
  write_quantized_checkpoint(model, plan, target / "4", {.threads = 4});
  EXPECT_EQ(testing::read_file(target / "1/model.safetensors"), testing::read_file(target / "4/model.safetensors"));
  EXPECT_EQ(testing::read_file(target / "1/config.json"), testing::read_file(target / "4/config.json"));
}

TEST_F(PlanFamilies, QuantizingAQuantizedCheckpointCopiesIt) {
  for (const QuantizationDtype dtype : {QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const Model model = load(testing::reference_decoder("dream"));
    const testing::TemporaryFolder target;
    write_quantized_checkpoint(model, quantize_model(model, {.dtype = dtype}).plan, target / "1");
    const Model once = load_model(target / "1");
    write_quantized_checkpoint(once, quantize_model(once, default_quantization_config(once)).plan, target / "2");
    EXPECT_EQ(testing::read_file(target / "1/model.safetensors"), testing::read_file(target / "2/model.safetensors"))
        << to_string(dtype);
  }
}

TEST_F(PlanFamilies, AStoredNoteOfAnotherSpellingIsABadFile) {
  ReferenceDecoder reference = testing::reference_decoder("qwen3");
  for (const auto& [key, value] :
       {std::pair{"dtype", "int3"}, {"mode", "sometimes"}, {"embedding_dtype", "fp8"}, {"head_dtype", ""}}) {
    nlohmann::json note = {{"quant_method", "diffulex_edge"}, {"dtype", "int8"}, {"mode", "dynamic"}};
    note[key] = value;
    reference.config["quantization_config"] = note;
    const Model model = load(reference);
    testing::expect_error(ErrorCode::kBadFile, {"config.json", "'quantization_config'"},
                          [&] { default_quantization_config(model); });
  }
}

}  // namespace
}  // namespace diffulex_edge
