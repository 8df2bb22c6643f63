// Spellings of the quantization enumerations.

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {
namespace {

constexpr std::array kDtypes = {
    std::pair{QuantizationDtype::FP32, std::string_view("fp32")},
    std::pair{QuantizationDtype::FP16, std::string_view("fp16")},
    std::pair{QuantizationDtype::INT8, std::string_view("int8")},
    std::pair{QuantizationDtype::INT4, std::string_view("int4")},
};
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

constexpr LayerFormat int4_format(std::int64_t group_size) {
  return {.dtype = QuantizationDtype::INT4, .group_size = group_size};
}
// From the finest to the coarsest.
constexpr std::array kLayerFormats = {
    std::pair{LayerFormat{.dtype = QuantizationDtype::FP32}, std::string_view("fp32")},
    std::pair{LayerFormat{.dtype = QuantizationDtype::FP16}, std::string_view("fp16")},
    std::pair{LayerFormat{.dtype = QuantizationDtype::INT8}, std::string_view("int8")},
    std::pair{int4_format(32), std::string_view("int4_g32")},
    std::pair{int4_format(64), std::string_view("int4_g64")},
    std::pair{int4_format(128), std::string_view("int4_g128")},
    std::pair{int4_format(256), std::string_view("int4_g256")},
    std::pair{int4_format(0), std::string_view("int4_channel")},
};

template <typename Table, typename Enum>
std::string_view name_of(const Table& table, Enum value) {
  return std::ranges::find(table, value, [](const auto& entry) { return entry.first; })->second;
}

template <typename Table>
auto value_of(const Table& table, std::string_view text, const std::string& what) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string choices;
  for (const auto& [value, name] : table) {
    if (name == lower) {
      return value;
    }
    choices += (choices.empty() ? "" : ", ") + std::string(name);
  }
  throw Error(ErrorCode::kInvalidArgument, what, "'" + std::string(text) + "' is not one of " + choices);
}

}  // namespace

std::string_view to_string(QuantizationDtype dtype) { return name_of(kDtypes, dtype); }
std::string_view to_string(QuantizationMode mode) { return name_of(kModes, mode); }
std::string_view to_string(RoundingMethod method) { return name_of(kMethods, method); }
QuantizationDtype parse_quantization_dtype(std::string_view text) { return value_of(kDtypes, text, "dtype"); }
QuantizationMode parse_quantization_mode(std::string_view text) { return value_of(kModes, text, "mode"); }
LayerFormat parse_layer_format(std::string_view text) { return value_of(kLayerFormats, text, "format"); }
RoundingMethod parse_rounding_method(std::string_view text) { return value_of(kMethods, text, "method"); }

std::vector<LayerFormat> all_layer_formats() {
  std::vector<LayerFormat> formats;
  for (const auto& [format, name] : kLayerFormats) {
    formats.push_back(format);
  }
  return formats;
}

std::string to_string(const LayerFormat& format) {
  const LayerFormat named{.dtype = format.dtype,
                          .group_size = format.dtype == QuantizationDtype::INT4 ? format.group_size : 0};
  const auto* found = std::ranges::find(kLayerFormats, named, [](const auto& entry) { return entry.first; });
  if (found == kLayerFormats.end()) {
    throw Error(ErrorCode::kInvalidArgument, "group size", std::to_string(format.group_size) + " has no format");
  }
  return std::string(found->second);
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
