#include "diffulex_edge/sensitivity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "diffulex_edge/runtime.h"
#include "quant/layer_formats.h"
#include "support/expect_error.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kVocab = 50;

CalibrationData some_data() {
  CalibrationData data;
  for (std::int64_t sequence = 0; sequence < 3; ++sequence) {
    std::vector<std::int64_t> tokens;
    std::vector<bool> counts;
    for (std::int64_t i = 0; i < 7 + sequence; ++i) {
      tokens.push_back((i * 13 + sequence * 5) % static_cast<std::int64_t>(kVocab));
      counts.push_back(i % 2 == sequence % 2);
    }
    data.masked.emplace_back(tokens.size(), false);
    data.inputs.push_back(std::move(tokens));
    data.counts.push_back(std::move(counts));
  }
  return data;
}

double log_sum_exp(std::span<const float> logits) {
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit));
  }
  return std::log(sum);
}

// KL(float32 || planned) from the logits of the whole model, in double precision.
double divergence_of(const Model& model, const QuantizationPlan& plan, const CalibrationData& data) {
  const auto original = forward(model, data.inputs);
  const auto planned = forward(model, data.inputs, &plan);
  double sum = 0.0;
  double count = 0.0;
  for (std::size_t i = 0; i < data.inputs.size(); ++i) {
    for (std::size_t position = 0; position < data.inputs[i].size(); ++position) {
      if (!data.counts[i][position]) {
        continue;
      }
      const std::span<const float> p = std::span(original[i]).subspan(position * kVocab, kVocab);
      const std::span<const float> q = std::span(planned[i]).subspan(position * kVocab, kVocab);
      const double lse_p = log_sum_exp(p);
      const double lse_q = log_sum_exp(q);
      for (std::size_t token = 0; token < kVocab; ++token) {
        const double log_p = static_cast<double>(p[token]) - lse_p;
        sum += std::exp(log_p) * (log_p - static_cast<double>(q[token]) + lse_q);
      }
      count += 1.0;
    }
  }
  return sum / count;
}

class Sensitivity : public ::testing::Test {
 protected:
  explicit Sensitivity(bool tied = false) {
    testing::write_sdar(folder_.path(), tied);
    model_ = load_model(folder_.path());
  }

  QuantizationConfig open_config(QuantizationMode mode = QuantizationMode::WEIGHT_ONLY) const {
    QuantizationConfig config{.mode = mode};
    config.exclude_layers.clear();
    return config;
  }

  // `format` for the unit's layers and FP32 for the others.
  QuantizationPlan alone(const QuantizationConfig& config, const std::vector<LayerSensitivity>& units,
                         const LayerSensitivity& unit, const LayerFormat& format) const {
    QuantizationConfig mixed = config;
    for (const LayerSensitivity& other : units) {
      for (const std::string& layer : other.layers) {
        mixed.layer_formats[layer] = other.layers == unit.layers ? format : LayerFormat{};
      }
    }
    return quantize_model(model_, mixed, testing::wide_findings()).plan;
  }

  testing::TemporaryFolder folder_;
  Model model_;
};

class TiedSensitivity : public Sensitivity {
 protected:
  TiedSensitivity() : Sensitivity(true) {}
};

TEST_F(Sensitivity, IsThatOfTheWholeModelWithOneLayerQuantized) {
  const CalibrationData data = some_data();
  for (const QuantizationMode mode :
       {QuantizationMode::WEIGHT_ONLY, QuantizationMode::DYNAMIC, QuantizationMode::STATIC}) {
    const QuantizationConfig config = open_config(mode);
    const SensitivityRequest request{.config = config, .findings = testing::wide_findings()};
    const auto units = measure_sensitivity(model_, request, data, all_layer_formats());
    ASSERT_EQ(units.size(), 16U);  // two layers of seven, embedding, head
    for (const LayerSensitivity& unit : units) {
      const auto measured = std::ranges::count(unit.formats, true, &FormatEffect::measured);
      const bool is_table = unit.layers[0] == "embedding" || unit.layers[0] == "lm_head";
      EXPECT_EQ(measured, is_table ? static_cast<std::ptrdiff_t>(unit.formats.size()) : 1) << unit.layers[0];
      for (const FormatEffect& effect : unit.formats) {
        if (effect.measured) {
          const double expected = divergence_of(model_, alone(config, units, unit, effect.format), data);
          EXPECT_NEAR(effect.kl_divergence, expected, 1e-6 + 1e-3 * expected)
              << unit.layers[0] << " " << to_string(effect.format);
        }
      }
    }
  }
}

