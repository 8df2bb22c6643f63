// What `plan` chose.

#include <map>
#include <nlohmann/json.hpp>

#include "core/printable.h"
#include "diffulex_edge/report.h"
#include "quant/layer_formats.h"
#include "report/provenance.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

struct FormatUse {
  std::int64_t layers = 0;
  std::int64_t parameters = 0;
};

// By the format's place among all formats.
std::vector<std::pair<std::string, FormatUse>> formats_used(const PlanReport& report) {
  std::map<std::string, FormatUse> uses;
  for (const LayerSensitivity& unit : report.sensitivity) {
    FormatUse& use = uses[to_string(report.plan.format_of(unit))];
    use.layers += static_cast<std::int64_t>(unit.layers.size());
    use.parameters += unit.parameters;
  }
  std::vector<std::pair<std::string, FormatUse>> ordered;
  for (const LayerFormat& format : all_layer_formats()) {
    if (const auto found = uses.find(to_string(format)); found != uses.end()) {
      ordered.emplace_back(*found);
    }
  }
  return ordered;
}

Json point(const MixedPrecisionPlan& plan) {
  return {{"file_bytes", plan.file_bytes}, {"kl_divergence", plan.kl_divergence}};
}

}  // namespace

std::string to_json(const PlanReport& report) {
  const MixedPrecisionPlan& plan = report.plan;
  Json json{{"success", true},       {"model", report.model.path.string()}, {"family", report.model.config.family},
            {"plan", report.output}, {"mode", to_string(plan.config.mode)}, {"method", to_string(plan.config.method)}};
  if (report.target_size_bytes) {
    json["target_size_bytes"] = *report.target_size_bytes;
  }
  if (report.max_loss) {
    json["max_loss"] = *report.max_loss;
  }
  json["file_bytes"] = plan.file_bytes;
  json["file_bytes_bound"] = plan.file_bytes_bound;
  json["kl_divergence"] = plan.kl_divergence;
  json["kl_divergence_bound"] = plan.kl_divergence_bound;
  json["measured_kl_divergence"] = plan.measured_kl_divergence ? Json(*plan.measured_kl_divergence) : Json(nullptr);
  for (const auto& [name, use] : formats_used(report)) {
    json["formats"].push_back({{"format", name}, {"layers", use.layers}, {"parameters", use.parameters}});
  }
  for (const auto& [layer, format] : plan.config.layer_formats) {
    json["layers"][layer] = to_string(format);
  }
  for (const UniformPlan& uniform : report.uniform) {
    Json entry{{"format", uniform.format}};
    entry.update(point(uniform.plan));
    json["uniform"].push_back(std::move(entry));
  }
  json["frontier"] = Json::array();
  for (const MixedPrecisionPlan& best : report.frontier) {
    json["frontier"].push_back(point(best));
  }
  add_provenance(json, report.provenance);
  json["seconds"] = report.seconds;
  json["peak_rss_bytes"] = report.peak_rss_bytes;
  json["warnings"] = report.model.warnings;
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_text(const PlanReport& report) {
  const MixedPrecisionPlan& plan = report.plan;
  std::string text = report.model.path.string() + " (" + report.model.config.family + "), " +
                     std::string(to_string(plan.config.mode)) + "\nplan: " + report.output + ", " +
                     format_bytes(plan.file_bytes);
  if (report.target_size_bytes) {
    text += " of " + format_bytes(*report.target_size_bytes);
  }
  text += "\nKL divergence from float32: " + format_number(plan.kl_divergence, 5) +
          " nats a token as the sum of the layers'";
  if (plan.measured_kl_divergence) {
    text += ", " + format_number(*plan.measured_kl_divergence, 5) + " measured";
  }
  if (report.target_size_bytes && plan.kl_divergence_bound < plan.kl_divergence) {
    text += "; no plan of this size has less than " + format_number(plan.kl_divergence_bound, 5);
  }
  text += "\n\n";
  TextTable formats({"format", "layers", "parameters"});
  for (const auto& [name, use] : formats_used(report)) {
    formats.add({name, format_count(use.layers), format_count(use.parameters)});
  }
  text += formats.render() + "\nall layers in one format:\n";
  TextTable uniform({"format", "size", "KL"});
  for (const UniformPlan& entry : report.uniform) {
    uniform.add({entry.format, format_bytes(entry.plan.file_bytes), format_number(entry.plan.kl_divergence, 5)});
  }
  text += uniform.render() + "\n" + format_number(report.seconds, 1) + " s, peak memory " +
          format_bytes(report.peak_rss_bytes);
  for (const std::string& warning : report.model.warnings) {
    text += "\nwarning: " + warning;
  }
  return printable_lines(text);
}

}  // namespace diffulex_edge
