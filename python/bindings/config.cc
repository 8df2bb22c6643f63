#include "config.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace diffulex_edge::python {
namespace {

template <typename Value>
Value get(nb::handle config, const char* name) {
  return nb::cast<Value>(config.attr(name));
}

std::optional<QuantizationDtype> optional_dtype(nb::handle config, const char* name) {
  const nb::object value = config.attr(name);
  return value.is_none() ? std::nullopt : std::optional(parse_quantization_dtype(nb::cast<std::string>(value)));
}

ActivationRange range_of(nb::handle pair) { return {.min = nb::cast<float>(pair[0]), .max = nb::cast<float>(pair[1])}; }

// Of every value of a graph, or none: an object with `values`, a pair for each node, and `scores`, a dict of pairs by
// the node of each attention.
std::optional<GraphActivations> graph_activations(nb::handle config) {
  const nb::object given = nb::getattr(config, "graph_activations", nb::none());
  if (given.is_none()) {
    return std::nullopt;
  }
  GraphActivations result;
  for (const nb::handle pair : given.attr("values")) {
    result.values.push_back(range_of(pair));
  }
  for (const auto& [value, pair] : nb::cast<nb::dict>(given.attr("scores"))) {
    result.scores[nb::cast<std::int32_t>(value)] = range_of(pair);
  }
  return result;
}

}  // namespace

QuantizationConfig to_cpp(nb::handle config) {
  QuantizationConfig result;
  result.dtype = parse_quantization_dtype(get<std::string>(config, "dtype"));
  result.mode = parse_quantization_mode(get<std::string>(config, "mode"));
  result.group_size = get<std::int64_t>(config, "group_size");
  result.exclude_layers = get<std::vector<std::string>>(config, "exclude_layers");
  result.embedding_dtype = optional_dtype(config, "embedding_dtype");
  result.head_dtype = optional_dtype(config, "head_dtype");
  result.method = parse_rounding_method(get<std::string>(config, "method"));
  for (const auto& [layer, format] : get<nb::dict>(config, "layer_formats")) {
    result.layer_formats[nb::cast<std::string>(layer)] = parse_layer_format(nb::cast<std::string>(format));
  }
  result.palette_group = get<std::int64_t>(config, "palette_group");
  result.saturate_fp16 = get<bool>(config, "saturate_fp16");
  result.strict_group_size = get<bool>(config, "strict_group_size");
  return result;
}

CalibrationOptions calibration_options(nb::handle options) {
  CalibrationOptions result;
  result.data = get<std::string>(options, "data");
  result.length = get<std::int64_t>(options, "length");
  result.max_sequences = get<std::int64_t>(options, "sequences");
  result.seed = get<std::uint64_t>(options, "seed");
  result.observer = parse_observer(get<std::string>(options, "observer"));
  result.percentile = get<double>(options, "percentile");
  result.mask_weight = get<double>(options, "mask_weight");
  return result;
}

CalibrationFindings findings_of(nb::handle config) {
  CalibrationFindings result;
  for (const auto& [layer, activations] : get<nb::dict>(config, "activations")) {
    result.layers[nb::cast<std::string>(layer)] = {.input = range_of(activations.attr("input")),
                                                   .output = range_of(activations.attr("output"))};
  }
  result.graph = graph_activations(config);
  return result;
}

}  // namespace diffulex_edge::python
