// What a written program computes: executed by support/program_interpreter.cc, against the decoder written down
// directly with the weights that each stored format stands for.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/xnnpack_backend.h"
#include "quant/affine_scale.h"
#include "quant/kernels/kernels.h"
#include "support/program_interpreter.h"
#include "support/reference_decoder.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::Array;
using testing::reference_decoder;
using testing::ReferenceDecoder;

const std::vector<std::int64_t> kIds = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 36};

double round_to_steps(double weight, double scale, double least, double most) {
  const float steps = static_cast<float>(weight) / static_cast<float>(scale);
  return std::clamp(static_cast<double>(std::nearbyint(steps)), least, most) * scale;
}

// The numbers that `values`, stored in `format`, stand for.
Array stored(Array values, const WeightFormat& format) {
  const auto columns = static_cast<std::size_t>(values.shape.back());
  const std::size_t width =
      format.granularity == Granularity::kGroup ? static_cast<std::size_t>(format.group_size) : columns;
  for (std::size_t begin = 0; begin < values.values.size(); begin += width) {
    double* row = values.values.data() + begin;
    const float most = static_cast<float>(*std::max_element(row, row + width));
    const float least = static_cast<float>(*std::min_element(row, row + width));
    const float int4_scale = std::max(most / 7.0F, -least / 8.0F);
    for (std::size_t i = 0; i < width; ++i) {
      if (format.element == ElementType::kF16) {
        row[i] = static_cast<double>(
            kernels::scalar::f16_to_f32_one(kernels::scalar::f32_to_f16_one(static_cast<float>(row[i]))));
      } else if (format.element == ElementType::kI8) {
        row[i] = round_to_steps(row[i], static_cast<double>(std::max(most, -least) / 127.0F), -128, 127);
      } else if (format.element == ElementType::kI4) {
        const float scale = format.granularity == Granularity::kGroup
                                ? kernels::scalar::bf16_to_f32_one(kernels::scalar::f32_to_bf16_one(int4_scale))
                                : int4_scale;
        row[i] = round_to_steps(row[i], static_cast<double>(scale), -8, 7);
      }
    }
  }
  return values;
}

// The bias of a layer with static activations, which counts steps of input scale times weight scale.
Array stored_bias(Array bias, const LayerPlan& linear, const Array& weight) {
  const float input_scale = affine_scale(linear.activations.value().input, 8).scale;
  const std::size_t width = weight.values.size() / bias.values.size();
  for (std::size_t row = 0; row < bias.values.size(); ++row) {
    const auto begin = weight.values.begin() + static_cast<std::ptrdiff_t>(row * width);
    const auto [least, most] = std::minmax_element(begin, begin + static_cast<std::ptrdiff_t>(width));
    const float scale = linear.format.element == ElementType::kI8
                            ? static_cast<float>(std::max(*most, -*least)) / 127.0F
                            : std::max(static_cast<float>(*most) / 7.0F, -static_cast<float>(*least) / 8.0F);
    const double step = static_cast<double>(input_scale) * static_cast<double>(scale);
    bias.values[row] = std::nearbyint(bias.values[row] / step) * step;
  }
  return bias;
}

