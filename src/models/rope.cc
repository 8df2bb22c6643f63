// Rotary position embedding: configuration keys and inverse frequencies.
// Definitions: RoFormer (Su et al., 2021); YaRN (Peng et al., 2023); the llama3 rule as released with Llama 3.1.

#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "diffulex_edge/error.h"
#include "models/architecture.h"

namespace diffulex_edge {
namespace {

double yarn_default_attention_factor(double factor, double scale) {
  return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

void read_scaling(ConfigReader& reader, RopeConfig& rope, std::int64_t max_positions) {
  const std::string type = reader.text("rope_type").value_or(reader.text("type").value_or("default"));
  reader.ignore({"rope_type", "type"});
  rope.theta = reader.positive("rope_theta", rope.theta);
  reader.expect("partial_rotary_factor", 1.0);
  if (reader.number("llama_4_scaling_beta").value_or(0.0) != 0.0) {
    rope.unscaled_positions = reader.size("original_max_position_embeddings").value_or(max_positions);
  }
  if (type == "default") {
    reader.ignore({"factor", "original_max_position_embeddings"});
  } else if (type == "linear" || type == "llama3" || type == "yarn") {
    rope.original_max_positions = reader.size("original_max_position_embeddings").value_or(max_positions);
    if (!reader.has("factor") && type != "yarn") {
      reader.fail("factor", "is missing");
    }
    rope.factor = reader.positive(
        "factor", static_cast<double>(max_positions) / static_cast<double>(rope.original_max_positions));
    if (type == "linear") {
      rope.type = RopeConfig::Type::kLinear;
    } else if (type == "llama3") {
      rope.type = RopeConfig::Type::kLlama3;
      for (const char* key : {"low_freq_factor", "high_freq_factor"}) {
        if (!reader.has(key)) {
          reader.fail(key, "is missing");
        }
      }
      rope.low_freq_factor = reader.positive("low_freq_factor", 1.0);
      rope.high_freq_factor = reader.positive("high_freq_factor", 4.0);
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        reader.fail("high_freq_factor", "must be greater than low_freq_factor");
      }
    } else {
      rope.type = RopeConfig::Type::kYarn;
      if (rope.theta <= 1.0) {
        reader.fail("rope_theta", "must be greater than 1 with yarn");
      }
      rope.beta_fast = reader.positive("beta_fast", 32.0);
      rope.beta_slow = reader.positive("beta_slow", 1.0);
      rope.truncate = reader.boolean("truncate").value_or(true);
      const double mscale = reader.number("mscale").value_or(0.0);
      const double mscale_all_dim = reader.number("mscale_all_dim").value_or(0.0);
      const double fallback = mscale != 0.0 && mscale_all_dim != 0.0
                                  ? yarn_default_attention_factor(rope.factor, mscale) /
                                        yarn_default_attention_factor(rope.factor, mscale_all_dim)
                                  : yarn_default_attention_factor(rope.factor, 1.0);
      rope.attention_factor = reader.positive("attention_factor", fallback);
    }
  } else {
    reader.fail_unsupported("rope_type", "is \"" + type + "\"; supported are default, linear, llama3 and yarn");
  }
  reader.finish();
}

// The index at which a frequency makes `rotations` turns over the original context, as a real number.
double yarn_dimension(const RopeConfig& rope, double rotations, double head_dim) {
  const auto positions = static_cast<double>(rope.original_max_positions);
  return head_dim * std::log(positions / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
}

double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const auto context = static_cast<double>(rope.original_max_positions);
  if (wavelength < context / rope.high_freq_factor) {
    return frequency;
  }
  if (wavelength > context / rope.low_freq_factor) {
    return frequency / rope.factor;
  }
  const double smooth = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions) {
  RopeConfig rope;
  rope.theta = reader.positive("rope_theta", rope.theta);
  auto scaling = reader.object("rope_scaling");
  auto parameters = reader.object("rope_parameters");
  if (scaling && parameters && *reader.value("rope_scaling") != *reader.value("rope_parameters")) {
    reader.fail("rope_parameters", "contradicts rope_scaling");
  }
  if (parameters && parameters->has("full_attention")) {  // those of each kind of layers, and all are of this one
    parameters->ignore({"full_attention", "sliding_attention"});
    auto of_layers = parameters->object("full_attention");
    parameters->finish();
    parameters = std::move(of_layers);
  }
  if (scaling || parameters) {
    read_scaling(scaling ? *scaling : *parameters, rope, max_positions);
  }
  // The largest frequency is 1, or nearly 1 / theta where theta is below 1.
  const double largest = std::max(1.0, 1.0 / rope.theta) / std::min(1.0, rope.factor);
  if (largest > static_cast<double>(std::numeric_limits<float>::max())) {
    reader.fail("rope_theta", "and the scaling factor give frequencies beyond float32");
  }
  return rope;
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  const auto dim = static_cast<double>(head_dim);
  double low = 0.0;
  double high = 0.0;
  if (rope.type == RopeConfig::Type::kYarn) {
    low = yarn_dimension(rope, rope.beta_fast, dim);
    high = yarn_dimension(rope, rope.beta_slow, dim);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    if (low == high) {
      high += 0.001;
    }
  }
  std::vector<float> result;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / dim);
    switch (rope.type) {
      case RopeConfig::Type::kDefault:
        break;
      case RopeConfig::Type::kLinear:
        frequency /= rope.factor;
        break;
      case RopeConfig::Type::kLlama3:
        frequency = llama3_frequency(rope, frequency);
        break;
      case RopeConfig::Type::kYarn: {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequency = frequency * (1.0 - ramp) + frequency / rope.factor * ramp;
        break;
      }
    }
    result.push_back(static_cast<float>(frequency));
  }
  return result;
}

}  // namespace diffulex_edge
