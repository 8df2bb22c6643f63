// Weights of a torch module through the library's planner and kernels, from one memory into another: the same plan and
// the same bytes as from a checkpoint.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "checkpoint/stored_weight.h"
#include "config.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "quant/affine_scale.h"
#include "quant/layer_formats.h"
#include "quant/weight_decoder.h"
#include "quant/weight_stream.h"
#include "run.h"
#include "runtime/observer.h"
#include "tensors.h"

namespace nb = nanobind;

namespace diffulex_edge::python {
namespace {

// Name, role ("linear", "embedding"), and the name of its weight.
using LayerTuple = std::tuple<std::string, std::string, std::string>;
// Addresses and sizes in bytes of a weight's values and scales.
using TargetTuple = std::tuple<std::uintptr_t, std::size_t, std::uintptr_t, std::size_t>;

// A graph that is nothing but the layers: a plan looks at no more.
Model model_of(const std::vector<LayerTuple>& layers, const std::vector<TensorTuple>& tensors) {
  Model model;
  model.checkpoint = checkpoint_of(tensors);
  for (const auto& [name, role, tensor] : layers) {
    const StoredWeight weight = find_stored_weight(*model.checkpoint, tensor);
    const ValueId value =
        model.graph.weight(tensor, static_shape(std::vector<std::int64_t>{weight.rows, weight.columns}));
    if (role == to_string(LayerRole::kEmbedding)) {
      const ValueId ids = model.graph.input({}, DType::kI64, static_shape(std::vector<std::int64_t>{1, 1}));
      model.graph.add(Op::kEmbedding, {value, ids}, NoAttributes{}, name);
    } else if (role == to_string(LayerRole::kLinear)) {
      const ValueId x = model.graph.input({}, DType::kF32, static_shape(std::vector<std::int64_t>{1, weight.columns}));
      model.graph.add(Op::kLinear, {x, value}, NoAttributes{}, name);
    } else {
      throw Error(ErrorCode::kInvalidArgument, name, "'" + role + "' is no role of a layer");
    }
  }
  return model;
}

nb::dict describe(const LayerPlan& layer) {
  nb::dict result;
  const auto set = [&result](const char* name, const auto& value) { result[name] = nb::cast(value); };
  set("layer", layer.layer);
  set("tensor", layer.tensor);
  set("role", std::string(to_string(layer.role)));
  set("rows", layer.rows);
  set("columns", layer.columns);
  set("dtype", std::string(to_string(layer.dtype)));
  set("source", to_string(layer.source));
  set("format", to_string(layer.format));
  set("group_size", layer.format.group_size);
  set("is_kept", layer.source.is_quantized());
  set("excluded", layer.excluded);
  set("method", std::string(to_string(layer.method)));
  set("value_bytes", layer.value_bytes());
  set("scale_bytes", layer.scale_bytes());
  result["activations"] = layer.activations
                              ? nb::cast(std::tuple(layer.activations->input.min, layer.activations->input.max,
                                                    layer.activations->output.min, layer.activations->output.max))
                              : nb::none();
  return result;
}

nb::list describe(const std::vector<LayerPlan>& layers) {
  nb::list result;
  for (const LayerPlan& layer : layers) {
    result.append(describe(layer));
  }
  return result;
}

// |stored - given|^2 and |given|^2, summed tile by tile in their order, whichever thread came first.
class SquaredErrors {
 public:
  void add(const StreamJob& job, const EncodedTile& tile) {
    const auto count = static_cast<std::size_t>(tile.rows * job.source.columns);
    std::vector<float> given(count);
    std::vector<float> stored(count);
    load_rows(job.source, tile.row_begin, tile.rows, given);
    decode_rows(job.format, tile.values, tile.scales, tile.rows, job.source.columns, stored);
    std::pair<double, double> sums;
    for (std::size_t i = 0; i < count; ++i) {
      const double difference = static_cast<double>(stored[i]) - given[i];
      sums.first += difference * difference;
      sums.second += static_cast<double>(given[i]) * given[i];
    }
    const std::scoped_lock lock(mutex_);
    tiles_[tile.row_begin] = sums;
  }

