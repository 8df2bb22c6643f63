// Rotary frequencies against the definitions, written down once more from the papers and the reference code, and the
// keys that choose among them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "diffulex_edge/model.h"
#include "models/rope.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

double plain(double theta, std::int64_t i, std::int64_t dim) {
  return 1.0 / std::pow(theta, static_cast<double>(2 * i) / static_cast<double>(dim));
}

void expect_frequencies(const RopeConfig& rope, std::int64_t dim,
                        double (*formula)(const RopeConfig&, double, double, double)) {
  const std::vector<float> actual = rope_inverse_frequencies(rope, dim);
  ASSERT_EQ(actual.size(), static_cast<std::size_t>(dim / 2));
  for (std::int64_t i = 0; i < dim / 2; ++i) {
    const double expected = formula(rope, plain(rope.theta, i, dim), static_cast<double>(i), static_cast<double>(dim));
    EXPECT_NEAR(actual[static_cast<std::size_t>(i)] / expected, 1.0, 1e-6)
        << "theta " << rope.theta << ", " << i << " of " << dim;
  }
}

TEST(RopeFormulas, DefaultAndLinear) {
  for (const double theta : {10'000.0, 500'000.0, 1'000'000.0}) {
    for (const std::int64_t dim : {2, 6, 64, 128, 256}) {
      expect_frequencies({.theta = theta}, dim, [](const RopeConfig&, double f, double, double) { return f; });
      expect_frequencies({.theta = theta, .type = RopeConfig::Type::kLinear, .factor = 2.5}, dim,
                         [](const RopeConfig& rope, double f, double, double) { return f / rope.factor; });
    }
  }
}

