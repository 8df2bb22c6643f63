// What an export did, as a page.

#include <map>
#include <utility>

#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/description.h"
#include "report/html_page.h"
#include "report/layer_charts.h"
#include "report/provenance.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

std::vector<Tile> tiles_of(const ExportMetadata& metadata) {
  return {{.name = metadata.dry_run ? "File, predicted" : "File",
           .value = format_bytes(metadata.file_bytes),
           .note = format_count(metadata.file_bytes) + " bytes"},
          {.name = "Weights",
           .value = format_mib(metadata.quantized_memory_mb),
           .note = format_mib(metadata.original_memory_mb) + " in FP32"},
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

std::string layer_table(const std::vector<StoredLayer>& layers) {
  std::vector<std::vector<std::string>> rows;
  for (const StoredLayer& layer : layers) {
    const LayerPlan& plan = layer.plan;
    rows.push_back({plan.layer, plan.tensor, std::to_string(plan.rows) + " × " + std::to_string(plan.columns),
                    to_string(plan.source), to_string(plan.format), layer.kernel, format_count(layer.stored_bytes)});
  }
  return html_table({"layer", "tensor", "shape", "source", "stored", "kernel", "bytes"}, rows);
}

void add_placement(HtmlPage& page, const Placement& placement) {
  const std::int64_t on_device = total(placement.device);
  const std::int64_t on_host = total(placement.host);
  page.section("Where operators run",
               format_count(on_device) + " on the NPU, " + format_count(on_host) + " on the host.");
  std::vector<std::vector<std::string>> binaries;
  for (const CompiledBinary& binary : placement.binaries) {
    binaries.push_back({binary.target, binary.source, format_count(binary.bytes),
                        format_number(binary.seconds, 1) + " s", format_bytes(binary.peak_rss_bytes)});
  }
  page.add(
      html_table({"SoC", "compiled from", "context binary, bytes", "compiled in", "compiler's peak RSS"}, binaries));
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> counts;  // on the NPU, on the host
  for (const auto& [type, count] : placement.device) {
    counts[type].first = count;
  }
  for (const auto& [type, count] : placement.host) {
    counts[type].second = count;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [type, where] : counts) {
    rows.push_back({type, format_count(where.first), format_count(where.second)});
  }
  rows.push_back({"all", format_count(on_device), format_count(on_host)});
  page.details("Operators by type", html_table({"operator", "NPU", "host"}, rows));
}

}  // namespace

std::string to_html(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  HtmlPage page(last_part(report.output), subtitle_of(report));
  page.tiles(tiles_of(metadata));
  page.warnings(metadata.warnings);
  std::vector<SizedLayer> layers;
  for (const StoredLayer& layer : metadata.layers) {
    layers.push_back({.plan = &layer.plan, .bytes = layer.stored_bytes});
  }
  page.section("Layers and formats");
  page.add(format_legend(layers) + size_chart(layers));
  page.subsection("Each linear layer", "Coloured by its format.");
  page.add(layer_size_chart(layers));
  page.details("Every layer as a table", layer_table(metadata.layers));
  if (metadata.placement) {
    add_placement(page, *metadata.placement);
  }
  if (report.calibration != nullptr) {
    add_calibration(page, *report.calibration);
  }
  Facts facts = {{metadata.dry_run ? "Would be written to" : "Written to", report.output}};
  std::string operators;
  for (const std::string& op : metadata.operators_outside_delegate) {
    operators += (operators.empty() ? "" : ", ") + op;
  }
  facts.emplace_back("Outside the delegate", operators.empty() ? "nothing" : operators);
  add_provenance(page, report.model, report.provenance, facts);
  return page.render();
}

}  // namespace diffulex_edge
