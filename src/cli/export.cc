// diffulex-edge export MODEL -o FILE, or --bundle FOLDER

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/command_options.h"
#include "backends/option_values.h"
#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report_file.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/export_session.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct ExportArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  CalibrationArguments calibration;
  OutputOptions output_options;
  std::string output;
  std::string bundle;
  BackendArguments backend;
  std::optional<std::string> activation_dtype;
  std::optional<std::string> seq_len;
  ReportFile report;
  std::string command_line;
  bool dry_run = false;
};

BackendConfig backend_config(const ExportArguments& arguments) {
  BackendConfig config;
  config.backend_options = arguments.backend.options();
  if (arguments.activation_dtype) {
    config.activation_dtype = parse_activation_dtype(*arguments.activation_dtype);
  }
  if (arguments.seq_len) {
    config.input_lengths = parse_input_lengths(*arguments.seq_len);
  }
  return config;
}

// The artefact's place, or the bundle's.
const std::string& target_of(const ExportArguments& arguments) {
  if (arguments.output.empty() == arguments.bundle.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--output",
                arguments.output.empty() ? "is missing" : "is given beside --bundle",
                "give -o for the artefact alone, or --bundle for a folder with the tokenizer beside it");
  }
  return arguments.bundle.empty() ? arguments.output : arguments.bundle;
}

void run(const ExportArguments& arguments, std::stop_token stop) {
  const std::string& target = target_of(arguments);
  BackendConfig config = backend_config(arguments);
  check_options(arguments.backend.description(), config.backend_options);  // before the model is read
  ModelOptions options = arguments.model.options();
  if (config.input_lengths) {
    options.seq_len = config.input_lengths->longest();
  }
  Model model = load_model(arguments.model.path, options);
  arguments.report.check(model, {target, arguments.calibration.data.value_or("")});
  config.quant_config = arguments.quantization.config(model);
  ExportSession session(std::move(model), options,
                        {.backend = arguments.backend.name(),
                         .config = std::move(config),
                         .calibration = arguments.calibration.options(),
                         .known = {},
                         .output = target,
                         .is_bundle = !arguments.bundle.empty(),
                         .dry_run = arguments.dry_run});

  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));
  const ExportResult result = session.run(control);
  bar.end();
  result.check();
  const ExportReport report{
      .model = session.model(),
      .config = session.config(),
      .metadata = result.metadata,
      .output = target,
      .calibration = session.calibration() ? &*session.calibration() : nullptr,
      .provenance = arguments.report.provenance(session.model(), arguments.command_line, !arguments.dry_run, control)};
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
  const std::vector<BackendDescription> backends = BackendRegistry::instance().descriptions();
  command->add_option("-o,--output", arguments->output, "What to write. " + describe_outputs(backends));
  command->add_option(
      "--bundle", arguments->bundle,
      "A folder to write in its place: the artefact, its tokenizer and generation.json, as runners open");
  arguments->backend.add_name_to(*command);
  arguments->quantization.add_to(*command);
  arguments->calibration.add_to(*command);
  command->add_option("--activation-dtype", arguments->activation_dtype,
                      "Type in which activations flow. " + describe_activation_dtypes(backends));
  command->add_option("--seq-len", arguments->seq_len,
                      "Input in tokens (default: the model's limit, at most 1024). " + describe_lengths(backends));
  arguments->backend.add_options_to(*command);
  arguments->report.add_to(*command);
  command->add_flag("--dry-run", arguments->dry_run,
                    "Predict the exact size and the formats; read no weights, write nothing");
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
