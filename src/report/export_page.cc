// What an export did, as a page.

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/join.h"
#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/description.h"
#include "report/export_description.h"
#include "report/html_page.h"
#include "report/layer_charts.h"
#include "report/provenance.h"
#include "report/text_table.h"
#include "report/verdict.h"

namespace diffulex_edge {
namespace {

std::vector<Tile> tiles_of(const ExportMetadata& metadata) {
  return {{.name = metadata.dry_run ? "File, predicted" : "File",
           .value = format_bytes(metadata.file_bytes),
           .note = format_count(metadata.file_bytes) + " bytes"},
          {.name = "Weights",
           .value = format_megabytes(metadata.quantized_memory_mb),
           .note = format_megabytes(metadata.original_memory_mb) + " in FP32"},
          {.name = "Smaller than FP32",
           .value = format_number(metadata.compression_ratio(), 2) + "x",
           .note = format_number(metadata.memory_reduction_pct(), 1) + "% less"},
          {.name = "Parameters",
           .value = format_number(static_cast<double>(metadata.parameters) / 1e6, 1) + " M",
           .note = format_count(metadata.parameters) + ", tied weights once"},
          {.name = "Longest input", .value = format_count(metadata.seq_len), .note = "tokens"}};
}

std::string subtitle_of(const ExportReport& report) {
  std::string text = "Export for " + report.metadata.backend + ", " + describe(report.config.quant_config);
  if (report.calibration != nullptr && !report.calibration->rounding.empty()) {
    text += ", rounded with calibration";
  }
  return text + ", activations " + report.metadata.activation_dtype;
}

// One value of a description, for a person.
std::string cell_of(const nlohmann::ordered_json& value) {
  if (value.is_number_integer()) {
    return format_count(value.get<std::int64_t>());
  }
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::string layer_table(const std::vector<StoredLayer>& layers) {
  const std::vector<std::string> keys = {"layer",  "tensor", "rows",   "columns",     "source",
                                         "format", "method", "kernel", "stored_bytes"};
  std::vector<std::vector<std::string>> rows;
  for (const StoredLayer& layer : layers) {
    const nlohmann::ordered_json description = describe(layer);
    std::vector<std::string>& row = rows.emplace_back();
    for (const std::string& key : keys) {
      row.push_back(cell_of(description.value(key, nlohmann::ordered_json())));
    }
  }
  return html_table(keys, rows);
}

void add_placement(HtmlPage& page, const Placement& placement) {
  const std::int64_t on_npu = total(placement.npu);
  const std::int64_t on_host = total(placement.host);
  page.section("Where operators run", format_count(on_npu) + " on the NPU (the SoC's neural processor), " +
                                          format_count(on_host) + " on the host (its CPU).");
  std::vector<std::vector<std::string>> binaries;
  for (const CompiledBinary& binary : placement.binaries) {
    binaries.push_back({binary.soc, binary.source, format_count(binary.bytes), format_number(binary.seconds, 1) + " s",
                        format_bytes(binary.peak_rss_bytes)});
  }
  page.add(
      html_table({"SoC", "compiled from", "context binary, bytes", "compiled in", "compiler's peak RSS"}, binaries));
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> counts;  // on the NPU, on the host
  for (const auto& [type, count] : placement.npu) {
    counts[type].first = count;
  }
  for (const auto& [type, count] : placement.host) {
    counts[type].second = count;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [type, where] : counts) {
    rows.push_back({type, format_count(where.first), format_count(where.second)});
  }
  rows.push_back({"all", format_count(on_npu), format_count(on_host)});
  page.details("Operators by type", html_table({"operator", "NPU", "host"}, rows));
}

}  // namespace

std::string to_html(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  HtmlPage page(last_part(report.output), subtitle_of(report));
  page.verdict(verdict(report));
  page.tiles(tiles_of(metadata));
  page.warnings(with_calibration(metadata.warnings, report.calibration));
  std::vector<SizedLayer> layers;
  for (const StoredLayer& layer : metadata.layers) {
    layers.push_back({.plan = &layer.plan, .bytes = layer.stored_bytes});
  }
  page.section("Layers and formats",
               "Stored bytes of each kind of layer, all blocks of the model together, scales included.");
  page.add(format_legend(layers) + size_chart(layers));
  if (const std::string chart = layer_size_chart(layers); !chart.empty()) {
    page.subsection("Each linear layer", "Coloured by its format. Block: one layer of the transformer, from 0.");
    page.add(chart);
  }
  page.details("Every layer as a table", layer_table(metadata.layers));
  if (metadata.placement) {
    add_placement(page, *metadata.placement);
  }
  if (report.calibration != nullptr) {
    add_calibration(page, *report.calibration);
  }
  Facts facts = {{metadata.dry_run ? "Would be written to" : "Written to", report.output}};
  const std::string operators = join(counted(metadata.operators_outside_delegate), ", ");
  facts.emplace_back("Outside the delegate",
                     operators.empty() ? "nothing" : operators + " (run by ExecuTorch's own kernels)");
  add_provenance(page, report.model, report.provenance, facts);
  return page.render();
}

}  // namespace diffulex_edge
