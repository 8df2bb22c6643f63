#include "cli/answer_arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>
#include <utility>

#include "diffulex_edge/error.h"
#include "model_files/model_files.h"
#include "models/special_tokens.h"

namespace diffulex_edge::cli {
namespace {

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) {
    words.push_back(word);
  }
  return words;
}

}  // namespace

void AnswerArguments::add_to(CLI::App& command) {
  const std::vector<CLI::Option*> before = command.get_options();
  CLI::Option* generate = command.add_option(
      "--generate", prompts,
      "Also write greedy text, and compare it with the reference's: a JSON object a line with \"prompt\" or "
      "\"input_ids\", and perhaps \"answer\" with \"rule\": exact (default), number, regex or command");
  command.add_option("--judge-command", judge_command,
                     "The program of the rule command, and its first arguments, split at spaces: gets prompt, answer "
                     "and text as three more, exit code 0 is right and 1 wrong");
  command.add_option("--at-once", at_once, "Prompts that are written side by side (default 8)")
      ->check(CLI::Range(1, 1024));
  command.add_option("--decoding-block-length", block_length,
                     "Tokens that are decoded before later ones, as --block-length of generate");
  generation.add_without_seed_to(command);
  for (CLI::Option* option : command.get_options()) {
    if (option != generate && std::ranges::find(before, option) == before.end()) {
      option->needs(generate);
    }
  }
}

AnswerJob::AnswerJob(const AnswerArguments& arguments, const Model& model, std::uint64_t seed)
    : config_(arguments.generation.parsed(find_eos_ids(model), find_expand_id(model))),
      at_once_(static_cast<std::size_t>(arguments.at_once)) {
  config_.block_length = arguments.block_length;
  config_.seed = seed;
  if (config_.temperature != 0.0) {
    throw Error(ErrorCode::kInvalidArgument, "--temperature", "is given, and only texts without chance are compared",
                "leave it out");
  }
  if (arguments.judge_command) {
    judge_command_ = words_of(*arguments.judge_command);
    if (judge_command_.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "--judge-command", "is empty");
    }
  }
  if (!tokenizer_files(model.path).empty()) {
    tokenizer_.emplace(model.path);
  }
  tasks_ = read_generation_tasks(arguments.prompts.value_or(""), tokenizer_ ? &*tokenizer_ : nullptr,
                                 {.vocab_size = model.config.vocab_size, .has_judge = !judge_command_.empty()});
}

std::vector<GenerationResult> AnswerJob::write(const EvaluatedModel& model, const RunControl& control) const {
  return write_answers(DiffusionEngine(*model.model, model.plan, control), tasks_, config_, at_once_, control);
}

// One model after the other, so that the weights of only one are in memory.
GenerationEvaluation AnswerJob::run(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
                                    const RunControl& control) const {
  std::vector<GenerationResult> of_reference;
  if (reference) {
    of_reference = write(*reference, control);
  }
  const std::vector<GenerationResult> results = write(subject, control);
  const AnswerJudge judge = judge_command_.empty() ? AnswerJudge() : command_judge(judge_command_, control.stop);
  return evaluate_answers(tasks_, results, of_reference, tokenizer_ ? &*tokenizer_ : nullptr, judge);
}

}  // namespace diffulex_edge::cli
