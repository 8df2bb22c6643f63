// What an export or a quantization did.

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/description.h"
#include "report/provenance.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

// A static activation, in 8 bits.
Json scale_json(const ActivationRange& range) {
  const AffineScale affine = affine_scale(range, 8);
  return {{"min", range.min}, {"max", range.max}, {"scale", affine.scale}, {"zero_point", affine.zero_point}};
}

Json layer_json(const LayerPlan& plan) {
  Json json{{"layer", plan.layer},
            {"tensor", plan.tensor},
            {"role", to_string(plan.role)},
            {"rows", plan.rows},
            {"columns", plan.columns},
            {"source", to_string(plan.source)},
            {"format", to_string(plan.format)},
            {"dtype", to_string(plan.dtype)},
            {"excluded", plan.excluded}};
  if (plan.format.is_quantized() && !plan.source.is_quantized()) {
    json["method"] = to_string(plan.method);
  }
  if (plan.activations) {
    json["activations"] = {{"input", scale_json(plan.activations->input)},
                           {"output", scale_json(plan.activations->output)}};
  }
  return json;
}

void add_config(Json& json, const QuantizationConfig& config) {
  json["dtype"] = dtype_name(config);
  json["mode"] = to_string(config.mode);
  json["group_size"] = config.group_size;
}

// Of an ExportMetadata or a QuantizationResult.
template <typename Result>
void add_sizes(Json& json, const Result& result) {
  json["parameters"] = result.parameters;
  json["original_mib"] = result.original_memory_mb;
  json["quantized_mib"] = result.quantized_memory_mb;
  json["reduction_pct"] = result.memory_reduction_pct();
  json["compression_ratio"] = result.compression_ratio();
}

Json placement_json(const Placement& placement) {
  Json json{{"npu", placement.device}, {"host", placement.host}, {"binaries", Json::array()}};
  for (const CompiledBinary& binary : placement.binaries) {
    json["binaries"].push_back({{"soc", binary.target},
                                {"source", binary.source},
                                {"bytes", binary.bytes},
                                {"seconds", binary.seconds},
                                {"peak_rss_bytes", binary.peak_rss_bytes}});
  }
  return json;
}

std::string placement_text(const Placement& placement) {
  std::string text = "operators: " + format_count(total(placement.device)) + " on the NPU, " +
                     format_count(total(placement.host)) + " on the host\n";
  for (const CompiledBinary& binary : placement.binaries) {
    text += binary.target + ": " + binary.source + " in a context binary of " + format_count(binary.bytes) +
            " bytes, compiled in " + format_number(binary.seconds, 1) + " s with " +
            format_bytes(binary.peak_rss_bytes) + "\n";
  }
  return text;
}

// Rows of one table: what all layers of one kind have in common, such as every layer's q_proj.
struct Summary {
  std::string layers;
  std::string format;
  std::string kernel;
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
};

std::vector<Summary> summarize(const std::vector<StoredLayer>& layers) {
  std::vector<Summary> rows;
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> index;
  for (const StoredLayer& layer : layers) {
    const std::tuple key(kind_of(layer.plan), to_string(layer.plan.format), layer.kernel);
    const auto [position, inserted] = index.emplace(key, rows.size());
    if (inserted) {
      rows.push_back({.layers = std::get<0>(key), .format = std::get<1>(key), .kernel = layer.kernel});
    }
    rows[position->second].parameters += layer.plan.parameters();
    rows[position->second].bytes += layer.stored_bytes;
  }
  return rows;
}

std::string warning_text(const std::vector<std::string>& warnings) {
  std::string text;
  for (const std::string& warning : warnings) {
    text += "warning: " + warning + "\n";
  }
  return text;
}

std::string sizes_text(double original, double quantized, double reduction, double ratio) {
  return "weights: " + format_mib(original) + " as FP32, " + format_mib(quantized) + " stored; " +
         format_number(reduction, 1) + "% less, " + format_number(ratio, 2) + "x\n";
}

}  // namespace