// Llama 3.1's apply_scaling.
TEST(RopeFormulas, Llama3) {
  const auto formula = [](const RopeConfig& rope, double f, double, double) {
    const double wavelength = 2.0 * std::numbers::pi / f;
    const auto context = static_cast<double>(rope.original_max_positions);
    if (wavelength < context / rope.high_freq_factor) {
      return f;
    }
    if (wavelength > context / rope.low_freq_factor) {
      return f / rope.factor;
    }
    const double smooth =
        (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    return (1.0 - smooth) * f / rope.factor + smooth * f;
  };
  for (const double low : {1.0, 2.0}) {
    for (const std::int64_t context : {64, 8192}) {
      expect_frequencies({.theta = 500'000.0,
                          .type = RopeConfig::Type::kLlama3,
                          .factor = 8.0,
                          .original_max_positions = context,
                          .low_freq_factor = low,
                          .high_freq_factor = 6.0},
                         128, formula);
    }
  }
}

// YaRN, "NTK-by-parts": transformers' _compute_yarn_parameters.
TEST(RopeFormulas, Yarn) {
  const auto formula = [](const RopeConfig& rope, double f, double i, double dim) {
    const auto correction = [&](double rotations) {
      return dim * std::log(static_cast<double>(rope.original_max_positions) / (rotations * 2.0 * std::numbers::pi)) /
             (2.0 * std::log(rope.theta));
    };
    double low = correction(rope.beta_fast);
    double high = correction(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    high += low == high ? 0.001 : 0.0;
    const double ramp = std::min(1.0, std::max(0.0, (i - low) / (high - low)));
    const double extrapolation = 1.0 - ramp;
    return f / rope.factor * (1.0 - extrapolation) + f * extrapolation;
  };
  for (const bool truncate : {true, false}) {
    for (const std::int64_t context : {16, 64, 2048, 32'768}) {  // 16: the ramp begins below dimension 0
      for (const std::int64_t dim : {8, 64, 128}) {
        expect_frequencies({.theta = 10'000.0,
                            .type = RopeConfig::Type::kYarn,
                            .factor = 4.0,
                            .original_max_positions = context,
                            .beta_fast = 32.0,
                            .beta_slow = 1.0,
                            .truncate = truncate},
                           dim, formula);
      }
    }
  }
  // A context so long that the ramp ends in the upper half, or would end beyond the last dimension.
  for (const double theta : {10'000.0, 100.0}) {
    expect_frequencies(
        {.theta = theta, .type = RopeConfig::Type::kYarn, .factor = 4.0, .original_max_positions = 1'000'000}, 64,
        formula);
  }
  expect_frequencies({.theta = 10'000.0,
                      .type = RopeConfig::Type::kYarn,
                      .factor = 4.0,
                      .original_max_positions = 2048,
                      .beta_fast = 8.0,
                      .beta_slow = 8.0,
                      .truncate = false},  // a ramp of no width
                     64, formula);
}

// Three values of Qwen's documented configuration, computed by hand: dim 128, theta 10^6, 32768 positions, factor 4.
TEST(RopeFormulas, YarnOfQwenByHand) {
  const RopeConfig rope{.theta = 1e6, .type = RopeConfig::Type::kYarn, .factor = 4.0, .original_max_positions = 32'768};
  const std::vector<float> f = rope_inverse_frequencies(rope, 128);
  // c(32) = 128 ln(32768 / 201.06) / (2 ln 10^6) = 23.6; c(1) = 128 ln(32768 / 6.2832) / 27.631 = 39.65: ramp 23..40.
  EXPECT_FLOAT_EQ(f[23], static_cast<float>(std::pow(1e6, -46.0 / 128.0)));
  EXPECT_FLOAT_EQ(f[40], static_cast<float>(std::pow(1e6, -80.0 / 128.0) / 4.0));
  EXPECT_FLOAT_EQ(f[30], static_cast<float>(std::pow(1e6, -60.0 / 128.0) * (10.0 / 17.0 + 7.0 / 17.0 / 4.0)));
}

class RopeKeys : public ::testing::Test {
 protected:
  RopeConfig read(const Json& changes) {
    Json config = testing::transformers_config("qwen3", "Qwen3ForCausalLM");
    config["max_position_embeddings"] = 4096;
    config["rope_theta"] = 5000.0;
    config.merge_patch(changes);
    testing::write_file(folder_ / "config.json", config.dump());
    return read_model_config(folder_.path()).rope;
  }
  void expect_refused(ErrorCode code, const Json& changes, const std::string& key) {
    SCOPED_TRACE(changes.dump());
    testing::expect_error(code, {"config.json", "'" + key + "'"}, [&] { read(changes); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(RopeKeys, TheInnermostBaseCounts) {
  EXPECT_EQ(read(Json::object()).theta, 5000.0);
  EXPECT_EQ(read({{"rope_parameters", {{"rope_theta", 7.0}}}}).theta, 7.0);
  EXPECT_EQ(read({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 9.0}}}}).theta, 9.0);
  EXPECT_EQ(read({{"rope_parameters", {{"rope_type", "default"}}}}).theta, 5000.0);
}

TEST_F(RopeKeys, TheTypeHasTwoSpellings) {
  EXPECT_EQ(read({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2}}}}).type, RopeConfig::Type::kLinear);
  EXPECT_EQ(read({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}).type, RopeConfig::Type::kLinear);
  EXPECT_EQ(read({{"rope_scaling", {{"type", "mrope"}, {"rope_type", "default"}}}}).type, RopeConfig::Type::kDefault);
  EXPECT_EQ(read({{"rope_scaling", Json::object()}}).type, RopeConfig::Type::kDefault);
}

TEST_F(RopeKeys, Llama3IsReadWhole) {
  const RopeConfig rope = read({{"rope_scaling",
                                 {{"rope_type", "llama3"},
                                  {"factor", 32.0},
                                  {"low_freq_factor", 2.0},
                                  {"high_freq_factor", 5.0},
                                  {"original_max_position_embeddings", 8192}}}});
  EXPECT_EQ(rope.type, RopeConfig::Type::kLlama3);
  EXPECT_EQ(rope.factor, 32.0);
  EXPECT_EQ(rope.low_freq_factor, 2.0);
  EXPECT_EQ(rope.high_freq_factor, 5.0);
  EXPECT_EQ(rope.original_max_positions, 8192);
}

TEST_F(RopeKeys, YarnIsReadWholeAndHasItsDefaults) {
  const RopeConfig whole = read({{"rope_scaling",
                                  {{"rope_type", "yarn"},
                                   {"factor", 8.0},
                                   {"original_max_position_embeddings", 512},
                                   {"beta_fast", 16.0},
                                   {"beta_slow", 2.0},
                                   {"truncate", false},
                                   {"attention_factor", 1.5}}}});
  EXPECT_EQ(whole.type, RopeConfig::Type::kYarn);
  EXPECT_EQ(whole.beta_fast, 16.0);
  EXPECT_EQ(whole.beta_slow, 2.0);
  EXPECT_FALSE(whole.truncate);
  EXPECT_EQ(whole.attention_factor, 1.5);
  EXPECT_EQ(whole.original_max_positions, 512);
  const RopeConfig bare = read({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 8.0}}}});
  EXPECT_EQ(bare.beta_fast, 32.0);
  EXPECT_EQ(bare.beta_slow, 1.0);
  EXPECT_TRUE(bare.truncate);
  EXPECT_EQ(bare.original_max_positions, 4096);
}

