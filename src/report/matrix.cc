// The specification's compatibility matrix, asked of the backends that this build has.

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "diffulex_edge/report.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

struct Row {
  const char* title;
  QuantizationDtype dtype;
  QuantizationMode mode;
};
constexpr std::array kRows = {
    Row{"FP32", QuantizationDtype::FP32, QuantizationMode::WEIGHT_ONLY},
    Row{"FP16", QuantizationDtype::FP16, QuantizationMode::WEIGHT_ONLY},
    Row{"INT8 Dynamic", QuantizationDtype::INT8, QuantizationMode::DYNAMIC},
    Row{"INT8 Static", QuantizationDtype::INT8, QuantizationMode::STATIC},
    Row{"INT8 Weight-only", QuantizationDtype::INT8, QuantizationMode::WEIGHT_ONLY},
    Row{"INT4 Weight-only", QuantizationDtype::INT4, QuantizationMode::WEIGHT_ONLY},
};
constexpr std::array kBackends = {"xnnpack", "coreml", "qnn"};

Support ask(const std::string& backend, const Row& row) {
  const BackendRegistry& registry = BackendRegistry::instance();
  const std::vector<std::string> known = registry.list();
  if (std::ranges::find(known, backend) == known.end()) {
    return {SupportLevel::kUnsupported, "not in this build"};
  }
  return registry.create(backend, {})->support(row.dtype, row.mode);
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
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Row& row : kRows) {
    nlohmann::ordered_json entry{
        {"quantization", row.title}, {"dtype", to_string(row.dtype)}, {"mode", to_string(row.mode)}};
    for (const char* backend : kBackends) {
      const Support support = ask(backend, row);
      entry[backend] = {{"level", to_string(support.level)}, {"note", support.note}};
    }
    rows.push_back(std::move(entry));
  }
  return nlohmann::ordered_json{{"backends", kBackends}, {"rows", rows}}.dump(2);
}

std::string matrix_text() {
  TextTable table({"Quantization", "XNNPACK", "CoreML", "QNN", "XNNPACK kernels"});
  for (const Row& row : kRows) {
    std::vector<std::string> cells = {row.title};
    for (const char* backend : kBackends) {
      cells.emplace_back(mark(ask(backend, row).level));
    }
    cells.push_back(ask("xnnpack", row).note);
    table.add(std::move(cells));
  }
  return table.render() + "\n✅ full   ⚠️ partial   ❌ not in this build\n";
}

}  // namespace diffulex_edge
