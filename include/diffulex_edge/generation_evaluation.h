// What a model's quantization costs, measured by what it writes: answers to prompts beside a reference's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge {

// When an answer is right.
enum class AnswerRule {
  EXACT,    // the text is the answer, white space at both ends apart
  NUMBER,   // the last number in the text is the last one in the answer; commas between digits don't count
  REGEX,    // the answer, a regular expression of PCRE2, matches somewhere in the text
  COMMAND,  // a program says so
};

std::string_view to_string(AnswerRule rule);  // "exact", ...
// Error{kInvalidArgument} for anything else.
AnswerRule parse_answer_rule(std::string_view text);

struct GenerationTask {
  std::vector<std::int64_t> prompt;
  std::string prompt_text;            // empty where ids were given
  std::optional<std::string> answer;  // without one, only tokens are compared
  AnswerRule rule = AnswerRule::EXACT;
};

struct GenerationTaskOptions {
  std::int64_t vocab_size = 0;
  bool has_judge = false;  // whether "command" is a rule
};

// One JSON object a line: "prompt" (text) or "input_ids", and perhaps "answer" with "rule" (default: exact); other keys
// are left alone. `tokenizer` is null where there is none, which only prompts of ids without answers do without.
// Throws Error{kBadFile} naming file and line.
std::vector<GenerationTask> read_generation_tasks(const std::filesystem::path& file, const Tokenizer* tokenizer,
                                                  const GenerationTaskOptions& options);

// Whether the program of AnswerRule::COMMAND takes a text for right.
using AnswerJudge = std::function<bool(const GenerationTask& task, const std::string& text)>;

// Runs `command` (a program and its first arguments) with three more arguments: prompt, answer and text, in which a NUL
// byte becomes U+FFFD. Exit code 0: right, 1: wrong. Throws Error{kInvalidArgument} for any other end, and for a
// program that can't be started.
AnswerJudge command_judge(std::vector<std::string> command, std::stop_token stop = {});

// Whether `text` answers the task, which has an answer. Throws what `judge` throws.
bool is_right(const GenerationTask& task, const std::string& text, const AnswerJudge& judge = {});

// A share of a whole with its 95% confidence interval, Wilson's score interval
// (https://doi.org/10.1080/01621459.1927.10502953).
struct Proportion {
  std::int64_t count = 0;
  std::int64_t of = 0;
  double share = 0.0;
  double low = 0.0;
  double high = 0.0;
};
Proportion proportion(std::int64_t count, std::int64_t of);

// What two runs of the same prompts have in common.
struct TokenAgreement {
  Proportion same;            // prompts whose tokens are all the same
  double equal_before = 0.0;  // mean share of tokens before the first that differs, of the longer text's
  // Median place of the first token that differs, from 0, of the prompts that have one.
  std::optional<double> first_difference;
};
// Tokens that both texts begin with.
std::int64_t equal_tokens(std::span<const std::int64_t> a, std::span<const std::int64_t> b);
TokenAgreement token_agreement(std::span<const GenerationResult> results, std::span<const GenerationResult> reference);

// What one model wrote for all prompts.
struct WrittenTexts {
  std::int64_t tokens = 0;
  std::int64_t forward_passes = 0;
  std::optional<Proportion> right;  // of the prompts that have answers

  double tokens_per_forward() const;
};

struct GenerationEvaluation {
  std::int64_t prompts = 0;
  WrittenTexts model;
  std::optional<WrittenTexts> reference;
  std::optional<TokenAgreement> agreement;  // with the reference
};

// Writes an answer to every prompt, `at_once` of them side by side. Throws what DiffusionEngine::generate() does, and
// Error{kInvalidArgument} for a temperature: texts are compared that have no chance in them.
std::vector<GenerationResult> write_answers(const DiffusionEngine& engine, std::span<const GenerationTask> tasks,
                                            const DiffusionGenerationConfig& config, std::size_t at_once = 8,
                                            const RunControl& control = {});

// Judges what was written; `reference` is empty where there is none. `tokenizer` is needed where tasks have answers.
GenerationEvaluation evaluate_answers(std::span<const GenerationTask> tasks, std::span<const GenerationResult> results,
                                      std::span<const GenerationResult> reference, const Tokenizer* tokenizer,
                                      const AnswerJudge& judge = {});

}  // namespace diffulex_edge
