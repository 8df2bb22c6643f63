// Mixed-precision plans as JSON files.

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/mixed_precision.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr std::size_t kMaxPlanBytes = std::size_t{64} << 20U;
constexpr const char* kFormat = "diffulex-edge plan";
constexpr std::array kKeys = {"format",
                              "version",
                              "model",
                              "mode",
                              "method",
                              "file_bytes",
                              "kl_divergence",
                              "kl_divergence_bound",
                              "file_bytes_bound",
                              "measured_kl_divergence",
                              "default",
                              "layers",
                              "sensitivity"};

class PlanReader {
 public:
  PlanReader(const std::filesystem::path& file, const Model& model)
      : where_(file.string()), model_(model), document_(read_json_file(file, kMaxPlanBytes)) {
    if (!document_.is_object() || document_.value("format", Json()) != kFormat) {
      fail("is not a mixed-precision plan", "make one with `diffulex-edge plan`");
    }
    if (document_.value("version", Json()) != 1) {
      fail("has the version " + document_.value("version", Json()).dump() + ", this program reads version 1");
    }
    for (const auto& [key, unused] : document_.items()) {
      if (std::ranges::find(kKeys, key) == kKeys.end()) {
        fail("has the key '" + key + "', which no plan has", "remove it");
      }
    }
  }

  QuantizationConfig config() const {
    QuantizationConfig config;
    config.mode = parse("mode", parse_quantization_mode);
    config.method = parse("method", parse_rounding_method);
    config.exclude_layers.clear();
    if (!document_.contains("layers") || !document_["layers"].is_object()) {
      fail("has no object 'layers'", "give each layer its format there");
    }
    const std::vector<std::string> names = layer_names();
    for (const auto& [name, format] : document_["layers"].items()) {
      if (std::ranges::find(names, name) == names.end()) {
        fail("'layers' names '" + name + "', which " + model_.path.string() + " does not have",
             "plan for this model, or correct the name");
      }
      config.layer_formats[name] = parse_format("'" + name + "'", format);
    }
    for (const std::string& name : names) {
      if (!config.layer_formats.contains(name)) {
        if (!document_.contains("default")) {
          fail("'layers' has no format for '" + name + "'", "add it, or a \"default\"");
        }
        config.layer_formats[name] = parse_format("'default'", document_["default"]);
      }
    }
    return config;
  }

  std::vector<LayerSensitivity> sensitivity() const {
    if (!document_.contains("sensitivity") || !document_["sensitivity"].is_array()) {
      fail("has no list 'sensitivity'", "measure again with --calibration");
    }
    std::vector<LayerSensitivity> units;
    std::vector<std::string> seen;
    for (const Json& entry : document_["sensitivity"]) {
      try {
        units.push_back(read_unit(entry));
      } catch (const Json::exception& error) {
        fail("'sensitivity': " + json_error_text(error), "measure again with --calibration");
      }
      seen.insert(seen.end(), units.back().layers.begin(), units.back().layers.end());
    }
    std::vector<std::string> names = layer_names();
    std::ranges::sort(names);
    std::ranges::sort(seen);
    if (seen != names) {
      fail("'sensitivity' does not have every layer of " + model_.path.string() + " once",
           "measure again with --calibration");
    }
    return units;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& hint = {}) const {
    throw Error(ErrorCode::kBadFile, where_, what, hint);
  }

  // The layers that a plan covers: linear ones and the embedding.
  std::vector<std::string> layer_names() const {
    std::vector<std::string> names;
    for (const Node& node : model_.graph.nodes()) {
      if (node.op == Op::kLinear || node.op == Op::kEmbedding) {
        names.push_back(node.name);
      }
    }
    return names;
  }

  template <typename Value>
  Value parse(const char* key, Value (*parser)(std::string_view)) const {
    const Json value = document_.value(key, Json());
    if (!value.is_string()) {
      fail("has no text '" + std::string(key) + "'");
    }
    try {
      return parser(value.get<std::string>());
    } catch (const Error& error) {
      fail("'" + std::string(key) + "': " + error.what());
    }
  }