TEST_F(RopeKeys, YarnsAttentionFactorFollowsItsRule) {
  const auto factor = [&](const Json& more) {
    Json scaling = {{"rope_type", "yarn"}, {"factor", 8.0}};
    scaling.update(more);
    return read({{"rope_scaling", scaling}}).attention_factor;
  };
  const auto g = [](double scale) { return 0.1 * scale * std::log(8.0) + 1.0; };
  EXPECT_NEAR(factor(Json::object()), g(1.0), 1e-12);
  EXPECT_NEAR(factor({{"mscale", 2.0}}), g(1.0), 1e-12);
  EXPECT_NEAR(factor({{"mscale_all_dim", 2.0}}), g(1.0), 1e-12);
  EXPECT_NEAR(factor({{"mscale", 0.0}, {"mscale_all_dim", 2.0}}), g(1.0), 1e-12);
  EXPECT_NEAR(factor({{"mscale", 0.7}, {"mscale_all_dim", 2.0}}), g(0.7) / g(2.0), 1e-12);
  EXPECT_NEAR(factor({{"mscale", 0.7}, {"mscale_all_dim", 2.0}, {"attention_factor", 1.1}}), 1.1, 1e-12);
  EXPECT_EQ(factor({{"factor", 0.5}}), 1.0);
}

TEST_F(RopeKeys, YarnsFactorMayFollowFromItsContexts) {
  EXPECT_EQ(read({{"rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 1024}}}}).factor, 4.0);
}

TEST_F(RopeKeys, RefusesWhatItCantMean) {
  for (const char* type : {"dynamic", "longrope", "su", "mrope", "proportional", "ntk", "", "Linear"}) {
    expect_refused(ErrorCode::kUnsupported, {{"rope_scaling", {{"rope_type", type}, {"factor", 2.0}}}}, "rope_type");
  }
  for (const char* type : {"linear", "llama3"}) {
    expect_refused(ErrorCode::kBadFile, {{"rope_scaling", {{"rope_type", type}}}}, "factor");
  }
  for (const Json& factor : {Json(0), Json(-1.0), Json("2"), Json(true), Json::array({2})}) {
    expect_refused(ErrorCode::kBadFile, {{"rope_scaling", {{"rope_type", "linear"}, {"factor", factor}}}}, "factor");
  }
  expect_refused(
      ErrorCode::kBadFile,
      {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4.0}, {"high_freq_factor", 4.0}}}},
      "high_freq_factor");
  expect_refused(ErrorCode::kBadFile, {{"rope_scaling", "linear"}}, "rope_scaling");
  expect_refused(ErrorCode::kBadFile, {{"rope_scaling", {{"rope_type", 1}}}}, "rope_type");
  expect_refused(ErrorCode::kBadFile, {{"rope_theta", 0}}, "rope_theta");
  expect_refused(ErrorCode::kUnsupported,
                 {{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}}},
                 "partial_rotary_factor");
  // Without those of full attention, which all layers have.
  expect_refused(ErrorCode::kUnsupported, {{"rope_parameters", {{"sliding_attention", {{"rope_theta", 1e4}}}}}},
                 "sliding_attention");
  expect_refused(ErrorCode::kUnsupported, {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2}, {"new", 1}}}},
                 "new");
}

}  // namespace
}  // namespace diffulex_edge
