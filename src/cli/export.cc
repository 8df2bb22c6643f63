// diffulex-edge export MODEL -o FILE

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report_file.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/report.h"
#include "models/input_guard.h"

namespace diffulex_edge::cli {
namespace {

struct ExportArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  CalibrationArguments calibration;
  OutputOptions output_options;
  std::string output;
  std::string backend = "xnnpack";
  std::optional<std::string> activation_dtype;
  std::optional<std::string> seq_len;
  CoreMLArguments coreml;
  QNNArguments qnn;
  std::optional<std::string> container;
  ReportFile report;
  std::string command_line;
  bool dry_run = false;
};

void run(const ExportArguments& arguments, std::stop_token stop) {
  BackendConfig config;
  config.backend_options = arguments.coreml.options(arguments.backend);
  config.backend_options.merge(arguments.qnn.options(arguments.backend));
  if (arguments.container) {
    if (arguments.backend == "xnnpack") {
      refuse_given({{"--container", true}}, "belongs to the backends that have a choice",
                   "add --backend coreml or --backend qnn, or leave it out");
    }
    config.backend_options["container"] = *arguments.container;
  }
  if (arguments.activation_dtype) {
    config.activation_dtype = parse_activation_dtype(*arguments.activation_dtype);
  }
  // An unknown backend shows before the model is read.
  BackendRegistry::instance().create(arguments.backend, config);

  ModelOptions options = arguments.model.options();
  if (arguments.seq_len) {
    config.input_lengths = parse_input_lengths(*arguments.seq_len);
    options.seq_len = config.input_lengths->longest();
  }
  const Model model = load_model(arguments.model.path, options);
  arguments.report.check(model, {arguments.output, arguments.calibration.data.value_or("")});
  config.quant_config = arguments.quantization.config(model);
  // Sizes are the same for every method: predicting them needs no data.
  if (arguments.dry_run && !arguments.calibration.data) {
    config.quant_config.method = RoundingMethod::RTN;
  }
  // What the backend makes of the options: 8-bit activations mean mode static.
  const auto wanted = BackendRegistry::instance().create(arguments.backend, config);
  wanted->check_config();
  config = wanted->config();
  const CalibrationOptions calibration_options = arguments.calibration.options(model, config.quant_config);
  if (arguments.dry_run) {
    config.quant_config.method = RoundingMethod::RTN;
  }
  if (!arguments.dry_run || can_use_calibration(model, config.quant_config)) {
    refuse_input_as_target(model, arguments.output);
  }
  if (!arguments.dry_run) {
    wanted->check_target(arguments.output);
  }

  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));
  const Workspace workspace(arguments.output);
  const CalibratedModel calibrated =
      calibrate_model(model, options, config.quant_config, calibration_options, workspace.path(), control);
  config.quant_config = calibrated.config;
  const auto backend = BackendRegistry::instance().create(arguments.backend, config);
  const ExportResult result = arguments.dry_run ? backend->dry_run(calibrated.model)
                                                : backend->export_model(calibrated.model, arguments.output, control);
  bar.end();
  if (!result.success) {
    throw Error::of_line(result.error_code.value_or(ErrorCode::kInternal), result.error_message);
  }
  const ExportReport report{
      .model = model,
      .config = config,
      .metadata = result.metadata,
      .output = arguments.output,
      .calibration = calibrated.calibration ? &*calibrated.calibration : nullptr,
      .provenance = arguments.report.provenance(model, arguments.command_line, !arguments.dry_run, control)};
  if (arguments.report.is_wanted()) {
    arguments.report.write(to_html(report));
  }
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_export(CLI::App& app, std::string command_line) {
  CLI::App* command = app.add_subcommand("export", "Quantize and compile a model for a device's runtime");
  const auto arguments = std::make_shared<ExportArguments>();
  arguments->command_line = std::move(command_line);
  arguments->model.add_to(*command);
  command->add_option("-o,--output", arguments->output, "The file to write; qnn: a folder")->required();
  command->add_option("--backend", arguments->backend, "xnnpack (default), coreml or qnn");
  arguments->quantization.add_to(*command);
  arguments->calibration.add_to(*command);
  command->add_option(
      "--activation-dtype", arguments->activation_dtype,
      "Type in which activations flow: fp32 (default; with coreml for --dtype fp32 alone) or fp16; int8: "
      "the same as --mode static; qnn: int16 (default of --mode static) or int8");
  command->add_option(
      "--seq-len", arguments->seq_len,
      "Input in tokens (default: the model's limit, at most 1024). xnnpack: the longest one, shorter ones "
      "run too; coreml: exactly that, several (64,128), or a range (8..512); qnn: exactly that");
  arguments->coreml.add_to(*command);
  arguments->qnn.add_to(*command);
  command->add_option("--container", arguments->container,
                      "coreml: mlpackage (default), or pte: for ExecuTorch's Core ML delegate; qnn: onnx (default), or "
                      "pte: each context binary for ExecuTorch's QNN delegate as well");
  arguments->report.add_to(*command);
  command->add_flag("--dry-run", arguments->dry_run,
                    "Predict the exact size and the formats; read no weights, write nothing");
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