class ProgramLogits : public ::testing::Test {
 protected:
  // `tolerance`: of the graph's constants, which are float32 or, with FP16 activations, binary16.
  void expect_same(const ReferenceDecoder& reference, const BackendConfig& config, double tolerance = 3e-5,
                   const std::vector<std::int64_t>& all_ids = kIds) {
    testing::write_model(folder_ / "model", reference.config, reference.tensors());
    const Model model = load_model(folder_ / "model",
                                   {.seq_len = 13, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
    const ExportResult result =
        XNNPACKBackend(config).export_model(model, folder_ / "x.pte", {}, testing::wide_findings());
    ASSERT_TRUE(result.success) << result.error_message;
    auto weights = testing::arrays_of(reference.tensors());
    const auto floats = weights;
    for (const StoredLayer& layer : result.metadata.layers) {
      weights.at(layer.plan.tensor) = stored(floats.at(layer.plan.tensor), layer.plan.format);
      if (layer.plan.format.element == ElementType::kI32) {
        const auto& layers = result.metadata.layers;
        const auto linear = std::ranges::find_if(layers, [&](const StoredLayer& other) {
          return other.plan.layer == layer.plan.layer && other.plan.role == LayerRole::kLinear;
        });
        weights.at(layer.plan.tensor) =
            stored_bias(floats.at(layer.plan.tensor), linear->plan, floats.at(linear->plan.tensor));
      }
    }
    const std::string bytes = testing::read_file(folder_ / "x.pte");
    for (const std::size_t tokens : {std::size_t{1}, all_ids.size()}) {
      const std::vector<std::int64_t> ids(all_ids.begin(), all_ids.begin() + static_cast<std::ptrdiff_t>(tokens));
      const Array actual = testing::run_program(bytes, ids);
      const std::vector<double> expected = reference.logits(ids, weights);
      EXPECT_EQ(actual.shape, (std::vector<std::int64_t>{1, static_cast<std::int64_t>(tokens), reference.vocab}));
      ASSERT_EQ(actual.values.size(), expected.size());
      double worst = 0.0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double error = std::fabs(actual.values[i] - expected[i]);
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      }
      EXPECT_LT(worst, tolerance) << tokens << " tokens";
    }
  }
  static BackendConfig config(const QuantizationConfig& quantization, std::optional<ActivationDtype> activation = {}) {
    return {.quant_config = quantization, .activation_dtype = activation, .backend_options = {}};
  }
  testing::TemporaryFolder folder_;
};

using enum QuantizationDtype;
constexpr QuantizationMode kDynamic = QuantizationMode::DYNAMIC;

TEST_F(ProgramLogits, OfEveryFamilyInFp32) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      SCOPED_TRACE(std::string(family) + (tied ? ", tied" : ""));
      expect_same(reference_decoder(family, tied), config({.dtype = FP32}));
    }
  }
}

TEST_F(ProgramLogits, OfEveryFormatAreThoseOfTheStoredWeights) {
  const QuantizationConfig kFormats[] = {
      {.dtype = FP16},
      {.dtype = FP16, .embedding_dtype = FP16, .head_dtype = FP16},
      {.dtype = INT8},
      {.dtype = INT8, .embedding_dtype = INT8, .head_dtype = INT8},
      {.dtype = INT8, .mode = kDynamic, .embedding_dtype = FP16, .head_dtype = INT8},
      {.dtype = INT4},
      {.dtype = INT4, .group_size = 64, .embedding_dtype = INT4, .head_dtype = INT4},
      {.dtype = INT4, .group_size = 0, .embedding_dtype = INT8, .head_dtype = FP16},
      {.dtype = INT4, .group_size = 0, .embedding_dtype = INT4, .head_dtype = INT4},
      {.dtype = INT4, .mode = kDynamic, .group_size = 0},
  };
  for (std::size_t i = 0; i < std::size(kFormats); ++i) {
    for (const char* family : {"dream", "qwen3"}) {
      SCOPED_TRACE(std::string(family) + ", format " + std::to_string(i));
      expect_same(reference_decoder(family), config(kFormats[i]));
    }
  }
}

TEST_F(ProgramLogits, OfTiedWeightsInOneFormat) {
  for (const QuantizationDtype dtype : {FP16, INT8, INT4}) {
    SCOPED_TRACE(to_string(dtype));
    expect_same(reference_decoder("fast_dllm_v2", true),
                config({.dtype = INT8, .embedding_dtype = dtype, .head_dtype = dtype}));
  }
}

