#include "report/calibration_report.h"

#include <cmath>
#include <map>

#include "report/layer_charts.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

Json range_json(const ActivationRange& range) { return {range.min, range.max}; }

Json decibels_json(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json values_json(const ValueStatistics& values) {
  return {{"min", values.range.min},
          {"max", values.range.max},
          {"rms", values.rms},
          {"static_scale_db", decibels_json(values.static_scale_db)},
          {"token_scales_db", decibels_json(values.token_scales_db)}};
}

}  // namespace

Json calibration_json(const CalibrationResult& calibration) {
  Json json{{"sequences", calibration.sequences},
            {"tokens", calibration.tokens},
            {"masked_tokens", calibration.masked_tokens},
            {"seconds", calibration.seconds}};
  if (!calibration.rounding.empty()) {
    Json& layers = json["rounding"] = Json::array();
    for (const LayerRounding& layer : calibration.rounding) {
      layers.push_back({{"layer", layer.layer},
                        {"method", to_string(layer.method)},
                        {"awq_scaled", layer.awq_scaled},
                        {"error", layer.error},
                        {"nearest_error", layer.nearest_error}});
    }
  }
  if (!calibration.statistics.empty()) {
    Json& layers = json["activations"] = Json::array();
    for (const LayerStatistics& layer : calibration.statistics) {
      Json entry{{"layer", layer.layer}, {"tokens", layer.tokens}, {"input", range_json(layer.chosen.input)}};
      if (layer.chosen.output != ActivationRange()) {
        entry["output"] = range_json(layer.chosen.output);
      }
      entry["masked"] = values_json(layer.masked);
      entry["unmasked"] = values_json(layer.unmasked);
      entry["token_spread"] = layer.token_spread;
      layers.push_back(std::move(entry));
    }
  }
  return json;
}

std::vector<std::string> with_calibration(std::vector<std::string> warnings, const CalibrationResult* calibration) {
  if (calibration != nullptr) {
    warnings.insert(warnings.end(), calibration->warnings.begin(), calibration->warnings.end());
  }
  return warnings;
}

std::string calibration_text(const CalibrationResult& calibration) {
  std::string text = "calibration: " + format_count(calibration.sequences) + " sequences, " +
                     format_count(calibration.tokens) + " tokens, " + format_count(calibration.masked_tokens) +
                     " of them masked, " + format_number(calibration.seconds, 1) + " s\n";
  if (calibration.rounding.empty()) {
    return text;
  }
  std::map<std::string, int> methods;
  double error = 0.0;
  double nearest = 0.0;
  for (const LayerRounding& layer : calibration.rounding) {
    ++methods[std::string(to_string(layer.method)) + (layer.awq_scaled ? " after awq scaling" : "")];
    error += layer.error;
    nearest += layer.nearest_error;
  }
  text += "rounding: ";
  std::string separator;
  for (const auto& [method, count] : methods) {
    text += separator;
    text += std::to_string(count);
    text += " layers ";
    text += method;
    separator = ", ";
  }
  if (nearest > 0.0) {
    text += "; squared output error " + format_number(100.0 * error / nearest, 1) + "% of round-to-nearest's";
  }
  return text + "\n";
}

void add_calibration(HtmlPage& page, const CalibrationResult& calibration) {
  page.section("Calibration", format_count(calibration.sequences) + " sequences, " + format_count(calibration.tokens) +
                                  " tokens, " + format_count(calibration.masked_tokens) + " of them masked.");
  if (!calibration.rounding.empty()) {
    page.subsection("Rounding",
                    "Squared error of each layer's output over calibration tokens, in percent of what rounding to "
                    "nearest makes (dashed), coloured by the method.");
    page.add(rounding_chart(calibration.rounding));
  }
  if (!calibration.statistics.empty()) {
    page.subsection("Ranges of activations",
                    "The values that each layer's input takes, for masked tokens and others. Lines across: the range "
                    "that the observer chose for one static scale.");
    page.add(activation_range_chart(calibration.statistics));
    page.subsection(
        "Static scales against a scale for each token",
        "Signal-to-noise ratio of the same inputs as 8-bit integers: every 6 dB more is half the error. "
        "Where the lines of static scales lie far lower, mode static is what costs; mode dynamic scales each "
        "token by itself.");
    page.add(activation_noise_chart(calibration.statistics));
  }
}

}  // namespace diffulex_edge
