// The compatibility matrix, asked of the backends that this build has.

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/report.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

struct Row {
  std::string title;
  QuantizationDtype dtype;
  QuantizationMode mode;
};

// Every format; INT8 in each mode, the others with floating-point activations.
std::vector<Row> rows() {
  std::vector<Row> rows;
  for (const FormatRow& format : all_formats()) {
    const std::string name(format.title);
    if (!format.is_quantized()) {
      rows.push_back({name, format.dtype, QuantizationMode::WEIGHT_ONLY});
      continue;
    }
    if (format.is_grid() && format.bits() == 8) {
      rows.push_back({name + " Dynamic", format.dtype, QuantizationMode::DYNAMIC});
      rows.push_back({name + " Static", format.dtype, QuantizationMode::STATIC});
    }
    rows.push_back({name + " Weight-only", format.dtype, QuantizationMode::WEIGHT_ONLY});
  }
  return rows;
}

const char* mark(SupportLevel level) {
  switch (level) {
    case SupportLevel::kFull:
      return "✅";
    case SupportLevel::kPartial:
      return "⚠️";
    case SupportLevel::kUnsupported:
      break;
  }
  return "❌";
}

}  // namespace

std::string matrix_json() {
  const std::vector<BackendDescription> backends = BackendRegistry::instance().descriptions();
  nlohmann::ordered_json names = nlohmann::ordered_json::array();
  for (const BackendDescription& backend : backends) {
    names.push_back(backend.name);
  }
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const Row& row : rows()) {
    nlohmann::ordered_json entry{
        {"quantization", row.title}, {"dtype", to_string(row.dtype)}, {"mode", to_string(row.mode)}};
    for (const BackendDescription& backend : backends) {
      const Support support = backend.support(row.dtype, row.mode);
      entry[backend.name] = {{"level", to_string(support.level)}, {"note", support.note}};
    }
    entries.push_back(std::move(entry));
  }
  return nlohmann::ordered_json{{"backends", names}, {"rows", entries}}.dump(2);
}

std::string matrix_text() {
  const std::vector<BackendDescription> backends = BackendRegistry::instance().descriptions();
  std::vector<std::string> head = {"Quantization"};
  for (const BackendDescription& backend : backends) {
    head.push_back(backend.title);
  }
  TextTable table(head);
  for (const Row& row : rows()) {
    std::vector<std::string> cells = {row.title};
    for (const BackendDescription& backend : backends) {
      cells.emplace_back(mark(backend.support(row.dtype, row.mode).level));
    }
    table.add(std::move(cells));
  }
  std::string text = table.render() + "\n✅ full   ⚠️ partial   ❌ not in this build\n";
  for (const BackendDescription& backend : backends) {
    TextTable notes({backend.title, "What it computes with"});
    for (const Row& row : rows()) {
      notes.add({std::string("  ") + row.title, backend.support(row.dtype, row.mode).note});
    }
    text += "\n" + notes.render();
  }
  return text;
}

}  // namespace diffulex_edge