TEST_F(Sensitivity, OfOtherFormatsFollowsTheirOutputErrors) {
  const CalibrationData data = some_data();
  const auto units = measure_sensitivity(model_, {.config = open_config()}, data, all_layer_formats());
  const auto& unit =
      *std::ranges::find(units, std::vector<std::string>{"layers.1.gate_proj"}, &LayerSensitivity::layers);
  std::vector<std::string> names;
  for (const FormatEffect& effect : unit.formats) {
    names.push_back(to_string(effect.format));
    EXPECT_GE(effect.kl_divergence, 0.0);
  }
  // 64 columns: larger groups do not divide them.
  EXPECT_EQ(names, (std::vector<std::string>{"fp32", "fp16", "int8", "palette8", "palette6", "int4_g32", "int4_g64",
                                             "int4_channel", "palette4", "palette3", "palette2", "palette1"}));
  EXPECT_EQ(unit.formats[0].output_error, 0.0);
  EXPECT_LT(unit.formats[1].output_error.value(), unit.formats[2].output_error.value());
  EXPECT_LT(unit.formats[2].output_error.value(), unit.formats[5].output_error.value());
  for (std::size_t i = 8; i + 1 < names.size(); ++i) {
    EXPECT_LT(unit.formats[i].output_error.value(), unit.formats[i + 1].output_error.value()) << names[i];
  }
  EXPECT_LT(unit.formats[3].output_error.value(), unit.formats[4].output_error.value());
  // Whatever was scaled from one format is near what another one measures.
  for (const FormatEffect& effect : unit.formats) {
    if (effect.format.dtype == QuantizationDtype::INT4) {
      const double expected = divergence_of(model_, alone(open_config(), units, unit, effect.format), data);
      EXPECT_GT(effect.kl_divergence, 0.3 * expected) << to_string(effect.format);
      EXPECT_LT(effect.kl_divergence, 3.0 * expected) << to_string(effect.format);
    }
  }
}

TEST_F(Sensitivity, DoesNotDependOnTheNumberOfThreads) {
  const CalibrationData data = some_data();
  const auto one = measure_sensitivity(model_, {.config = open_config()}, data, all_layer_formats(), {.threads = 1});
  const auto three = measure_sensitivity(model_, {.config = open_config()}, data, all_layer_formats(), {.threads = 3});
  for (std::size_t i = 0; i < one.size(); ++i) {
    for (std::size_t j = 0; j < one[i].formats.size(); ++j) {
      EXPECT_EQ(one[i].formats[j].kl_divergence, three[i].formats[j].kl_divergence) << one[i].layers[0];
      EXPECT_EQ(one[i].formats[j].output_error, three[i].formats[j].output_error) << one[i].layers[0];
    }
  }
}

TEST_F(Sensitivity, KeepsWhatIsSettled) {
  QuantizationConfig config = open_config();
  config.exclude_layers = {"layers.0."};
  config.embedding_dtype = QuantizationDtype::FP16;
  config.head_dtype = QuantizationDtype::INT4;
  const auto units = measure_sensitivity(model_, {.config = config}, some_data(), all_layer_formats());
  for (const LayerSensitivity& unit : units) {
    const std::string& layer = unit.layers[0];
    if (layer.starts_with("layers.1.")) {
      EXPECT_GT(unit.formats.size(), 1U) << layer;
      continue;
    }
    ASSERT_EQ(unit.formats.size(), 1U) << layer;
    const std::string expected = layer == "embedding" ? "fp16" : layer == "lm_head" ? "int4_g32" : "fp32";
    EXPECT_EQ(to_string(unit.formats[0].format), expected) << layer;
  }
}

TEST_F(TiedSensitivity, TakesEmbeddingAndHeadTogether) {
  const CalibrationData data = some_data();
  const auto units = measure_sensitivity(model_, {.config = open_config()}, data, all_layer_formats());
  ASSERT_EQ(units.size(), 15U);
  const auto& table =
      *std::ranges::find_if(units, [](const LayerSensitivity& unit) { return unit.layers.size() == 2; });
  EXPECT_EQ(table.layers, (std::vector<std::string>{"embedding", "lm_head"}));
  for (const FormatEffect& effect : table.formats) {
    const double expected = divergence_of(model_, alone(open_config(), units, table, effect.format), data);
    EXPECT_NEAR(effect.kl_divergence, expected, 1e-6 + 1e-3 * expected) << to_string(effect.format);
  }
  QuantizationConfig config = open_config();
  config.embedding_dtype = QuantizationDtype::INT8;
  config.head_dtype = QuantizationDtype::FP16;
  testing::expect_error(ErrorCode::kInvalidArgument, {"embed_tokens", "share"},
                        [&] { measure_sensitivity(model_, {.config = config}, data, all_layer_formats()); });
}

TEST_F(Sensitivity, RefusesWhatItCantMeasure) {
  QuantizationConfig config = open_config();
  config.method = RoundingMethod::GPTQ;
  testing::expect_error(ErrorCode::kInvalidArgument, {"gptq"},
                        [&] { measure_sensitivity(model_, {.config = config}, some_data(), all_layer_formats()); });
  CalibrationData nothing = some_data();
  for (auto& counts : nothing.counts) {
    counts.assign(counts.size(), false);
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"no position"},
                        [&] { measure_sensitivity(model_, {.config = open_config()}, nothing, all_layer_formats()); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"none of the formats"}, [&] {
    measure_sensitivity(model_, {.config = open_config()}, some_data(), {parse_layer_format("int4_g256")});
  });
}

TEST_F(Sensitivity, OfAPlanIsThatOfTheWholeModel) {
  const CalibrationData data = some_data();
  QuantizationConfig config{.dtype = QuantizationDtype::INT4};
  const QuantizationPlan plan = quantize_model(model_, config).plan;
  const double expected = divergence_of(model_, plan, data);
  EXPECT_GT(expected, 0.0);
  EXPECT_NEAR(measure_divergence(model_, plan, data), expected, 1e-3 * expected);
}

}  // namespace
}  // namespace diffulex_edge
