// diffulex-edge plan MODEL -o FILE --calibration FILE (--target-size SIZE | --max-loss NATS)

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report_file.h"
#include "core/join.h"
#include "core/output_file.h"
#include "core/process_memory.h"
#include "core/size_text.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/report.h"
#include "diffulex_edge/sensitivity.h"
#include "models/input_guard.h"
#include "quant/layer_formats.h"
#include "runtime/calibrate.h"
#include "runtime/preflight.h"

namespace diffulex_edge::cli {
namespace {

constexpr std::int64_t kSequences = 8;
constexpr std::int64_t kLength = 128;
constexpr int kFrontierPoints = 24;

struct PlanArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  CalibrationArguments calibration{.length = kLength, .sequences = kSequences};
  OutputOptions output_options;
  std::string output;
  ReportFile report;
  std::string command_line;
  BackendArguments backend;
  std::optional<std::string> target_size;
  std::optional<double> max_loss;
  std::vector<std::string> formats;
  std::optional<std::string> sensitivity;
  std::optional<std::int64_t> seq_len;
  std::int64_t palette_group = 0;
};

// What a plan settles can't be given beside it.
void check(const PlanArguments& arguments) {
  if (arguments.target_size.has_value() == arguments.max_loss.has_value()) {
    throw Error(ErrorCode::kInvalidArgument, "plan", "needs either --target-size or --max-loss");
  }
  const double max_loss = arguments.max_loss.value_or(1.0);
  if (!std::isfinite(max_loss) || max_loss <= 0.0) {
    throw Error(ErrorCode::kInvalidArgument, "--max-loss",
                std::to_string(max_loss) + " is not a positive number of nats");
  }
  if (!arguments.calibration.data && !arguments.sensitivity) {
    throw Error(ErrorCode::kInvalidArgument, "plan", "needs data to measure layers with",
                "give text or token ids with --calibration FILE");
  }
  const QuantizationArguments& quantization = arguments.quantization;
  if (arguments.sensitivity) {
    refuse_given({{"--exclude", !quantization.exclude.empty()},
                  {"--embedding-dtype", quantization.embedding_dtype.has_value()},
                  {"--head-dtype", quantization.head_dtype.has_value()}},
                 "was settled when the plan of --sensitivity was measured", "leave it out, or measure again");
  }
  refuse_given({{"--dtype", quantization.dtype.has_value()}, {"--plan", quantization.plan.has_value()}},
               "is what the plan decides", "restrict its choice with --formats");
}

// The user's own exclusions, and routers: embedding and head are open unless their options settle them.
QuantizationConfig base_config(const PlanArguments& arguments, const Model& model) {
  if (model.stored_quantization) {
    throw Error(ErrorCode::kInvalidArgument, model.path.string(), "is quantized already",
                "plan from the unquantized checkpoint");
  }
  QuantizationConfig config = arguments.quantization.config(model);
  config.exclude_layers = arguments.quantization.exclude;
  config.exclude_layers.emplace_back("router");
  config.palette_group = arguments.palette_group;
  return config;
}

// For the backend whose files are predicted.
SensitivityRequest request_of(const PlanArguments& arguments, const Model& model) {
  const QuantizationConfig config = base_config(arguments, model);
  const auto backend = BackendRegistry::instance().create(arguments.backend.name(), {.quant_config = config});
  backend->check_config();
  return {.config = config, .findings = {}, .target = backend->arithmetic()};
}

// "fp32,fp16,int8,int4_g32,..."
std::string layer_format_names() {
  return join(all_layer_formats(), ",", [](const LayerFormat& format) { return to_string(format); });
}

std::vector<LayerFormat> formats(const PlanArguments& arguments) {
  std::vector<LayerFormat> all = all_layer_formats();
  if (arguments.formats.empty()) {
    const BackendDescription backend = arguments.backend.description();
    std::erase_if(all, [&](const LayerFormat& format) {
      return backend.support(format.dtype, QuantizationMode::WEIGHT_ONLY).level == SupportLevel::kUnsupported;
    });
    return all;
  }
  std::vector<LayerFormat> wanted;
  for (const std::string& name : arguments.formats) {
    wanted.push_back(parse_layer_format(name));
  }
  std::erase_if(all, [&](const LayerFormat& format) { return std::ranges::find(wanted, format) == wanted.end(); });
  return all;
}

// Measurements of an earlier plan, of the formats that are wanted now.
std::vector<LayerSensitivity> earlier_sensitivity(const std::string& file, const Model& model,
                                                  const std::vector<LayerFormat>& wanted) {
  std::vector<LayerSensitivity> units = read_sensitivity(file, model);
  for (LayerSensitivity& unit : units) {
    const auto is_unwanted = [&](const FormatEffect& effect) {
      return std::ranges::find(wanted, effect.format) == wanted.end();
    };
    if (!std::ranges::all_of(unit.formats, is_unwanted)) {  // otherwise its format is settled
      std::erase_if(unit.formats, is_unwanted);
    }
  }
  return units;
}

// Mode static needs the ranges of every layer's activations.
CalibrationFindings find_activations(const Model& model, const SensitivityRequest& request, const CalibrationData& data,
                                     const CalibrationOptions& options, const RunControl& control) {
  QuantizationConfig all = request.config;
  all.dtype = QuantizationDtype::INT8;
  all.exclude_layers.clear();
  all.head_dtype = QuantizationDtype::INT8;
  return calibrate_activations(model, all, request.target, data, options, control).findings;
}

// The best plans from the smallest artefact to that of FP16, where next to nothing is lost. Text does not show them.
std::vector<MixedPrecisionPlan> frontier(const PlanArguments& arguments, const MixedPrecisionPlanner& planner) {
  if (!arguments.output_options.json && !arguments.report.is_wanted()) {
    return {};
  }
  const auto least = static_cast<double>(planner.for_loss(std::numeric_limits<double>::max()).file_bytes);
  const auto most = static_cast<double>(planner.uniform({.dtype = QuantizationDtype::FP16}).file_bytes);
  std::vector<MixedPrecisionPlan> plans;
  for (int i = 0; i < kFrontierPoints; ++i) {
    const double share = static_cast<double>(i) / (kFrontierPoints - 1);
    plans.push_back(planner.for_size(std::llround(least * std::pow(std::max(most / least, 1.0), share))));
  }
  return plans;
}

// The same with every layer in INT8: in mode static the ranges that any plan may need.
QuantizationConfig with_integers(QuantizationConfig config) {
  config.dtype = QuantizationDtype::INT8;
  return config;
}

// What no measurement changes is refused before one: an unknown backend, layers that can take none of the formats, a
// size below the smallest artefact's.
void check_choice(const PlanArguments& arguments, const Model& model, const SensitivityRequest& request,
                  const std::optional<std::int64_t>& target) {
  const QuantizationConfig& config = request.config;
  const auto is_palette = [](const LayerFormat& format) { return format_row(format.dtype).has_codebook(); };
  if (config.palette_group != 0 && std::ranges::none_of(formats(arguments), is_palette)) {
    throw Error(ErrorCode::kInvalidArgument, "palette group", "is given, and no format is a palette",
                "leave it out, or add --backend coreml");
  }
  const std::vector<LayerSensitivity> layers =
      arguments.sensitivity ? earlier_sensitivity(*arguments.sensitivity, model, formats(arguments))
                            : unmeasured_layers(model, config, formats(arguments), request.target);
  const CalibrationFindings made_up = made_up_findings(model, with_integers(config), request.target);
  const MixedPrecisionPlanner planner(config, layers, size_predictor(model, arguments.backend.name(), {}, made_up));
  if (target) {
    planner.for_size(*target);
  }
}

// What layers are measured with, and in mode static the ranges of their activations; nothing where an earlier plan's
// only the measurements are used.
std::optional<CalibrationData> load_data(const PlanArguments& arguments, const Model& model,
                                         SensitivityRequest& request, const RunControl& control) {
  if (!arguments.calibration.data) {
    return std::nullopt;
  }
  const CalibrationOptions options = arguments.calibration.options();
  CalibrationData data = load_calibration_data(model, options, control);
  if (request.config.mode == QuantizationMode::STATIC) {
    request.findings = find_activations(model, request, data, options, control);
  }
  return data;
}

std::vector<LayerSensitivity> find_sensitivity(const PlanArguments& arguments, const Model& model,
                                               const SensitivityRequest& request,
                                               const std::optional<CalibrationData>& data, const RunControl& control) {
  if (!data || arguments.sensitivity) {
    return earlier_sensitivity(arguments.sensitivity.value_or(""), model, formats(arguments));
  }
  return measure_sensitivity(model, request, *data, formats(arguments), control);
}

MixedPrecisionPlan choose(const MixedPrecisionPlanner& planner, const Model& model, const SensitivityRequest& request,
                          const std::optional<CalibrationData>& data, const std::optional<std::int64_t>& target,
                          double max_loss, const RunControl& control) {
  if (!target) {
    return data ? plan_for_measured_loss(planner, model, request, *data, max_loss, control)
                : planner.for_loss(max_loss);
  }
  MixedPrecisionPlan plan = planner.for_size(*target);
  if (data) {
    const QuantizationPlan layers = quantize_model(model, plan.config, request.findings, request.target).plan;
    plan.measured_kl_divergence = measure_divergence(model, layers, *data, control);
  }
  return plan;
}

void run(const PlanArguments& arguments, std::stop_token stop) {
  const auto start = std::chrono::steady_clock::now();
  check(arguments);
  std::optional<std::int64_t> target;
  if (arguments.target_size) {
    target = parse_size("--target-size", *arguments.target_size);
  }
  ModelOptions options = arguments.model.options();
  options.seq_len = arguments.seq_len;
  const Model model = load_model(arguments.model.path, options);
  refuse_input_as_target(model, arguments.output);
  arguments.report.check(
      model, {arguments.output, arguments.calibration.data.value_or(""), arguments.sensitivity.value_or("")});
  SensitivityRequest request = request_of(arguments, model);
  if (request.config.mode == QuantizationMode::STATIC && !arguments.calibration.data) {
    throw Error(ErrorCode::kInvalidArgument, "mode static", "needs calibration data",
                "give text or token ids with --calibration FILE");
  }
  check_choice(arguments, model, request, target);
  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));

  const std::optional<CalibrationData> data = load_data(arguments, model, request, control);
  const std::vector<LayerSensitivity> sensitivity = find_sensitivity(arguments, model, request, data, control);
  const MixedPrecisionPlanner planner(request.config, sensitivity,
                                      size_predictor(model, arguments.backend.name(), {}, request.findings));
  const MixedPrecisionPlan plan =
      choose(planner, model, request, data, target, arguments.max_loss.value_or(0.0), control);
  std::vector<UniformPlan> uniform;
  for (const LayerFormat& format : formats(arguments)) {
    uniform.push_back({.format = to_string(format), .plan = planner.uniform(format)});
  }
  const PlanReport report{.model = model,
                          .plan = plan,
                          .sensitivity = sensitivity,
                          .output = arguments.output,
                          .target_size_bytes = target,
                          .max_loss = arguments.max_loss,
                          .uniform = uniform,
                          .frontier = frontier(arguments, planner),
                          .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                          .peak_rss_bytes = peak_rss_bytes(),
                          .provenance = arguments.report.provenance(model, arguments.command_line, true, control)};
  bar.end();
  if (arguments.report.is_wanted()) {
    arguments.report.write(to_html(report));
  }
  write_file(arguments.output, plan_json(plan, sensitivity, arguments.model.path));
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_plan(CLI::App& app, std::string command_line) {
  CLI::App* command = app.add_subcommand("plan", "Choose each layer's format for a size or for a loss");
  const auto arguments = std::make_shared<PlanArguments>();
  arguments->command_line = std::move(command_line);
  arguments->model.add_to(*command);
  command->add_option("-o,--output", arguments->output, "The plan to write (JSON), for --plan of the others")
      ->required();
  command->add_option("--target-size", arguments->target_size,
                      "The least loss in a file of at most this size: bytes, or 120MB, 1.5GiB, ...");
  command->add_option("--max-loss", arguments->max_loss,
                      "The smallest file whose KL divergence from float32 is at most this, in nats a token");
  command
      ->add_option("--formats", arguments->formats,
                   "What layers may become (default: all that the backend has): " + layer_format_names())
      ->delimiter(',');
  command->add_option("--sensitivity", arguments->sensitivity,
                      "A plan whose measurements are used again instead of measuring");
  arguments->backend.add_name_to(*command, "Whose file sizes and formats count: ");
  command
      ->add_option("--palette-group", arguments->palette_group,
                   "Palettes: rows of a weight that share a table; 0 (default): all. Give it to export as well")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seq-len", arguments->seq_len, "As for export: it changes the file's size a little");
  arguments->report.add_to(*command);
  arguments->quantization.add_to(*command);
  arguments->calibration.add_to(*command);
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
