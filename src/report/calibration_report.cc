#include "report/calibration_report.h"

#include <map>

#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

Json range_json(const ActivationRange& range) { return {range.min, range.max}; }

Json values_json(const ValueStatistics& values) {
  return {{"min", values.range.min}, {"max", values.range.max}, {"rms", values.rms}};
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
      layers.push_back({{"layer", layer.layer},
                        {"input", range_json(layer.chosen.input)},
                        {"output", range_json(layer.chosen.output)},
                        {"masked", values_json(layer.masked)},
                        {"unmasked", values_json(layer.unmasked)},
                        {"token_spread", layer.token_spread}});
    }
  }
  return json;
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

}  // namespace diffulex_edge