// In ranges that nothing leaves.
TEST_F(ProgramLogits, WithStaticActivations) {
  const QuantizationMode kStatic = QuantizationMode::STATIC;
  const QuantizationConfig kFormats[] = {
      {.dtype = INT8, .mode = kStatic},
      {.dtype = INT8, .mode = kStatic, .embedding_dtype = INT8, .head_dtype = INT8},
      {.dtype = INT4, .mode = kStatic, .group_size = 0, .head_dtype = INT8},
      {.dtype = FP16, .mode = kStatic, .group_size = 0, .head_dtype = INT4},
  };
  for (std::size_t i = 0; i < std::size(kFormats); ++i) {
    for (const char* family : {"dream", "qwen3"}) {
      SCOPED_TRACE(std::string(family) + ", format " + std::to_string(i));
      expect_same(reference_decoder(family), config(kFormats[i]));
      expect_same(reference_decoder(family), config(kFormats[i], ActivationDtype::FP16), 5e-3);
    }
  }
  expect_same(reference_decoder("fast_dllm_v2", true), config(kFormats[1]));
}

// Every bias that a family can have, under kernels that take it inside and under those that must not.
TEST_F(ProgramLogits, WithBiasesEverywhere) {
  ReferenceDecoder model = reference_decoder("llada");
  model.config["include_bias"] = true;
  model.config["bias_for_layer_norm"] = false;
  model.qkv_bias = model.output_bias = model.mlp_bias = model.head_bias = true;
  const QuantizationConfig kFormats[] = {{.dtype = FP32},
                                         {.dtype = FP16},
                                         {.dtype = INT8, .head_dtype = INT8},
                                         {.dtype = INT8, .mode = kDynamic, .head_dtype = INT8},
                                         {.dtype = INT8, .mode = QuantizationMode::STATIC, .head_dtype = INT8},
                                         {.dtype = INT4, .head_dtype = INT4},
                                         {.dtype = INT4, .group_size = 0, .head_dtype = INT4}};
  for (std::size_t i = 0; i < std::size(kFormats); ++i) {
    SCOPED_TRACE("format " + std::to_string(i));
    expect_same(model, config(kFormats[i]));
  }
}

TEST_F(ProgramLogits, WithFp16Activations) {
  const QuantizationConfig kFormats[] = {
      {.dtype = FP32},
      {.dtype = FP16, .embedding_dtype = FP16, .head_dtype = FP16},
      {.dtype = INT8, .mode = kDynamic},
      {.dtype = INT8, .mode = kDynamic, .embedding_dtype = INT8, .head_dtype = INT8},
      {.dtype = INT4, .embedding_dtype = INT4, .head_dtype = INT4},
  };
  for (std::size_t i = 0; i < std::size(kFormats); ++i) {
    for (const char* family : {"dream", "sdar"}) {
      SCOPED_TRACE(std::string(family) + ", format " + std::to_string(i));
      expect_same(reference_decoder(family), config(kFormats[i], ActivationDtype::FP16), 5e-3);
    }
  }
}

// Tables of more than one tile of 1 MiB: each row's scales must arrive at that row.
TEST_F(ProgramLogits, OfTablesOfSeveralTiles) {
  ReferenceDecoder model = reference_decoder("llama");
  model.vocab = 3000;
  model.config["vocab_size"] = 3000;
  const QuantizationConfig kFormats[] = {
      {.dtype = INT8, .embedding_dtype = INT4, .head_dtype = INT8},
      {.dtype = INT8, .embedding_dtype = INT8, .head_dtype = INT4},
  };
  for (const QuantizationConfig& format : kFormats) {
    expect_same(model, config(format), 3e-5, {2999, 2731, 2730, 2729, 0});
  }
}

TEST_F(ProgramLogits, WithManyKeyHeadsAndScaledRotations) {
  ReferenceDecoder model = reference_decoder("qwen3");
  model.heads = 6;
  model.kv_heads = 3;
  model.config["num_attention_heads"] = 6;
  model.config["num_key_value_heads"] = 3;
  model.config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 1.0}, {"original_max_position_embeddings", 64}, {"attention_factor", 1.3}};
  model.attention_factor = 1.3;
  expect_same(model, config({.dtype = FP32}));
}

}  // namespace
}  // namespace diffulex_edge
