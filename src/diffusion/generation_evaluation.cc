#include "diffulex_edge/generation_evaluation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/child_process.h"
#include "diffulex_edge/error.h"
#include "diffusion/numbers_in_text.h"
#include "tokenizer/regex.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr double kNormalQuantile = 1.959963984540054;  // of 97.5%

std::string_view stripped(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const std::size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view()
                                         : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

bool matches(const std::string& pattern, const std::string& text) {
  return std::ranges::any_of(Regex::from_pcre2(pattern, "answer").cut(replace_invalid_utf8(text)), &Span::is_match);
}

// An argument of a program ends at a NUL byte.
std::string as_argument(const std::string& text) {
  std::string argument;
  for (const char c : text) {
    argument += c == '\0' ? std::string("\uFFFD") : std::string(1, c);
  }
  return argument;
}

// What people read of the tokens.
std::string text_of(const Tokenizer& tokenizer, const std::vector<std::int64_t>& tokens) {
  std::vector<std::int64_t> shown;
  std::ranges::copy_if(tokens, std::back_inserter(shown),
                       [&](std::int64_t token) { return !tokenizer.is_special(token); });
  return tokenizer.decode(shown);
}

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

WrittenTexts written(std::span<const GenerationTask> tasks, std::span<const GenerationResult> results,
                     const Tokenizer* tokenizer, const AnswerJudge& judge) {
  WrittenTexts texts;
  std::int64_t answers = 0;
  std::int64_t right = 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    texts.tokens += static_cast<std::int64_t>(results[i].tokens.size());
    texts.forward_passes += results[i].forward_passes;
    if (!tasks[i].answer) {
      continue;
    }
    if (tokenizer == nullptr) {
      throw Error(ErrorCode::kInvalidArgument, "answers", "are there, and no tokenizer that gives the text");
    }
    ++answers;
    right += is_right(tasks[i], text_of(*tokenizer, results[i].tokens), judge) ? 1 : 0;
  }
  if (answers > 0) {
    texts.right = proportion(right, answers);
  }
  return texts;
}

}  // namespace

AnswerJudge command_judge(std::vector<std::string> command, std::stop_token stop) {
  return [command = std::move(command), stop = std::move(stop)](const GenerationTask& task, const std::string& text) {
    std::vector<std::string> words = command;
    for (const std::string& argument : {task.prompt_text, task.answer.value_or(""), text}) {
      words.push_back(as_argument(argument));
    }
    const ChildResult result = run_child(words, stop);
    if (result.signal != 0 || (result.exit_code != 0 && result.exit_code != 1)) {
      const std::string end = result.signal != 0 ? "signal " + std::to_string(result.signal)
                                                 : "exit code " + std::to_string(result.exit_code);
      throw Error(ErrorCode::kInvalidArgument, command.front(),
                  "ended with " + end + ", which is neither 0 (right) nor 1 (wrong)",
                  std::string(stripped(result.errors)));
    }
    return result.exit_code == 0;
  };
}

bool is_right(const GenerationTask& task, const std::string& text, const AnswerJudge& judge) {
  const std::string answer = task.answer.value_or("");
  switch (task.rule) {
    case AnswerRule::EXACT:
      return stripped(text) == stripped(answer);
    case AnswerRule::NUMBER: {
      const std::optional<double> number = last_number(text);
      return number && number == last_number(answer);
    }
    case AnswerRule::REGEX:
      return matches(answer, text);
    case AnswerRule::COMMAND:
      break;
  }
  if (!judge) {
    throw Error(ErrorCode::kInvalidArgument, "rule", "'command' needs a program that judges");
  }
  return judge(task, text);
}

Proportion proportion(std::int64_t count, std::int64_t of) {
  const auto n = static_cast<double>(of);
  if (of == 0) {
    return {.low = 0.0, .high = 1.0};
  }
  const double share = static_cast<double>(count) / n;
  const double square = kNormalQuantile * kNormalQuantile;
  const double center = (share + square / (2.0 * n)) / (1.0 + square / n);
  const double half =
      kNormalQuantile / (1.0 + square / n) * std::sqrt(share * (1.0 - share) / n + square / (4.0 * n * n));
  // The ends of none and of all are exact, but for the last bits.
  return {.count = count,
          .of = of,
          .share = share,
          .low = count == 0 ? 0.0 : center - half,
          .high = count == of ? 1.0 : center + half};
}

std::int64_t equal_tokens(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

TokenAgreement token_agreement(std::span<const GenerationResult> results, std::span<const GenerationResult> reference) {
  std::int64_t same = 0;
  double shares = 0.0;
  std::vector<double> places;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::int64_t equal = equal_tokens(results[i].tokens, reference[i].tokens);
    const auto longer = static_cast<std::int64_t>(std::max(results[i].tokens.size(), reference[i].tokens.size()));
    shares += longer == 0 ? 1.0 : static_cast<double>(equal) / static_cast<double>(longer);
    if (equal == longer) {
      ++same;
    } else {
      places.push_back(static_cast<double>(equal));
    }
  }
  TokenAgreement agreement{.same = proportion(same, static_cast<std::int64_t>(results.size()))};
  agreement.equal_before = results.empty() ? 0.0 : shares / static_cast<double>(results.size());
  if (!places.empty()) {
    agreement.first_difference = median_of(std::move(places));
  }
  return agreement;
}

double WrittenTexts::tokens_per_forward() const {
  return forward_passes == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(forward_passes);
}

std::vector<GenerationResult> write_answers(const DiffusionEngine& engine, std::span<const GenerationTask> tasks,
                                            const DiffusionGenerationConfig& config, std::size_t at_once,
                                            const RunControl& control) {
  if (config.temperature != 0.0) {
    throw Error(ErrorCode::kInvalidArgument, "temperature", "is given, and only texts without chance are compared",
                "leave it out");
  }
  std::vector<GenerationRequest> requests;
  for (const GenerationTask& task : tasks) {
    requests.push_back({.prompt = task.prompt, .suffix = {}, .config = config});
    static_cast<void>(engine.cache_bytes(requests.back()));  // what can't be is refused before the first pass
  }
  std::vector<GenerationResult> results;
  for (std::size_t begin = 0; begin < requests.size(); begin += std::max<std::size_t>(at_once, 1)) {
    if (control.on_progress) {
      control.on_progress({.stage = "answers",
                           .done_bytes = static_cast<std::int64_t>(begin),
                           .total_bytes = static_cast<std::int64_t>(requests.size()),
                           .in_bytes = false});
    }
    const std::size_t count = std::min(std::max<std::size_t>(at_once, 1), requests.size() - begin);
    std::ranges::move(engine.generate(std::span(requests).subspan(begin, count), {}, control),
                      std::back_inserter(results));
  }
  return results;
}

GenerationEvaluation evaluate_answers(std::span<const GenerationTask> tasks, std::span<const GenerationResult> results,
                                      std::span<const GenerationResult> reference, const Tokenizer* tokenizer,
                                      const AnswerJudge& judge) {
  if (results.size() != tasks.size() || (!reference.empty() && reference.size() != tasks.size())) {
    throw Error(ErrorCode::kInvalidArgument, "answers", "are not as many as the prompts");
  }
  GenerationEvaluation evaluation{.prompts = static_cast<std::int64_t>(tasks.size()),
                                  .model = written(tasks, results, tokenizer, judge)};
  if (!reference.empty()) {
    evaluation.reference = written(tasks, reference, tokenizer, judge);
    evaluation.agreement = token_agreement(results, reference);
  }
  return evaluation;
}

}  // namespace diffulex_edge
