// What an evaluation found.

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "core/printable.h"
#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/description.h"
#include "report/generation_report.h"
#include "report/provenance.h"
#include "report/text_table.h"
#include "report/verdict.h"

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
  const std::string target = report.backend == "xnnpack" ? "" : " as for " + report.backend;
  return describe(report.plan->config) + target +
         (report.arithmetic == QuantizedArithmetic::FAST ? ", fast kernels" : "");
}

// An object with a value for each set's label.
Json by_set(const std::vector<SetResult>& sets, const std::function<Json(const SetResult&)>& value) {
  Json object = Json::object();
  for (const SetResult& set : sets) {
    object[set.label] = value(set);
  }
  return object;
}

void add_comparison(Json& json, const std::vector<SetResult>& sets) {
  const auto each = [&](const std::string& key, const std::function<Json(const ReferenceComparison&)>& value) {
    json[key] =
        by_set(sets, [&](const SetResult& set) { return value(set.comparison.value_or(ReferenceComparison())); });
  };
  each("reference_loss", [](const ReferenceComparison& set) { return Json(set.reference_loss.mean); });
  each("loss_increase", [](const ReferenceComparison& set) { return Json(set.loss_increase.mean); });
  each("loss_increase_interval", [](const ReferenceComparison& set) { return interval(set.loss_increase); });
  each("kl_divergence", [](const ReferenceComparison& set) { return Json(set.kl_divergence.mean); });
  each("kl_divergence_interval", [](const ReferenceComparison& set) { return interval(set.kl_divergence); });
  each("agreement", [](const ReferenceComparison& set) { return Json(set.agreement); });
  each("commit_flip_rate", [](const ReferenceComparison& set) { return Json(set.commit_flip_rate); });
}

Json layers_json(const EvaluationReport& report) {
  std::map<std::string, std::string> formats;
  if (report.plan != nullptr) {
    for (const LayerPlan& layer : report.plan->layers) {
      if (layer.role == LayerRole::kLinear) {
        formats[layer.layer] = to_string(layer.format);
      }
    }
  }
  Json layers = Json::array();
  for (const LayerNoise& layer : report.result.layers) {
    const bool finite = std::isfinite(layer.signal_to_noise_db);
    Json entry{{"layer", layer.layer}, {"signal_to_noise_db", finite ? Json(layer.signal_to_noise_db) : Json(nullptr)}};
    if (const auto found = formats.find(layer.layer); found != formats.end()) {
      entry["format"] = found->second;
    }
    layers.push_back(std::move(entry));
  }
  return layers;
}

void add_formats(Json& json, const FormatComparison& comparison) {
  json["original_bytes"] = comparison.original_bytes;
  Json& formats = json["formats"] = Json::array();
  for (const FormatResult& format : comparison.formats) {
    Json entry{{"name", format.name},
               {"dtype", to_string(format.config.dtype)},
               {"mode", to_string(format.config.mode)},
               {"group_size", format.config.group_size},
               {"planned_bytes", format.planned_bytes},
               {"loss", by_set(format.sets, [](const SetResult& set) { return Json(set.loss.mean); })}};
    add_comparison(entry, format.sets);
    formats.push_back(std::move(entry));
  }
  Json& left_out = json["formats_left_out"] = Json::array();
  for (const LeftOutFormat& format : comparison.left_out) {
    left_out.push_back({{"name", format.name}, {"reason", format.reason}});
  }
}

void add_losses(Json& json, const EvaluationReport& report) {
  const std::vector<SetResult>& sets = report.result.sets;
  json["loss"] = by_set(sets, [](const SetResult& set) { return Json(set.loss.mean); });
  json["loss_interval"] = by_set(sets, [](const SetResult& set) { return interval(set.loss); });
  json["perplexity"] = by_set(sets, [](const SetResult& set) { return Json(std::exp(set.loss.mean)); });
  json["accuracy"] = by_set(sets, [](const SetResult& set) { return Json(set.accuracy); });
  json["tokens"] = by_set(sets, [](const SetResult& set) { return Json(set.tokens); });
  if (!report.reference.empty()) {
    add_comparison(json, sets);
    json["layers"] = layers_json(report);
  }
}

std::string loss_text(const std::vector<SetResult>& sets, bool compared) {
  std::vector<std::string> header = {"set", "tokens", "loss (nats)", "accuracy"};
  if (compared) {
    for (const char* column : {"reference", "increase", "KL", "agreement", "flips"}) {
      header.emplace_back(column);
    }
  }
  TextTable table(header);
  for (const SetResult& set : sets) {
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
  return table.render();
}

}  // namespace

std::string to_json(const EvaluationReport& report) {
  Json json{{"success", true}, {"model", report.model.path.string()}, {"family", report.model.config.family}};
  if (report.plan != nullptr) {
    const QuantizationConfig& config = report.plan->config;
    json["dtype"] = dtype_name(config);
    json["mode"] = to_string(config.mode);
    json["group_size"] = config.group_size;
    if (config.palette_group != 0) {
      json["palette_group"] = config.palette_group;
    }
    json["method"] = to_string(config.method);
    json["planned_bytes"] = planned_bytes(*report.plan);
  } else {
    json["dtype"] = "fp32";
  }
  json["backend"] = report.backend;
  json["arithmetic"] = to_string(report.arithmetic);
  if (!report.data.empty()) {
    json["data"] = report.data;
  }
  if (!report.reference.empty()) {
    json["reference"] = report.reference;
  }
  if (report.answers != nullptr) {
    json["generation"] = generation_json(*report.answers, report.prompts);
  }
  if (!report.result.sets.empty()) {
    add_losses(json, report);
  }
  if (report.formats != nullptr) {
    add_formats(json, *report.formats);
  }
  add_provenance(json, report.provenance);
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
  text += verdict(report) + "\n\n";
  if (!report.result.sets.empty()) {
    text += loss_text(report.result.sets, compared);
  }
  if (report.answers != nullptr) {
    text += (report.result.sets.empty() ? "" : "\n") + generation_text(*report.answers, report.prompts);
  }
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
  return printable_lines(text);
}

}  // namespace diffulex_edge
