// diffulex-edge evaluate MODEL --data FILE --generate PROMPTS

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cli/answer_arguments.h"
#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/extra_output.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report_file.h"
#include "cli/runtime_arguments.h"
#include "core/process_memory.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/quantization_session.h"
#include "diffulex_edge/report.h"
#include "model_files/model_files.h"
#include "quant/layer_formats.h"
#include "runtime/logits_file.h"

namespace diffulex_edge::cli {
namespace {

struct EvaluateArguments {
  ModelArguments model;
  RuntimeArguments target;
  CalibrationArguments calibration;
  OutputOptions output_options;
  std::string data;  // empty: no loss is measured
  AnswerArguments answers;
  std::optional<std::string> against;
  ReportFile report;
  std::string command_line;
  bool no_format_comparison = false;
  std::optional<std::string> logits;
  bool float_activations = false;
  std::string arithmetic = "simulated";
  std::int64_t length = EvaluationTextOptions().length;
  std::int64_t sequences = EvaluationTextOptions().max_sequences;
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

std::vector<EvaluationSet> load_sets(const EvaluateArguments& arguments, const ModelOptions& options) {
  const std::filesystem::path data = arguments.data;
  if (data.empty()) {
    return {};
  }
  if (data.extension() == ".safetensors") {
    return read_evaluation_sets(data, read_model_config(arguments.model.path, options).vocab_size);
  }
  ModelOptions for_text = options;
  for_text.seq_len = arguments.length;
  const Model model = load_model(arguments.model.path, for_text);
  return make_evaluation_sets(
      model, data,
      {.length = arguments.length, .max_sequences = arguments.sequences, .seed = arguments.calibration.seed});
}

QuantizationPlan evaluated_plan(const EvaluateArguments& arguments, QuantizationPlan plan) {
  return arguments.float_activations ? with_float_activations(std::move(plan)) : plan;
}

void check_data(const EvaluateArguments& arguments) {
  if (arguments.data.empty() && !arguments.answers.is_wanted()) {
    throw Error(ErrorCode::kInvalidArgument, "--data", "is missing", "give --data, --generate or both");
  }
  if (arguments.data.empty()) {
    refuse_given({{"--logits", arguments.logits.has_value()}}, "needs --data", "add it");
  }
}

// The longest sequence that the model has to take.
std::int64_t needed_length(const EvaluateArguments& arguments, const ModelOptions& options,
                           const std::vector<EvaluationSet>& sets) {
  const std::int64_t limit = read_model_config(arguments.model.path, options).max_positions;
  const std::int64_t length = longest(sets);
  if (arguments.answers.is_wanted()) {
    return std::max(length, limit);
  }
  // An artefact of one length takes that of the data: calibration is cut at it, as in the export.
  if (arguments.calibration.data && arguments.target.backend.description().lengths != LengthSupport::kExact) {
    return std::max(length, std::min(arguments.calibration.length, limit));
  }
  return length;
}

// --logits, before long work.
void check_logits(const EvaluateArguments& arguments, const Model& model, const std::vector<EvaluationSet>& sets) {
  if (!arguments.logits) {
    return;
  }
  if (!std::ranges::all_of(sets, has_one_length)) {
    throw Error(
        ErrorCode::kInvalidArgument, "--logits",
        "needs sequences of one length, and those of " + arguments.data + " differ",
        "give --data token ids in rows of one length (.jsonl, .npy or .safetensors), or a --length that divides "
        "the text");
  }
  if (std::filesystem::path(*arguments.logits).extension() != ".safetensors") {
    throw Error(ErrorCode::kInvalidArgument, *arguments.logits,
                "does not end with .safetensors, by which `verify` knows it");
  }
  check_extra_output(*arguments.logits, "the file of logits", 1, model,
                     {arguments.data, arguments.calibration.data.value_or(""), arguments.report.path()});
}

// What the model is compared with, if anything is named: another model, or a plan of the same one.
struct Reference {
  std::optional<Model> model;
  std::optional<QuantizationPlan> plan;
  std::string name;  // in reports
};

Reference load_reference(const EvaluateArguments& arguments, const Model& original, const ModelOptions& options,
                         const TargetArithmetic& target) {
  Reference reference;
  if (arguments.against && std::filesystem::path(*arguments.against).extension() == ".json") {
    reference.name = arguments.model.path + " with the plan " + *arguments.against;
    reference.plan =
        evaluated_plan(arguments, quantize_model(original, read_plan(*arguments.against, original), {}, target).plan);
  } else if (arguments.against) {
    reference.name = *arguments.against;
    reference.model = load_model(*arguments.against, options);
  }
  return reference;
}

// For the report's chart of loss against size. A quantized checkpoint has one format, which is final.
std::optional<FormatComparison> compare_formats_if_wanted(const EvaluateArguments& arguments, const Model& original,
                                                          const QuantizationSession& session,
                                                          const std::vector<EvaluationSet>& sets,
                                                          const RunControl& control) {
  if (!arguments.report.is_wanted() || arguments.no_format_comparison || sets.empty() || original.stored_quantization) {
    return std::nullopt;
  }
  return compare_formats(original,
                         {.config = session.request().config,
                          .findings = session.findings(),
                          .target = session.request().target,
                          .float_activations = arguments.float_activations},
                         sets, control);
}

void run(const EvaluateArguments& arguments, std::stop_token stop) {
  const QuantizedArithmetic arithmetic = parse_quantized_arithmetic(arguments.arithmetic);
  check_data(arguments);
  const auto documents = hold_documents(arguments.model.path);
  ModelOptions options = arguments.model.options();
  const std::vector<EvaluationSet> sets = load_sets(arguments, options);
  options.seq_len = needed_length(arguments, options, sets);
  Model loaded = load_model(arguments.model.path, options);
  arguments.report.check(
      loaded, {arguments.data, arguments.calibration.data.value_or(""), arguments.answers.prompts.value_or("")});
  check_logits(arguments, loaded, sets);
  std::optional<AnswerJob> answers;
  if (arguments.answers.is_wanted()) {
    answers.emplace(arguments.answers, loaded, arguments.calibration.seed);
  }
  const QuantizationRequest request = arguments.target.request(loaded, arguments.calibration.options());
  QuantizationSession session(std::move(loaded), options, request);
  const Model& original = session.original();
  const Reference against = load_reference(arguments, original, options, request.target);

  ProgressBar bar(arguments.output_options.quiet);
  const RunControl control = arguments.output_options.control(bar, std::move(stop));
  session.calibrate(control);
  const QuantizationResult quantized = session.quantize();
  const QuantizationPlan own_plan = evaluated_plan(arguments, quantized.plan);
  const bool changes = changes_layers(own_plan);
  const QuantizationPlan* plan = changes ? &own_plan : nullptr;
  std::optional<EvaluatedModel> reference;
  std::string reference_name = against.name;
  if (against.plan) {
    reference = EvaluatedModel{.model = &original, .plan = &*against.plan};
  } else if (against.model) {
    reference = EvaluatedModel{.model = &*against.model};
  } else if (changes && !original.stored_quantization) {
    reference = EvaluatedModel{.model = &original};
    reference_name = arguments.model.path + " in float32";
  }
  const EvaluatedModel subject{.model = &session.model(), .plan = plan, .arithmetic = arithmetic};
  std::optional<LogitsFile> logits;
  LogitsSink sink;
  if (arguments.logits) {
    logits.emplace(*arguments.logits, sets, original.config.vocab_size);
    sink = [&](std::size_t set, std::span<const float> row) { logits->append(set, row); };
  }
  EvaluationResult result;
  if (!sets.empty()) {
    result = evaluate(subject, reference, sets, control, sink);
  }
  std::optional<GenerationEvaluation> written;
  if (answers) {
    const auto start = std::chrono::steady_clock::now();
    written = answers->run(subject, reference, control);
    result.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.peak_rss_bytes = peak_rss_bytes();
  }
  const std::optional<FormatComparison> formats =
      compare_formats_if_wanted(arguments, original, session, sets, control);
  const Provenance provenance = arguments.report.provenance(original, arguments.command_line, true, control);
  if (logits) {
    logits->commit(control.stop);
  }
  bar.end();

  std::vector<std::string> warnings = original.warnings;
  warnings.insert(warnings.end(), quantized.warnings.begin(), quantized.warnings.end());
  if (session.calibration()) {
    const std::vector<std::string>& found = session.calibration()->warnings;
    warnings.insert(warnings.end(), found.begin(), found.end());
  }
  const EvaluationReport report{.model = original,
                                .plan = plan,
                                .backend = arguments.target.backend.name(),
                                .arithmetic = arithmetic,
                                .result = result,
                                .data = arguments.data,
                                .reference = reference_name,
                                .warnings = warnings,
                                .calibration = session.calibration() ? &*session.calibration() : nullptr,
                                .formats = formats ? &*formats : nullptr,
                                .answers = written ? &*written : nullptr,
                                .prompts = arguments.answers.prompts,
                                .provenance = provenance};
  if (arguments.report.is_wanted()) {
    arguments.report.write(to_html(report));
  }
  print_line(arguments.output_options.json ? to_json(report) : to_text(report));
}

}  // namespace

Command add_evaluate(CLI::App& app, std::string command_line) {
  CLI::App* command = app.add_subcommand("evaluate", "Measure a model's loss, and what quantization costs");
  const auto arguments = std::make_shared<EvaluateArguments>();
  arguments->command_line = std::move(command_line);
  arguments->model.add_to(*command);
  command->add_option(
      "--data", arguments->data,
      "Safetensors file with pairs input_ids_R and target_ids_R (int64 [sequences, length]; target -100: "
      "not counted), or text (.txt, .jsonl) or token ids (.npy), which are masked at several ratios");
  arguments->answers.add_to(*command);
  command->add_option("--against", arguments->against,
                      "Compare with this model, or with this plan (.json) of MODEL, instead of with MODEL in float32");
  command->add_option("--length", arguments->length, "Text: tokens of a sequence, at most (default 256)");
  command->add_option("--sequences", arguments->sequences, "Text: sequences, at most; 0: all (default 64)");
  command->add_option("--logits", arguments->logits,
                      "Also write the logits of every counted position to this safetensors file, for `python -m "
                      "diffulex_edge verify ARTEFACT --against FILE`");
  command->add_flag("--float-activations", arguments->float_activations,
                    "Measure only the weights: activations in float32, whatever the target does to them");
  command->add_option(
      "--arithmetic", arguments->arithmetic,
      "How quantized layers compute: simulated (as XNNPACK, weights read tile by tile; default) or fast "
      "(integer kernels, packed weights in memory)");
  arguments->report.add_to(*command);
  command->add_flag("--no-format-comparison", arguments->no_format_comparison,
                    "Leave loss against size of every format out of the report: it takes some seven times as long");
  arguments->target.add_to(*command);
  arguments->calibration.add_to(*command);
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
