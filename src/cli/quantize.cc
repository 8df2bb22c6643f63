// diffulex-edge quantize MODEL -o DIR

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "core/process_memory.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct QuantizeArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  OutputOptions output_options;
  std::string output;
};

void run(const QuantizeArguments& arguments, std::stop_token stop) {
  const auto start = std::chrono::steady_clock::now();
  const Model model = load_model(arguments.model.path, arguments.model.options());
  const QuantizationResult result = quantize_model(model, arguments.quantization.config(model));
  std::int64_t file_bytes = 0;
  {
    ProgressBar bar(arguments.output_options.quiet);
    file_bytes = write_quantized_checkpoint(model, result.plan, arguments.output,
                                            {.threads = arguments.output_options.threads,
                                             .stop = std::move(stop),
                                             .on_progress = [&](const Progress& progress) { bar.show(progress); }});
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const QuantizeReport report{model, result, arguments.output, file_bytes, seconds, peak_rss_bytes()};
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_quantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "Write a quantized safetensors checkpoint");
  const auto arguments = std::make_shared<QuantizeArguments>();
  arguments->model.add_to(*command);
  command->add_option("-o,--output", arguments->output, "The folder to write")->required();
  arguments->quantization.add_to(*command);
  arguments->output_options.add_to(*command);
  return {.app = command, .json = &arguments->output_options.json, .run = [arguments](std::stop_token stop) {
            run(*arguments, std::move(stop));
          }};
}

}  // namespace diffulex_edge::cli