  // sqrt(|stored - given|^2 / |given|^2); 0 where nothing is lost.
  double relative() const {
    double error = 0.0;
    double signal = 0.0;
    for (const auto& [row, sums] : tiles_) {
      error += sums.first;
      signal += sums.second;
    }
    return error == 0.0 ? 0.0 : std::sqrt(error / signal);
  }

 private:
  std::mutex mutex_;
  std::map<std::int64_t, std::pair<double, double>> tiles_;
};

// One weight on its way into the caller's memory.
struct Encoding {
  StreamJob job;
  SquaredErrors errors;
};

void check_target(const LayerPlan& layer, const TargetTuple& target) {
  const auto& [values, value_bytes, scales, scale_bytes] = target;
  if (std::cmp_not_equal(value_bytes, layer.value_bytes()) || std::cmp_not_equal(scale_bytes, layer.scale_bytes())) {
    throw Error(ErrorCode::kInternal, layer.layer,
                "the target has " + std::to_string(value_bytes) + " and " + std::to_string(scale_bytes) +
                    " bytes for values and scales, and the plan " + std::to_string(layer.value_bytes()) + " and " +
                    std::to_string(layer.scale_bytes()));
  }
}

std::unique_ptr<Encoding> make_encoding(const Model& model, const QuantizationPlan& plan, const LayerPlan& layer,
                                        const TargetTuple& target) {
  check_target(layer, target);
  auto encoding = std::make_unique<Encoding>();
  encoding->job = {.source = find_stored_weight(*model.checkpoint, layer.tensor),
                   .format = layer.format,
                   .method = layer.method,
                   .saturate_fp16 = plan.config.saturate_fp16};
  std::byte* values = pointer(std::get<0>(target));
  std::byte* scales = pointer(std::get<2>(target));
  const std::int64_t value_row = layer.format.row_bytes(layer.columns);
  const std::int64_t scale_row = layer.format.scales_per_row(layer.columns) * layer.format.scale_bytes();
  encoding->job.sink = [=, self = encoding.get()](const EncodedTile& tile) {
    std::ranges::copy(tile.values, values + tile.row_begin * value_row);
    std::ranges::copy(tile.scales, scales + tile.row_begin * scale_row);
    self->errors.add(self->job, tile);
  };
  return encoding;
}

// The layers of a module with a plan for them. The tensors' memory is the caller's, and stays as long as this.
class LayerQuantization {
 public:
  LayerQuantization(const std::vector<LayerTuple>& layers, const std::vector<TensorTuple>& tensors, nb::handle config)
      : model_(model_of(layers, tensors)), result_(quantize_model(model_, to_cpp(config), findings_of(config))) {
    for (const LayerPlan& layer : result_.plan.layers) {
      const FormatRow& row = format_row(layer.dtype);
      if (!row.checkpoint_dtype) {
        throw Error(ErrorCode::kUnsupported, layer.layer, "a module can't hold " + std::string(row.title),
                    "give the format to the export");
      }
      if (layer.format.is_grid() && !layer.format.fills_bytes(layer.columns)) {
        throw Error(ErrorCode::kUnsupported, layer.layer, "INT4 rows of odd length can't be stored",
                    "exclude the layer, or use INT8");
      }
    }
  }

  const QuantizationResult& result() const { return result_; }

  // Writes the weight of each of these layers, by its index in the plan, into the target beside it. Returns the
  // relative errors.
  std::vector<double> encode(const std::vector<std::pair<std::size_t, TargetTuple>>& targets, int threads,
                             const nb::object& progress) const {
    std::vector<std::unique_ptr<Encoding>> encodings;
    std::vector<StreamJob> jobs;
    for (const auto& [index, target] : targets) {
      encodings.push_back(make_encoding(model_, result_.plan, result_.plan.layers.at(index), target));
      jobs.push_back(encodings.back()->job);
    }
    run_stoppable(threads, progress, [&](const RunControl& control) { stream_weights(jobs, control); });
    std::vector<double> errors;
    for (const auto& encoding : encodings) {
      errors.push_back(encoding->errors.relative());
    }
    return errors;
  }

