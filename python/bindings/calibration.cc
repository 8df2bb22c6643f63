#include "calibration.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "diffulex_edge/error.h"
#include "quant/weight_decoder.h"
#include "runtime/preflight.h"
#include "tensors.h"

namespace nb = nanobind;

namespace diffulex_edge::python {

Calibration calibration_of(const RunTuples& runs, const std::string& observer, double percentile) {
  Calibration calibration;
  calibration.options.observer = parse_observer(observer);
  calibration.options.percentile = percentile;
  check_percentile(percentile);
  for (const std::vector<InputTuple>& run : runs) {
    std::vector<InputTensor>& inputs = calibration.data.runs.emplace_back();
    for (const auto& [shape, address, count] : run) {
      const auto* begin = reinterpret_cast<const float*>(pointer(address));
      inputs.push_back({.shape = shape, .values = {begin, begin + count}});
    }
  }
  return calibration;
}

RoundedModule::RoundedModule(const Model& model, const QuantizationConfig& config, Calibration calibration)
    : session_(model, {},
               {.config = config, .calibration = std::move(calibration.options), .data = std::move(calibration.data)}) {
}

void RoundedModule::read(const std::string& tensor, std::uintptr_t address, std::size_t bytes) const {
  const TensorView& view = session_.model().checkpoint->at(tensor);
  if (view.bytes.size() != bytes) {
    throw Error(ErrorCode::kInternal, tensor,
                "has " + std::to_string(view.bytes.size()) + " bytes, the target " + std::to_string(bytes));
  }
  std::ranges::copy(view.bytes, pointer(address));
}

void RoundedModule::read_floats(const std::string& tensor, std::uintptr_t address, std::size_t count) const {
  const std::vector<float> values = load_tensor(*session_.model().checkpoint, tensor);
  if (values.size() != count) {
    throw Error(ErrorCode::kInternal, tensor,
                "has " + std::to_string(values.size()) + " values, the target " + std::to_string(count));
  }
  std::ranges::copy(values, reinterpret_cast<float*>(pointer(address)));
}

nb::dict describe_calibration(const CalibrationResult& calibration) {
  nb::dict result;
  const auto set = [&result](const char* name, const auto& value) { result[name] = nb::cast(value); };
  set("sequences", calibration.sequences);
  set("tokens", calibration.tokens);
  set("masked_tokens", calibration.masked_tokens);
  set("seconds", calibration.seconds);
  set("warnings", calibration.warnings);
  nb::dict ranges;
  for (const auto& [layer, found] : calibration.findings.layers) {
    ranges[layer.c_str()] = nb::cast(std::tuple(found.input.min, found.input.max, found.output.min, found.output.max));
  }
  result["activations"] = ranges;
  nb::dict rounding;
  for (const LayerRounding& layer : calibration.rounding) {
    nb::dict one;
    one["method"] = nb::cast(std::string(to_string(layer.method)));
    one["awq_scaled"] = nb::cast(layer.awq_scaled);
    one["error"] = nb::cast(layer.error);
    one["nearest_error"] = nb::cast(layer.nearest_error);
    rounding[layer.layer.c_str()] = one;
  }
  result["rounding"] = rounding;
  return result;
}

void bind_calibration(nb::module_& module) {
  nb::class_<RoundedModule>(module, "RoundedModule", "A module's weights after calibrated rounding.")
      .def("read", &RoundedModule::read, nb::arg("tensor"), nb::arg("address"), nb::arg("bytes"))
      .def("read_floats", &RoundedModule::read_floats, nb::arg("tensor"), nb::arg("address"), nb::arg("count"))
      .def_prop_ro("calibration", [](const RoundedModule& self) { return describe_calibration(self.calibration()); });
}

}  // namespace diffulex_edge::python
