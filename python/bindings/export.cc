// Graphs that the Python frontend made of a torch module, through the backends.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "config.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/graph.h"
#include "diffulex_edge/model.h"
#include "run.h"
#include "tensors.h"

namespace nb = nanobind;

namespace diffulex_edge::python {
namespace {

// Operator, name, inputs as indices of earlier nodes, attributes.
using NodeTuple = std::tuple<std::string, std::string, std::vector<ValueId>, nb::dict>;

constexpr std::int64_t kSequence = -1;  // stands for the sequence in a shape

// Builds the library's graph node by node, which checks every shape.
class GraphReader {
 public:
  explicit GraphReader(std::int64_t seq_len) : seq_len_(seq_len) {}

  Graph read(const std::vector<NodeTuple>& nodes, ValueId output, std::string output_name) {
    for (const auto& [op, name, inputs, attributes] : nodes) {
      add(op_of(op), name, inputs, attributes);
    }
    graph_.set_output(output, std::move(output_name));
    return std::move(graph_);
  }

 private:
  static Op op_of(std::string_view name) {
    static const std::map<std::string, Op, std::less<>> kOps = [] {
      std::map<std::string, Op, std::less<>> ops;
      for (int i = 0; i <= static_cast<int>(Op::kGather); ++i) {
        ops.emplace(to_string(static_cast<Op>(i)), static_cast<Op>(i));
      }
      return ops;
    }();
    const auto found = kOps.find(name);
    if (found == kOps.end()) {
      throw Error(ErrorCode::kInternal, "operator " + std::string(name), "is not known");
    }
    return found->second;
  }

  template <typename Value>
  static Value get(const nb::dict& attributes, const char* name) {
    return nb::cast<Value>(attributes[name]);
  }

  Shape shape_of(const nb::dict& attributes) const {
    Shape shape;
    for (const auto size : get<std::vector<std::int64_t>>(attributes, "shape")) {
      const bool is_sequence = size == kSequence;
      shape.push_back({.value = is_sequence ? seq_len_ : size, .is_sequence = is_sequence});
    }
    return shape;
  }

  static std::vector<float> values_of(const nb::dict& attributes) {
    const auto [address, count] = get<std::tuple<std::uintptr_t, std::size_t>>(attributes, "values");
    const auto* begin = reinterpret_cast<const float*>(pointer(address));
    return {begin, begin + count};
  }

  static Attributes attributes_of(Op op, const nb::dict& given, const Shape& shape) {
    switch (op) {
      case Op::kRmsNorm:
        return RmsNormAttributes{.epsilon = get<float>(given, "epsilon")};
      case Op::kLayerNorm:
        return LayerNormAttributes{.epsilon = get<float>(given, "epsilon")};
      case Op::kAttention:
        return AttentionAttributes{.scale = get<float>(given, "scale")};
      case Op::kBlockCausalMask:
        return BlockCausalMaskAttributes{.block_length = get<std::int64_t>(given, "block_length")};
      case Op::kClamp:
        return ClampAttributes{.min = get<float>(given, "min"), .max = get<float>(given, "max")};
      case Op::kGelu:
        return GeluAttributes{.tanh = get<bool>(given, "tanh")};
      case Op::kMatMul:
        return MatMulAttributes{.transpose_b = get<bool>(given, "transpose_b")};
      case Op::kReshape:
        return ShapeAttributes{.shape = shape};
      case Op::kTranspose:
      case Op::kConcat:
        return AxesAttributes{.axes = get<std::vector<std::int64_t>>(given, "axes")};
      case Op::kSlice:
        return SliceAttributes{.axis = get<std::int64_t>(given, "axis"),
                               .begin = get<std::int64_t>(given, "begin"),
                               .end = get<std::int64_t>(given, "end")};
      default:
        return NoAttributes{};
    }
  }

  void add(Op op, const std::string& name, const std::vector<ValueId>& inputs, const nb::dict& attributes) {
    const Shape shape = attributes.contains("shape") ? shape_of(attributes) : Shape{};
    switch (op) {
      case Op::kInput:
        graph_.input(name, dtype_from_string(get<std::string>(attributes, "dtype")).value(), shape);
        return;
      case Op::kWeight:
        graph_.weight(name, shape);
        return;
      case Op::kConstant:
        graph_.constant(values_of(attributes), shape);
        return;
      default:
        graph_.add(op, inputs, attributes_of(op, attributes, shape), name);
    }
  }