 private:
  Model model_;
  QuantizationResult result_;
};

// What `diffulex-edge quantize` wrote into a folder: its layers by canonical name, mode and ranges.
nb::dict describe_checkpoint(const std::string& folder) {
  const Model model = load_model(folder);
  if (!model.stored_quantization) {
    throw Error(ErrorCode::kInvalidArgument, folder, "is no quantized checkpoint: its config.json says nothing of it",
                "write one with `diffulex-edge quantize`");
  }
  const QuantizationResult result = quantize_model(model, default_quantization_config(model));
  nb::dict description;
  description["mode"] = nb::cast(std::string(to_string(result.plan.config.mode)));
  description["layers"] = describe(result.plan.layers);
  return description;
}

std::pair<float, float> observe_values(std::uintptr_t address, std::size_t count, const std::string& observer,
                                       double percentile) {
  const Observer parsed = parse_observer(observer);
  if (!(percentile > 0.0 && percentile <= 100.0)) {
    throw Error(ErrorCode::kInvalidArgument, "percentile", std::to_string(percentile) + " is not in (0, 100]");
  }
  const nb::gil_scoped_release unlock;
  const auto* values = reinterpret_cast<const float*>(address);  // NOLINT(performance-no-int-to-ptr)
  const ActivationRange range = observe({values, count}, parsed, percentile);
  return {range.min, range.max};
}

// The table of formats: what each is called, also by plans of layers, and what it is.
nb::list describe_formats() {
  nb::list formats;
  for (const FormatRow& row : all_formats()) {
    nb::dict entry;
    const auto set = [&entry](const char* name, const auto& value) { entry[name] = nb::cast(value); };
    set("name", std::string(row.name));
    set("bits", row.bits());
    set("is_quantized", row.is_quantized());
    set("has_codebook", row.has_codebook());
    set("takes_groups", row.takes_groups);
    set("in_modules", row.checkpoint_dtype.has_value());
    std::vector<std::string> names;
    for (const LayerFormat& format : all_layer_formats()) {
      if (format.dtype == row.dtype) {
        names.push_back(to_string(format));
      }
    }
    set("layer_formats", names);
    formats.append(entry);
  }
  return formats;
}

}  // namespace

void bind_quantization(nb::module_& module) {
  nb::class_<LayerQuantization>(module, "LayerQuantization", "A plan for the layers of a module.")
      .def(nb::init<const std::vector<LayerTuple>&, const std::vector<TensorTuple>&, nb::handle>(), nb::arg("layers"),
           nb::arg("tensors"), nb::arg("config"))
      .def_prop_ro("layers", [](const LayerQuantization& self) { return describe(self.result().plan.layers); })
      .def_prop_ro("warnings", [](const LayerQuantization& self) { return self.result().warnings; })
      .def_prop_ro("parameters", [](const LayerQuantization& self) { return self.result().parameters; })
      .def_prop_ro("planned_bytes", [](const LayerQuantization& self) { return planned_bytes(self.result().plan); })
      .def("encode", &LayerQuantization::encode, nb::arg("targets"), nb::arg("threads"), nb::arg("progress").none());
  module.def("describe_formats", &describe_formats);
  module.def("describe_checkpoint", &describe_checkpoint, nb::arg("folder"));
  module.def("observe", &observe_values, nb::arg("address"), nb::arg("count"), nb::arg("observer"),
             nb::arg("percentile"));
  module.def(
      "affine_scale",
      [](float min, float max, int bits) {
        const AffineScale affine = affine_scale({.min = min, .max = max}, bits);
        return std::pair(affine.scale, affine.zero_point);
      },
      nb::arg("min"), nb::arg("max"), nb::arg("bits"));
}

}  // namespace diffulex_edge::python