  LayerFormat parse_format(const std::string& name, const Json& format) const {
    if (!format.is_string()) {
      fail(name + " has " + format.dump() + " and not a format's name");
    }
    try {
      return parse_layer_format(format.get<std::string>());
    } catch (const Error& error) {
      fail(name + ": " + error.what());
    }
  }

  // A number of things, which is an integer of 63 bits: JSON has others.
  std::int64_t count_at(const Json& entry, const char* key) const {
    const Json& value = entry.at(key);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) {
      fail("'sensitivity' has the impossible '" + std::string(key) + "' " + value.dump(),
           "measure again with --calibration");
    }
    return value.get<std::int64_t>();
  }

  LayerSensitivity read_unit(const Json& entry) const {
    LayerSensitivity unit{.layers = entry.at("layers").get<std::vector<std::string>>(),
                          .parameters = count_at(entry, "parameters"),
                          .formats = {}};
    for (const Json& effect : entry.at("formats")) {
      FormatEffect& read = unit.formats.emplace_back();
      read.format = parse_format("'sensitivity'", effect.at("format"));
      if (effect.contains("output_error")) {
        read.output_error = effect.at("output_error").get<double>();
      }
      read.kl_divergence = effect.at("kl_divergence").get<double>();
      read.measured = effect.at("measured").get<bool>();
      if (!(read.kl_divergence >= 0.0) || !(read.output_error.value_or(0.0) >= 0.0)) {
        fail("'sensitivity' has a negative effect", "measure again with --calibration");
      }
    }
    if (unit.formats.empty() || unit.layers.empty()) {
      fail("'sensitivity' has an empty entry", "measure again with --calibration");
    }
    return unit;
  }

  std::string where_;
  const Model& model_;
  Json document_;
};

OrderedJson describe(const LayerSensitivity& unit) {
  OrderedJson formats = OrderedJson::array();
  for (const FormatEffect& effect : unit.formats) {
    OrderedJson& entry = formats.emplace_back();
    entry["format"] = to_string(effect.format);
    if (effect.output_error) {
      entry["output_error"] = *effect.output_error;
    }
    entry["kl_divergence"] = effect.kl_divergence;
    entry["measured"] = effect.measured;
  }
  return {{"layers", unit.layers}, {"parameters", unit.parameters}, {"formats", formats}};
}

}  // namespace

std::string plan_json(const MixedPrecisionPlan& plan, const std::vector<LayerSensitivity>& sensitivity,
                      const std::string& model) {
  OrderedJson document{{"format", kFormat},
                       {"version", 1},
                       {"model", model},
                       {"mode", to_string(plan.config.mode)},
                       {"method", to_string(plan.config.method)},
                       {"file_bytes", plan.file_bytes},
                       {"file_bytes_bound", plan.file_bytes_bound},
                       {"kl_divergence", plan.kl_divergence},
                       {"kl_divergence_bound", plan.kl_divergence_bound}};
  if (plan.measured_kl_divergence) {
    document["measured_kl_divergence"] = *plan.measured_kl_divergence;
  }
  for (const LayerSensitivity& unit : sensitivity) {
    for (const std::string& layer : unit.layers) {
      document["layers"][layer] = to_string(plan.format_of(unit));
    }
  }
  for (const LayerSensitivity& unit : sensitivity) {
    document["sensitivity"].push_back(describe(unit));
  }
  return document.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

QuantizationConfig read_plan(const std::filesystem::path& file, const Model& model) {
  return PlanReader(file, model).config();
}

std::vector<LayerSensitivity> read_sensitivity(const std::filesystem::path& file, const Model& model) {
  return PlanReader(file, model).sensitivity();
}

}  // namespace diffulex_edge
