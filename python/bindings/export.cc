// Exports: of checkpoints, and of graphs that the Python frontend made of a torch module.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
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
#include "calibration.h"
#include "config.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/export_session.h"
#include "diffulex_edge/graph.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/report.h"
#include "run.h"
#include "runtime/calibrate.h"
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
  nb::object quant_config;               // None: what the model's own config.json notes
  std::optional<std::string> plan = {};  // a file of layers' formats, in place of quant_config
  std::optional<std::string> activation_dtype;
  std::optional<std::string> input_lengths;
  std::map<std::string, std::string> options;
  nb::object calibration = nb::none();  // None, or an object with the attributes of CalibrationOptions
  Calibration inputs = {};              // of a module, in place of that
  std::optional<std::string> target;    // nullopt: a dry run
  std::optional<double> max_memory_mb;
  int threads = 0;
  nb::object progress;
};

QuantizationConfig quantization_of(const Request& request, const Model& model) {
  if (request.plan) {
    return read_plan(*request.plan, model);
  }
  return request.quant_config.is_none() ? default_quantization_config(model) : to_cpp(request.quant_config);
}

BackendConfig config_of(const Request& request, const Model& model) {
  BackendConfig config{.quant_config = quantization_of(request, model),
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

ExportRequest export_request(const Request& request, const Model& model) {
  ExportRequest wanted{.backend = request.backend, .config = config_of(request, model)};
  if (!request.calibration.is_none()) {
    wanted.calibration = calibration_options(request.calibration);
  } else if (request.inputs.has_data()) {
    wanted.calibration = request.inputs.options;
    wanted.data = request.inputs.data;
  }
  if (!request.quant_config.is_none()) {
    wanted.known = findings_of(request.quant_config);
  }
  wanted.output = request.target.value_or("");
  wanted.dry_run = !request.target;
  wanted.max_memory_mb = request.max_memory_mb;
  return wanted;
}

// By the names of the command's JSON.
nb::dict describe(const ExportMetadata& metadata) {
  return nb::cast<nb::dict>(nb::module_::import_("json").attr("loads")(to_json(metadata)));
}

// Writes the target, or predicts what would be in it. Returns the metadata, or throws the Error of a failed export.
nb::dict run_export(Model model, ModelOptions options, const Request& request) {
  ExportRequest wanted = export_request(request, model);
  ExportSession session(std::move(model), std::move(options), std::move(wanted));
  ExportResult result;
  run_stoppable(request.threads, request.progress, [&](const RunControl& control) { result = session.run(control); });
  result.check();
  nb::dict metadata = describe(result.metadata);
  if (session.calibration()) {
    metadata["calibration"] = describe_calibration(*session.calibration());
  }
  return metadata;
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

// In Python's words, before the session says the same in the command's.
void check_calibration_data(const Model& model, const Request& request) {
  const std::unique_ptr<EdgeBackend> backend =
      BackendRegistry::instance().create(request.backend, config_of(request, model));
  backend->check_config();
  const QuantizationConfig& config = backend->quantization();
  const CalibrationFindings known =
      request.quant_config.is_none() ? CalibrationFindings() : findings_of(request.quant_config);
  const bool is_static = config.mode == QuantizationMode::STATIC;
  const std::string method = "method " + std::string(to_string(config.method));
  if (request.inputs.has_data() && !can_use_calibration(model, config, backend->arithmetic(), known)) {
    throw Error(
        ErrorCode::kInvalidArgument, "calibration_data",
        "is for mode static with integer weights and for the methods gptq, awq, auto and mse, and the mode is " +
            std::string(to_string(config.mode)) + " and the " + method,
        "leave it out");
  }
  const bool is_predicted = !request.target && !is_static;  // sizes are the same for every method
  if (!request.inputs.has_data() && !is_predicted && needs_calibration(model, config, backend->arithmetic(), known)) {
    throw Error(
        ErrorCode::kInvalidArgument, "calibration_data",
        is_static ? "mode static needs the ranges of activations" : method + " needs some",
        std::string("give some inputs of the model, or use ") + (is_static ? "mode dynamic" : "rtn, mse or hqq"));
  }
}

nb::dict describe_support(const std::string& backend, const std::string& dtype, const std::string& mode) {
  const Support support = BackendRegistry::instance().describe(backend).support(parse_quantization_dtype(dtype),
                                                                                parse_quantization_mode(mode));
  nb::dict result;
  result["level"] = nb::cast(std::string(to_string(support.level)));
  result["note"] = nb::cast(support.note);
  return result;
}

nb::dict describe(const BackendOption& option) {
  std::vector<std::string> choices;
  for (const BackendOption::Choice& choice : option.choices) {
    choices.push_back(choice.value);
  }
  nb::dict result;
  result["name"] = nb::cast(option.name);
  result["type"] = nb::cast(std::string(to_string(option.type)));
  result["help"] = nb::cast(option.help);
  result["default"] = nb::cast(option.default_value);
  result["choices"] = nb::cast(choices);
  return result;
}

nb::list describe_backends() {
  nb::list backends;
  for (const BackendDescription& backend : BackendRegistry::instance().descriptions()) {
    nb::list options;
    for (const BackendOption& option : backend.options) {
      options.append(describe(option));
    }
    nb::dict result;
    result["name"] = nb::cast(backend.name);
    result["title"] = nb::cast(backend.title);
    result["output"] = nb::cast(backend.output);
    result["suffix"] = nb::cast(backend.suffix);
    result["lengths"] = nb::cast(std::string(to_string(backend.lengths)));
    result["options"] = options;
    backends.append(result);
  }
  return backends;
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
             nb::object progress, const RunTuples& runs, const std::string& observer, double percentile,
             std::optional<double> max_memory_mb) {
            const Request request{.backend = std::move(backend),
                                  .quant_config = std::move(quant_config),
                                  .activation_dtype = std::move(activation_dtype),
                                  .input_lengths = std::move(input_lengths),
                                  .options = std::move(options),
                                  .inputs = calibration_of(runs, observer, percentile),
                                  .target = std::move(target),
                                  .max_memory_mb = max_memory_mb,
                                  .threads = threads,
                                  .progress = std::move(progress)};
            check_calibration_data(self.model(), request);
            return run_export(self.model(), {}, request);
          },
          nb::arg("backend"), nb::arg("quant_config"), nb::arg("activation_dtype").none(),
          nb::arg("input_lengths").none(), nb::arg("options"), nb::arg("target").none(), nb::arg("threads"),
          nb::arg("progress").none(), nb::arg("runs") = nb::list(), nb::arg("observer") = "mse",
          nb::arg("percentile") = 99.99, nb::arg("max_memory_mb") = nb::none())
      .def(
          "round",
          [](const ModuleGraph& self, nb::handle quant_config, const RunTuples& runs, const std::string& observer,
             double percentile, const std::vector<std::string>& fixed_tensors, int threads, nb::object progress) {
            Calibration calibration = calibration_of(runs, observer, percentile);
            calibration.options.fixed_tensors = {fixed_tensors.begin(), fixed_tensors.end()};
            auto rounded = std::make_unique<RoundedModule>(self.model(), to_cpp(quant_config), std::move(calibration));
            run_stoppable(threads, progress, [&](const RunControl& control) { rounded->run(control); });
            return rounded;
          },
          nb::arg("quant_config"), nb::arg("runs"), nb::arg("observer"), nb::arg("percentile"),
          nb::arg("fixed_tensors"), nb::arg("threads"), nb::arg("progress").none());
  module.def(
      "export_checkpoint",
      [](const std::string& folder, std::optional<std::int64_t> seq_len, std::optional<std::int64_t> block_length,
         std::optional<std::int64_t> mask_token_id, std::vector<std::string> ignored_config_keys,
         std::optional<std::string> adapter, std::string backend, nb::object quant_config,
         std::optional<std::string> plan, std::optional<std::string> activation_dtype,
         std::optional<std::string> input_lengths, std::map<std::string, std::string> options, nb::object calibration,
         std::optional<std::string> target, int threads, nb::object progress, std::optional<double> max_memory_mb) {
        BackendRegistry::instance().describe(backend);  // an unknown one shows before the model is read
        ModelOptions model_options{.seq_len = seq_len,
                                   .block_length = block_length,
                                   .mask_token_id = mask_token_id,
                                   .ignored_config_keys = std::move(ignored_config_keys),
                                   .adapter = std::move(adapter)};
        if (input_lengths) {
          model_options.seq_len = parse_input_lengths(*input_lengths).longest();
        }
        Model model = load_model(folder, model_options);
        return run_export(std::move(model), std::move(model_options),
                          {.backend = std::move(backend),
                           .quant_config = std::move(quant_config),
                           .plan = std::move(plan),
                           .activation_dtype = std::move(activation_dtype),
                           .input_lengths = std::move(input_lengths),
                           .options = std::move(options),
                           .calibration = std::move(calibration),
                           .target = std::move(target),
                           .max_memory_mb = max_memory_mb,
                           .threads = threads,
                           .progress = std::move(progress)});
      },
      nb::arg("folder"), nb::arg("seq_len").none(), nb::arg("block_length").none(), nb::arg("mask_token_id").none(),
      nb::arg("ignored_config_keys"), nb::arg("adapter").none(), nb::arg("backend"), nb::arg("quant_config").none(),
      nb::arg("plan").none(), nb::arg("activation_dtype").none(), nb::arg("input_lengths").none(), nb::arg("options"),
      nb::arg("calibration").none(), nb::arg("target").none(), nb::arg("threads"), nb::arg("progress").none(),
      nb::arg("max_memory_mb") = nb::none());
  module.def(
      "longest_input", [](const std::string& lengths) { return parse_input_lengths(lengths).longest(); },
      nb::arg("lengths"), "In tokens, of lengths such as 64,128 or 8..512.");
  module.def("backends", &describe_backends, "What the library's backends say of themselves.");
  module.def("support", &describe_support, nb::arg("backend"), nb::arg("dtype"), nb::arg("mode"));
}

}  // namespace diffulex_edge::python
