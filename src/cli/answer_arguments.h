// What evaluate --generate takes: prompts, how text is written for them, and who judges it.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cli/generation_arguments.h"
#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/generation_evaluation.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge::cli {

struct AnswerArguments {
  GenerationArguments generation;
  std::optional<std::string> prompts;
  std::optional<std::string> judge_command;
  std::optional<std::int64_t> block_length;
  std::int64_t at_once = 8;

  void add_to(CLI::App& command);
  bool is_wanted() const { return prompts.has_value(); }
};

// The prompts, before long work, and what is to be written for them.
class AnswerJob {
 public:
  // Reads the prompts, with the tokenizer of the model's folder. Throws Error.
  AnswerJob(const AnswerArguments& arguments, const Model& model, std::uint64_t seed);

  GenerationEvaluation run(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
                           const RunControl& control) const;

 private:
  std::vector<GenerationResult> write(const EvaluatedModel& model, const RunControl& control) const;

  std::optional<Tokenizer> tokenizer_;
  std::vector<GenerationTask> tasks_;
  DiffusionGenerationConfig config_;
  std::vector<std::string> judge_command_;
  std::size_t at_once_;
};

}  // namespace diffulex_edge::cli
