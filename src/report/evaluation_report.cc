// What an evaluation found.

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

Json interval(const Estimate& estimate) {
  // One sequence gives no interval.
  return std::isfinite(estimate.low) ? Json{estimate.low, estimate.high} : Json(nullptr);
}

std::string describe(const EvaluationReport& report) {
  if (report.plan == nullptr) {
    return "as stored, in float32";
  }
  const QuantizationConfig& config = report.plan->config;
  std::string text(to_string(config.dtype));
  if (config.dtype == QuantizationDtype::INT8 || config.dtype == QuantizationDtype::INT4) {
    text += " " + std::string(to_string(config.mode)) + ", " + std::string(to_string(config.method));
  }
  if (config.dtype == QuantizationDtype::INT4) {
    text += config.group_size == 0 ? ", per channel" : ", groups of " + std::to_string(config.group_size);
  }
  if (report.arithmetic == QuantizedArithmetic::FAST) {
    text += ", fast kernels";
  }
  return text;
}

std::string with_interval(const Estimate& estimate, int decimals) {
  if (!std::isfinite(estimate.low)) {
    return format_number(estimate.mean, decimals);
  }
  return format_number(estimate.mean, decimals) + " ± " + format_number((estimate.high - estimate.low) / 2.0, decimals);
}

}  // namespace

std::string to_json(const EvaluationReport& report) {
  Json json{{"success", true}, {"model", report.model.path.string()}, {"family", report.model.config.family}};
  if (report.plan != nullptr) {
    const QuantizationConfig& config = report.plan->config;
    json["dtype"] = to_string(config.dtype);
    json["mode"] = to_string(config.mode);
    json["group_size"] = config.group_size;
    json["method"] = to_string(config.method);
  } else {
    json["dtype"] = "fp32";
  }
  json["arithmetic"] = to_string(report.arithmetic);
  json["data"] = report.data;
  if (!report.reference.empty()) {
    json["reference"] = report.reference;
  }
  const auto each = [&](const std::string& key, const std::function<Json(const SetResult&)>& value) {
    Json& object = json[key] = Json::object();
    for (const SetResult& set : report.result.sets) {
      object[set.label] = value(set);
    }
  };
  each("loss", [](const SetResult& set) { return Json(set.loss.mean); });
  each("loss_interval", [](const SetResult& set) { return interval(set.loss); });
  each("perplexity", [](const SetResult& set) { return Json(std::exp(set.loss.mean)); });
  each("accuracy", [](const SetResult& set) { return Json(set.accuracy); });
  each("tokens", [](const SetResult& set) { return Json(set.tokens); });
  if (!report.reference.empty()) {
    each("reference_loss", [](const SetResult& set) { return Json(set.comparison->reference_loss.mean); });
    each("loss_increase", [](const SetResult& set) { return Json(set.comparison->loss_increase.mean); });
    each("loss_increase_interval", [](const SetResult& set) { return interval(set.comparison->loss_increase); });
    each("kl_divergence", [](const SetResult& set) { return Json(set.comparison->kl_divergence.mean); });
    each("kl_divergence_interval", [](const SetResult& set) { return interval(set.comparison->kl_divergence); });
    each("agreement", [](const SetResult& set) { return Json(set.comparison->agreement); });
    each("commit_flip_rate", [](const SetResult& set) { return Json(set.comparison->commit_flip_rate); });
    Json& layers = json["layers"] = Json::array();
    for (const LayerNoise& layer : report.result.layers) {
      const bool finite = std::isfinite(layer.signal_to_noise_db);
      layers.push_back(
          {{"layer", layer.layer}, {"signal_to_noise_db", finite ? Json(layer.signal_to_noise_db) : Json(nullptr)}});
    }
  }
  json["seconds"] = report.result.seconds;
  json["peak_rss_bytes"] = report.result.peak_rss_bytes;
  if (report.calibration != nullptr) {
    json["calibration"] = calibration_json(*report.calibration);
  }
  json["warnings"] = report.warnings;
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_text(const EvaluationReport& report) {
  std::string text = report.model.path.string() + " (" + report.model.config.family + "), " + describe(report) + "\n";
  const bool compared = !report.reference.empty();
  if (compared) {
    text += "against " + report.reference + "\n";
  }
  text += "\n";
  std::vector<std::string> header = {"set", "tokens", "loss (nats)", "accuracy"};
  if (compared) {
    for (const char* column : {"reference", "increase", "KL", "agreement", "flips"}) {
      header.emplace_back(column);
    }
  }
  TextTable table(header);
  for (const SetResult& set : report.result.sets) {
    std::vector<std::string> row = {set.label, format_count(set.tokens), with_interval(set.loss, 4),
                                    format_number(100.0 * set.accuracy, 1) + "%"};
    if (set.comparison) {
      row.push_back(format_number(set.comparison->reference_loss.mean, 4));
      row.push_back(with_interval(set.comparison->loss_increase, 4));
      row.push_back(with_interval(set.comparison->kl_divergence, 5));
      row.push_back(format_number(100.0 * set.comparison->agreement, 1) + "%");
      row.push_back(format_number(100.0 * set.comparison->commit_flip_rate, 1) + "%");
    }
    table.add(row);
  }
  text += table.render();
  if (!report.result.layers.empty()) {
    const auto worst = std::ranges::min_element(report.result.layers, {}, &LayerNoise::signal_to_noise_db);
    text += "\nlowest signal-to-noise ratio: " + worst->layer + ", " + format_number(worst->signal_to_noise_db, 1) +
            " dB; " + report.result.layers.back().layer + ": " +
            format_number(report.result.layers.back().signal_to_noise_db, 1) + " dB\n";
  }
  if (report.calibration != nullptr) {
    text += "\n" + calibration_text(*report.calibration);
  }
  text +=
      "\n" + format_number(report.result.seconds, 1) + " s, peak memory " + format_bytes(report.result.peak_rss_bytes);
  for (const std::string& warning : report.warnings) {
    text += "\nwarning: " + warning;
  }
  return text;
}

}  // namespace diffulex_edge
