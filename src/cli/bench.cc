// diffulex-edge bench MODEL

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/runtime_arguments.h"
#include "core/parallel.h"
#include "diffulex_edge/quantization_session.h"
#include "diffusion/pass_benchmark.h"
#include "diffusion/text_model.h"
#include "quant/layer_formats.h"
#include "report/pass_benchmark_report.h"

namespace diffulex_edge::cli {
namespace {

struct BenchArguments {
  TextModelArguments model;
  OutputOptions output_options;
  PassBenchmarkOptions options;
  std::vector<std::int64_t> passes_per_block = {1, 2, 4};
  std::string rows = "all";
  std::string cache_dtype = "fp32";
};

void run(const BenchArguments& arguments, std::stop_token stop) {
  PassBenchmarkOptions options = arguments.options;
  options.last_row = arguments.rows == "last";
  options.cache_dtype = parse_cache_dtype(arguments.cache_dtype);
  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));
  const std::string& folder = arguments.model.model.path;
  const ModelOptions model_options = text_model_options(folder, arguments.model.options());
  Model loaded = load_model(folder, model_options);
  check_pass_benchmark(options, loaded.seq_len);
  const QuantizationRequest request = arguments.model.runtime.request(loaded, {});
  QuantizationSession session(std::move(loaded), model_options, request);
  session.calibrate(control);
  const QuantizationResult quantized = session.quantize();
  const QuantizationPlan* plan = changes_layers(quantized.plan) ? &quantized.plan : nullptr;
  const PassBenchmark result =
      benchmark_passes(PackedModel(session.model(), plan, control, arguments.model.packs), options, control);
  bar.end();
  std::vector<std::string> warnings = session.original().warnings;
  warnings.insert(warnings.end(), quantized.warnings.begin(), quantized.warnings.end());
  const PassBenchmarkReport report{.model = session.original(),
                                   .plan = plan,
                                   .options = options,
                                   .result = result,
                                   .processor = processor_name(),
                                   .instruction_set = packed_instruction_set(),
                                   .threads = thread_count(control),
                                   .passes_per_block = arguments.passes_per_block,
                                   .warnings = warnings};
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Measure how long a model's forward passes take on this machine");
  const auto arguments = std::make_shared<BenchArguments>();
  arguments->model.add_to(*command);
  const auto add_numbers = [&](const char* name, std::vector<std::int64_t>& numbers, const char* help) {
    return command->add_option(name, numbers, help)->delimiter(',')->allow_extra_args(false);
  };
  add_numbers("--tokens", arguments->options.tokens, "Tokens of a pass (default 1,4,8,16,32,64)");
  add_numbers("--contexts", arguments->options.contexts, "Tokens in the cache before it (default 0,512,2048)");
  add_numbers("--passes-per-block", arguments->passes_per_block,
              "Passes that decode a block of so many tokens, for tokens per second (default 1,2,4)")
      ->check(CLI::PositiveNumber);
  command->add_option("--rows", arguments->rows, "Logits that a pass computes: of all its tokens (default) or the last")
      ->check(CLI::IsMember({"all", "last"}));
  command->add_option("--cache-dtype", arguments->cache_dtype, "Keys and values as fp32 (default), fp16 or int8");
  command->add_option("--block-length", arguments->model.block_length,
                      "Block of a block-causal model (default: the model's)");
  command->add_option("--repetitions", arguments->options.repetitions, "Of each measurement (default 5)")
      ->check(CLI::Range(1, 1000));
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
