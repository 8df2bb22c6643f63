// Spellings of the quantization enumerations.

#include <algorithm>
#include <array>
#include <cctype>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include "core/join.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
namespace {

constexpr std::array kModes = {
    std::pair{QuantizationMode::DYNAMIC, std::string_view("dynamic")},
    std::pair{QuantizationMode::STATIC, std::string_view("static")},
    std::pair{QuantizationMode::WEIGHT_ONLY, std::string_view("weight_only")},
};
constexpr std::array kMethods = {
    std::pair{RoundingMethod::RTN, std::string_view("rtn")}, std::pair{RoundingMethod::MSE, std::string_view("mse")},
    std::pair{RoundingMethod::HQQ, std::string_view("hqq")}, std::pair{RoundingMethod::GPTQ, std::string_view("gptq")},
    std::pair{RoundingMethod::AWQ, std::string_view("awq")}, std::pair{RoundingMethod::AUTO, std::string_view("auto")},
};

std::vector<std::pair<LayerFormat, std::string>> named_layer_formats() {
  std::vector<std::pair<LayerFormat, std::string>> named;
  for (const LayerFormat& format : all_layer_formats()) {
    named.emplace_back(format, to_string(format));
  }
  return named;
}

std::vector<std::pair<QuantizationDtype, std::string_view>> named_dtypes() {
  std::vector<std::pair<QuantizationDtype, std::string_view>> named;
  for (const FormatRow& row : all_formats()) {
    named.emplace_back(row.dtype, row.name);
  }
  return named;
}

template <typename Table, typename Enum>
std::string_view name_of(const Table& table, Enum value) {
  return std::ranges::find(table, value, [](const auto& entry) { return entry.first; })->second;
}

template <typename Table>
auto value_of(const Table& table, std::string_view text, const std::string& what) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const auto& [value, name] : table) {
    if (name == lower) {
      return value;
    }
  }
  const auto name_of_entry = [](const auto& entry) { return entry.second; };
  throw Error(ErrorCode::kInvalidArgument, what,
              "'" + std::string(text) + "' is not one of " + join(table, ", ", name_of_entry));
}

}  // namespace

std::string_view to_string(QuantizationDtype dtype) { return format_row(dtype).name; }
std::string_view to_string(QuantizationMode mode) { return name_of(kModes, mode); }
std::string_view to_string(RoundingMethod method) { return name_of(kMethods, method); }
QuantizationDtype parse_quantization_dtype(std::string_view text) { return value_of(named_dtypes(), text, "dtype"); }
QuantizationMode parse_quantization_mode(std::string_view text) { return value_of(kModes, text, "mode"); }
LayerFormat parse_layer_format(std::string_view text) { return value_of(named_layer_formats(), text, "format"); }
RoundingMethod parse_rounding_method(std::string_view text) { return value_of(kMethods, text, "method"); }

std::vector<LayerFormat> all_layer_formats() {
  std::vector<LayerFormat> formats;
  for (const FormatRow& row : all_formats()) {
    if (row.takes_groups) {
      for (const std::int64_t size : group_sizes() | std::views::reverse) {
        formats.push_back({.dtype = row.dtype, .group_size = size});
      }
    }
    formats.push_back({.dtype = row.dtype});
  }
  return formats;
}

std::string to_string(const LayerFormat& format) {
  const FormatRow& row = format_row(format.dtype);
  std::string name(row.name);
  if (!row.takes_groups) {
    return name;
  }
  if (format.group_size == 0) {
    return name + "_channel";
  }
  if (!is_group_size(format.group_size)) {
    throw Error(ErrorCode::kInvalidArgument, "group size", std::to_string(format.group_size) + " has no format");
  }
  return name + "_g" + std::to_string(format.group_size);
}

std::string_view to_string(LayerRole role) {
  switch (role) {
    case LayerRole::kLinear:
      return "linear";
    case LayerRole::kEmbedding:
      return "embedding";
    case LayerRole::kNorm:
      return "norm";
    case LayerRole::kBias:
      return "bias";
  }
  throw Error(ErrorCode::kInternal, {}, "unknown layer role");
}

}  // namespace diffulex_edge