std::string to_json(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  Json json{{"success", true},
            {"output", report.output},
            {"model", report.model.path.string()},
            {"family", report.model.config.family},
            {"backend", metadata.backend},
            {"method", metadata.method},
            {"seq_len", metadata.seq_len},
            {"block_length", report.model.config.block_length}};
  add_config(json, report.config.quant_config);
  json["activation_dtype"] = metadata.activation_dtype;
  json["dry_run"] = metadata.dry_run;
  json["file_bytes"] = metadata.file_bytes;
  add_sizes(json, metadata);
  add_provenance(json, report.provenance);
  json["seconds"] = metadata.seconds;
  json["peak_rss_bytes"] = metadata.peak_rss_bytes;
  json["operators_outside_delegate"] = metadata.operators_outside_delegate;
  if (metadata.placement) {
    json["placement"] = placement_json(*metadata.placement);
  }
  if (report.calibration != nullptr) {
    json["calibration"] = calibration_json(*report.calibration);
  }
  json["warnings"] = metadata.warnings;
  json["layers"] = Json::array();
  for (const StoredLayer& layer : metadata.layers) {
    Json entry = layer_json(layer.plan);
    entry["kernel"] = layer.kernel;
    entry["stored_bytes"] = layer.stored_bytes;
    json["layers"].push_back(std::move(entry));
  }
  return dump(json);
}

std::string to_text(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  std::string text = report.output + ": " + (metadata.dry_run ? "would be " : "") + format_count(metadata.file_bytes) +
                     " bytes (" + format_bytes(metadata.file_bytes) + ")" +
                     (metadata.dry_run ? ", nothing written" : "") + "\n";
  text += report.model.config.family + ", " + format_count(metadata.parameters) + " parameters, " +
          describe(report.config.quant_config) + ", activations " + metadata.activation_dtype + ", " +
          describe_mask(report.model.config.block_length) + ", up to " + std::to_string(metadata.seq_len) + " tokens\n";
  text += sizes_text(metadata.original_memory_mb, metadata.quantized_memory_mb, metadata.memory_reduction_pct(),
                     metadata.compression_ratio());
  text += format_number(metadata.seconds, 3) + " s, peak RSS " + format_bytes(metadata.peak_rss_bytes) + "\n\n";
  TextTable table({"layers", "format", "kernel", "parameters", "bytes"});
  for (const Summary& row : summarize(metadata.layers)) {
    table.add({row.layers, row.format, row.kernel, format_count(row.parameters), format_count(row.bytes)});
  }
  text += table.render();
  for (const std::string& op : metadata.operators_outside_delegate) {
    text += "outside the delegate: " + op + "\n";
  }
  if (metadata.placement) {
    text += placement_text(*metadata.placement);
  }
  if (report.calibration != nullptr) {
    text += calibration_text(*report.calibration);
  }
  return text + warning_text(metadata.warnings);
}

std::string to_json(const QuantizeReport& report) {
  const QuantizationResult& result = report.result;
  Json json{{"success", true},
            {"output", report.output},
            {"model", report.model.path.string()},
            {"family", report.model.config.family}};
  add_config(json, result.plan.config);
  json["file_bytes"] = report.file_bytes;
  add_sizes(json, result);
  json["seconds"] = report.seconds;
  json["peak_rss_bytes"] = report.peak_rss_bytes;
  if (report.calibration != nullptr) {
    json["calibration"] = calibration_json(*report.calibration);
  }
  json["warnings"] = result.warnings;
  json["layers"] = Json::array();
  for (const LayerPlan& plan : result.plan.layers) {
    json["layers"].push_back(layer_json(plan));
  }
  return dump(json);
}

std::string to_text(const QuantizeReport& report) {
  const QuantizationResult& result = report.result;
  return report.output + ": model.safetensors has " + format_count(report.file_bytes) + " bytes (" +
         format_bytes(report.file_bytes) + ")\n" + report.model.config.family + ", " + format_count(result.parameters) +
         " parameters, " + describe(result.plan.config) + "\n" +
         sizes_text(result.original_memory_mb, result.quantized_memory_mb, result.memory_reduction_pct(),
                    result.compression_ratio()) +
         format_number(report.seconds, 3) + " s, peak RSS " + format_bytes(report.peak_rss_bytes) + "\n" +
         (report.calibration == nullptr ? std::string() : calibration_text(*report.calibration)) +
         warning_text(result.warnings);
}

}  // namespace diffulex_edge