  std::int64_t seq_len_;
  Graph graph_;
};

// What Python says of an export, beside the model.
struct Request {
  std::string backend;
  nb::object quant_config;  // None: what the model's own config.json notes
  std::optional<std::string> activation_dtype;
  std::optional<std::string> input_lengths;
  std::map<std::string, std::string> options;
  std::optional<std::string> target;  // nullopt: a dry run
  int threads = 0;
  nb::object progress;
};

BackendConfig config_of(const Request& request, const Model& model) {
  BackendConfig config{.quant_config = request.quant_config.is_none() ? default_quantization_config(model)
                                                                      : to_cpp(request.quant_config),
                       .activation_dtype = {},
                       .input_lengths = {},
                       .backend_options = request.options};
  if (request.activation_dtype) {
    config.activation_dtype = parse_activation_dtype(*request.activation_dtype);
  }
  if (request.input_lengths) {
    config.input_lengths = parse_input_lengths(*request.input_lengths);
  }
  return config;
}

nb::dict describe(const StoredLayer& layer) {
  nb::dict result;
  result["layer"] = nb::cast(layer.plan.layer);
  result["tensor"] = nb::cast(layer.plan.tensor);
  result["role"] = nb::cast(std::string(to_string(layer.plan.role)));
  result["format"] = nb::cast(to_string(layer.plan.format));
  result["kernel"] = nb::cast(layer.kernel);
  result["stored_bytes"] = nb::cast(layer.stored_bytes);
  return result;
}

nb::dict describe(const ExportMetadata& metadata) {
  nb::dict result;
  const auto set = [&result](const char* name, const auto& value) { result[name] = nb::cast(value); };
  set("backend", metadata.backend);
  set("method", metadata.method);
  set("seq_len", metadata.seq_len);
  set("activation_dtype", metadata.activation_dtype);
  set("parameters", metadata.parameters);
  set("original_memory_mb", metadata.original_memory_mb);
  set("quantized_memory_mb", metadata.quantized_memory_mb);
  set("memory_reduction_pct", metadata.memory_reduction_pct());
  set("compression_ratio", metadata.compression_ratio());
  set("file_bytes", metadata.file_bytes);
  set("dry_run", metadata.dry_run);
  set("seconds", metadata.seconds);
  set("peak_rss_bytes", metadata.peak_rss_bytes);
  set("operators_outside_delegate", metadata.operators_outside_delegate);
  set("warnings", metadata.warnings);
  nb::list layers;
  for (const StoredLayer& layer : metadata.layers) {
    layers.append(describe(layer));
  }
  result["layers"] = layers;
  if (metadata.placement) {
    nb::dict placement;
    placement["device"] = nb::cast(metadata.placement->device);
    placement["host"] = nb::cast(metadata.placement->host);
    result["placement"] = placement;
  }
  return result;
}

// Writes the target, or predicts what would be in it. Returns the metadata, or throws the Error that a failed
// ExportResult stands for.
nb::dict run_export(const Model& model, const Request& request) {
  const std::unique_ptr<EdgeBackend> exporter =
      BackendRegistry::instance().create(request.backend, config_of(request, model));
  ExportResult result;
  run_stoppable(request.threads, request.progress, [&](const RunControl& control) {
    result = request.target ? exporter->export_model(model, *request.target, control) : exporter->dry_run(model);
  });
  if (!result.success) {
    throw Error::of_line(result.error_code.value_or(ErrorCode::kInternal), result.error_message);
  }
  return describe(result.metadata);
}

// A module's graph with its weights, whose memory is the caller's and stays as long as this.
class ModuleGraph {
 public:
  ModuleGraph(const std::vector<NodeTuple>& nodes, ValueId output, std::string output_name,
              const std::vector<TensorTuple>& tensors, std::int64_t seq_len, std::string name) {
    model_.config.family = "module";
    model_.config.architecture = std::move(name);
    model_.seq_len = seq_len;
    model_.checkpoint = checkpoint_of(tensors);
    model_.graph = GraphReader(seq_len).read(nodes, output, std::move(output_name));
  }

  const Model& model() const { return model_; }

 private:
  Model model_;
};

nb::dict describe_support(const std::string& backend, const std::string& dtype, const std::string& mode) {
  const auto exporter = BackendRegistry::instance().create(backend, {});
  const Support support = exporter->support(parse_quantization_dtype(dtype), parse_quantization_mode(mode));
  nb::dict result;
  result["level"] = nb::cast(std::string(to_string(support.level)));
  result["note"] = nb::cast(support.note);
  return result;
}

}  // namespace

void bind_export(nb::module_& module) {
  nb::class_<ModuleGraph>(module, "ModuleGraph", "A module's graph and weights.")
      .def(nb::init<const std::vector<NodeTuple>&, ValueId, std::string, const std::vector<TensorTuple>&, std::int64_t,
                    std::string>(),
           nb::arg("nodes"), nb::arg("output"), nb::arg("output_name"), nb::arg("tensors"), nb::arg("seq_len"),
           nb::arg("name"))
      .def(
          "export",
          [](const ModuleGraph& self, std::string backend, nb::object quant_config,
             std::optional<std::string> activation_dtype, std::optional<std::string> input_lengths,
             std::map<std::string, std::string> options, std::optional<std::string> target, int threads,
             nb::object progress) {
            return run_export(self.model(), {std::move(backend), std::move(quant_config), std::move(activation_dtype),
                                             std::move(input_lengths), std::move(options), std::move(target), threads,
                                             std::move(progress)});
          },
          nb::arg("backend"), nb::arg("quant_config"), nb::arg("activation_dtype").none(),
          nb::arg("input_lengths").none(), nb::arg("options"), nb::arg("target").none(), nb::arg("threads"),
          nb::arg("progress").none());
  module.def(
      "export_checkpoint",
      [](const std::string& folder, std::optional<std::int64_t> seq_len, std::optional<std::int64_t> block_length,
         std::string backend, nb::object quant_config, std::optional<std::string> activation_dtype,
         std::map<std::string, std::string> options, std::optional<std::string> target, int threads,
         nb::object progress) {
        const Model model = load_model(
            folder, {.seq_len = seq_len, .block_length = block_length, .mask_token_id = {}, .ignored_config_keys = {}});
        return run_export(model, {std::move(backend), std::move(quant_config), std::move(activation_dtype),
                                  std::nullopt, std::move(options), std::move(target), threads, std::move(progress)});
      },
      nb::arg("folder"), nb::arg("seq_len").none(), nb::arg("block_length").none(), nb::arg("backend"),
      nb::arg("quant_config").none(), nb::arg("activation_dtype").none(), nb::arg("options"), nb::arg("target").none(),
      nb::arg("threads"), nb::arg("progress").none());
  module.def("support", &describe_support, nb::arg("backend"), nb::arg("dtype"), nb::arg("mode"));
}

}  // namespace diffulex_edge::python
