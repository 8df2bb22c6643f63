// diffulex-edge quantize MODEL -o DIR|FILE.gguf

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "core/output_file.h"
#include "core/output_folder.h"
#include "core/process_memory.h"
#include "diffulex_edge/gguf_output.h"
#include "diffulex_edge/quantization_session.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct QuantizeArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  CalibrationArguments calibration;
  OutputOptions output_options;
  std::string output;
};

struct Written {
  QuantizationResult result;
  std::int64_t bytes = 0;
};

// Rounding with calibration writes the checkpoint as it goes.
Written write_folder(QuantizationSession& session, const std::string& output, const RunControl& control) {
  OutputFolder::check(output);  // else what is in its way would show after the calibration
  session.calibrate(control);
  Written written{.result = session.quantize()};
  const bool is_written = session.model().path != session.original().path;
  written.bytes =
      is_written ? static_cast<std::int64_t>(std::filesystem::file_size(session.model().path / "model.safetensors"))
                 : write_quantized_checkpoint(session.original(), written.result.plan, output, control);
  return written;
}

// Rounding with calibration writes a temporary checkpoint beside the file.
Written write_gguf(QuantizationSession& session, const std::string& output, const RunControl& control) {
  OutputFile::check(output);
  const GgufOutput gguf(session.original());
  const QuantizationRequest& request = session.request();
  gguf.in_gguf_formats(session.original(),
                       quantize_model(session.original(), request.config, session.made_up_findings(), request.target));
  session.calibrate(control);
  Written written{.result = gguf.in_gguf_formats(session.model(), session.quantize())};
  written.bytes = gguf.write(session.model(), written.result.plan, output, control);
  return written;
}

void run(const QuantizeArguments& arguments, std::stop_token stop) {
  const auto start = std::chrono::steady_clock::now();
  const ModelOptions options = arguments.model.options();
  Model loaded = load_model(arguments.model.path, options);
  const QuantizationConfig config = arguments.quantization.config(loaded);
  const bool is_gguf = is_gguf_name(arguments.output);
  QuantizationSession session(
      std::move(loaded), options,
      {.config = config, .target = {}, .calibration = arguments.calibration.options(), .known = {}},
      is_gguf ? RoundedCopy{.beside = arguments.output} : RoundedCopy{.folder = arguments.output});
  const Model& model = session.original();
  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));
  const auto [result, file_bytes] =
      is_gguf ? write_gguf(session, arguments.output, control) : write_folder(session, arguments.output, control);
  bar.end();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const QuantizeReport report{.model = model,
                              .result = result,
                              .output = arguments.output,
                              .file_bytes = file_bytes,
                              .seconds = seconds,
                              .peak_rss_bytes = peak_rss_bytes(),
                              .calibration = session.calibration() ? &*session.calibration() : nullptr};
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_quantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "Write a quantized safetensors checkpoint, or a GGUF file");
  const auto arguments = std::make_shared<QuantizeArguments>();
  arguments->model.add_to(*command);
  command->add_option("-o,--output", arguments->output, "The folder to write, or a file FILE.gguf")->required();
  arguments->quantization.add_to(*command);
  arguments->calibration.add_to(*command);
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
