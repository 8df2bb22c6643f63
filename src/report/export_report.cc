// What an export or a quantization did.

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/printable.h"
#include "diffulex_edge/gguf_output.h"
#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/description.h"
#include "report/export_description.h"
#include "report/provenance.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

void add_config(Json& json, const QuantizationConfig& config) {
  json["dtype"] = dtype_name(config);
  json["mode"] = to_string(config.mode);
  json["group_size"] = config.group_size;
}

// Long lists come last.
void add_end(Json& json, const CalibrationResult* calibration, const std::vector<std::string>& warnings) {
  if (calibration != nullptr) {
    json["calibration"] = calibration_json(*calibration);
  }
  json["warnings"] = with_calibration(warnings, calibration);
}

template <typename Layers>
void add_layers(Json& json, const Layers& layers) {
  json["layers"] = Json::array();
  for (const auto& layer : layers) {
    json["layers"].push_back(describe(layer));
  }
}

std::string placement_text(const Placement& placement) {
  std::string text = "operators: " + format_count(total(placement.npu)) + " on the NPU, " +
                     format_count(total(placement.host)) + " on the host\n";
  for (const CompiledBinary& binary : placement.binaries) {
    text += binary.soc + ": " + binary.source + " in a context binary of " + format_count(binary.bytes) +
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

std::vector<std::string> warnings_of(const QuantizeReport& report) {
  std::vector<std::string> warnings = report.model.warnings;
  warnings.insert(warnings.end(), report.result.warnings.begin(), report.result.warnings.end());
  return warnings;
}

std::string warning_text(const std::vector<std::string>& warnings) {
  std::string text;
  for (const std::string& warning : warnings) {
    text += "warning: " + warning + "\n";
  }
  return text;
}

template <typename Result>
std::string sizes_text(const Result& result) {
  return "weights: " + format_megabytes(result.original_memory_mb) + " as FP32, " +
         format_megabytes(result.quantized_memory_mb) + " stored; " + format_number(result.memory_reduction_pct(), 1) +
         "% less, " + format_number(result.compression_ratio(), 2) + "x\n";
}

}  // namespace

std::string to_json(const ExportMetadata& metadata) {
  Json json = describe(metadata);
  add_end(json, nullptr, metadata.warnings);
  add_layers(json, metadata.layers);
  return dump(json);
}

std::string to_json(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  Json json{{"success", true},
            {"output", report.output},
            {"model", report.model.path.string()},
            {"family", report.model.config.family},
            {"block_length", report.model.config.block_length}};
  add_config(json, report.config.quant_config);
  json.update(describe(metadata));
  add_provenance(json, report.provenance);
  add_end(json, report.calibration, metadata.warnings);
  add_layers(json, metadata.layers);
  return dump(json);
}

std::string to_text(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  const std::int64_t bytes = metadata.bundle_bytes.value_or(metadata.file_bytes);
  std::string text = report.output + ": " + (metadata.dry_run ? "would be " : "") + format_count(bytes) + " bytes (" +
                     format_bytes(bytes) + ")" + (metadata.dry_run ? ", nothing written" : "") + "\n";
  if (metadata.bundle_bytes) {
    text += "a bundle, whose artefact has " + format_count(metadata.file_bytes) + " bytes\n";
  }
  text += report.model.config.family + ", " + format_count(metadata.parameters) + " parameters, " +
          describe(report.config.quant_config) + ", activations " + metadata.activation_dtype + ", " +
          describe_mask(report.model.config.block_length) + ", up to " + std::to_string(metadata.seq_len) +
          (metadata.cache ? " tokens a step\n" : " tokens\n");
  if (metadata.cache) {
    text += "cache of " + format_count(metadata.cache->tokens) + " tokens in " + metadata.cache->dtype + ", " +
            format_bytes(metadata.cache->bytes) + "\n";
  }
  text += sizes_text(metadata);
  text += format_number(metadata.seconds, 3) + " s, peak RSS " + format_bytes(metadata.peak_rss_bytes) + "\n\n";
  TextTable table({"layers", "format", "kernel", "parameters", "stored_bytes"});
  for (const Summary& row : summarize(metadata.layers)) {
    table.add({row.layers, row.format, row.kernel, format_count(row.parameters), format_count(row.bytes)});
  }
  text += table.render();
  for (const std::string& op : counted(metadata.operators_outside_delegate)) {
    text += "outside the delegate: " + op + "\n";
  }
  if (metadata.placement) {
    text += placement_text(*metadata.placement);
  }
  if (report.calibration != nullptr) {
    text += calibration_text(*report.calibration);
  }
  return printable_lines(text + warning_text(with_calibration(metadata.warnings, report.calibration)));
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
  add_end(json, report.calibration, warnings_of(report));
  add_layers(json, result.plan.layers);
  return dump(json);
}

std::string to_text(const QuantizeReport& report) {
  const QuantizationResult& result = report.result;
  const std::string file = is_gguf_name(report.output) ? ": " : ": model.safetensors has ";
  return printable_lines(report.output + file + format_count(report.file_bytes) + " bytes (" +
                         format_bytes(report.file_bytes) + ")\n" + report.model.config.family + ", " +
                         format_count(result.parameters) + " parameters, " + describe(result.plan.config) + "\n" +
                         sizes_text(result) + format_number(report.seconds, 3) + " s, peak RSS " +
                         format_bytes(report.peak_rss_bytes) + "\n" +
                         (report.calibration == nullptr ? std::string() : calibration_text(*report.calibration)) +
                         warning_text(with_calibration(warnings_of(report), report.calibration)));
}

}  // namespace diffulex_edge
