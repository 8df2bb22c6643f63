// diffulex-edge evaluate MODEL --data FILE

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct EvaluateArguments {
  ModelArguments model;
  QuantizationArguments quantization;
  OutputOptions output_options;
  std::string data;
  std::optional<std::string> against;
};

std::int64_t longest(const std::vector<EvaluationSet>& sets) {
  std::size_t length = 1;
  for (const EvaluationSet& set : sets) {
    for (const auto& tokens : set.inputs) {
      length = std::max(length, tokens.size());
    }
  }
  return static_cast<std::int64_t>(length);
}

void run(const EvaluateArguments& arguments, std::stop_token stop) {
  ModelOptions options = arguments.model.options();
  const ModelConfig config = read_model_config(arguments.model.path, options);
  const std::vector<EvaluationSet> sets = read_evaluation_sets(arguments.data, config.vocab_size);
  options.seq_len = longest(sets);
  const Model model = load_model(arguments.model.path, options);

  const QuantizationResult quantized = quantize_model(model, arguments.quantization.config(model));
  const bool changes = std::ranges::any_of(
      quantized.plan.layers, [](const LayerPlan& layer) { return layer.dtype != QuantizationDtype::FP32; });
  const QuantizationPlan* plan = changes ? &quantized.plan : nullptr;
  std::optional<Model> other;
  std::optional<EvaluatedModel> reference;
  std::string reference_name;
  if (arguments.against) {
    other = load_model(*arguments.against, options);
    reference = EvaluatedModel{.model = &*other};
    reference_name = *arguments.against;
  } else if (changes && !model.stored_quantization) {
    reference = EvaluatedModel{.model = &model};
    reference_name = arguments.model.path + " in float32";
  }

  EvaluationResult result;
  {
    ProgressBar bar(arguments.output_options.quiet, ProgressBar::Unit::kShare);
    const RunControl control{.threads = arguments.output_options.threads,
                             .stop = std::move(stop),
                             .on_progress = [&](const Progress& progress) { bar.show(progress); }};
    result = evaluate({.model = &model, .plan = plan}, reference, sets, control);
  }
  std::vector<std::string> warnings = model.warnings;
  warnings.insert(warnings.end(), quantized.warnings.begin(), quantized.warnings.end());
  const EvaluationReport report{model, plan, result, arguments.data, reference_name, warnings};
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_evaluate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("evaluate", "Measure a model's loss, and what quantization costs");
  const auto arguments = std::make_shared<EvaluateArguments>();
  arguments->model.add_to(*command);
  command
      ->add_option("--data", arguments->data,
                   "Safetensors file with pairs input_ids_R and target_ids_R (int64 [sequences, length]; target -100: "
                   "not counted)")
      ->required();
  command->add_option("--against", arguments->against, "Compare with this model instead of with MODEL in float32");
  arguments->quantization.add_to(*command);
  arguments->output_options.add_to(*command);
  return {.app = command, .json = &arguments->output_options.json, .run = [arguments](std::stop_token stop) {
            run(*arguments, std::move(stop));
          }};
}

}  // namespace diffulex_edge::cli
