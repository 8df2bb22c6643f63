// Prompts with answers, from a file.

#include <algorithm>
#include <array>
#include <utility>

#include "core/join.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation_evaluation.h"
#include "diffusion/numbers_in_text.h"
#include "runtime/json_lines.h"
#include "tokenizer/regex.h"

namespace diffulex_edge {
namespace {

using RuleName = std::pair<AnswerRule, std::string_view>;
constexpr std::array kRuleNames = {
    RuleName{AnswerRule::EXACT, "exact"},
    RuleName{AnswerRule::NUMBER, "number"},
    RuleName{AnswerRule::REGEX, "regex"},
    RuleName{AnswerRule::COMMAND, "command"},
};

const std::string& read_string(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json& value = object[key];
  if (!value.is_string()) {
    throw Error(ErrorCode::kBadFile, where, "\"" + std::string(key) + "\" is not a string");
  }
  return value.get_ref<const std::string&>();
}

class TaskReader {
 public:
  TaskReader(const Tokenizer* tokenizer, const GenerationTaskOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  GenerationTask read(const nlohmann::json& object, const std::string& where) const {
    const bool has_text = object.is_object() && object.contains("prompt");
    const bool has_ids = object.is_object() && object.contains("input_ids");
    if (has_text == has_ids) {
      throw Error(ErrorCode::kBadFile, where, "it is not a JSON object with either \"prompt\" or \"input_ids\"");
    }
    GenerationTask task;
    if (has_ids) {
      task.prompt = read_input_ids(object["input_ids"], where);
      check_token_ids(task.prompt, options_.vocab_size, where, "are the prompts for another tokenizer?");
    } else {
      task.prompt_text = read_string(object, "prompt", where);
      task.prompt = encode(task.prompt_text, where);
    }
    if (object.contains("answer")) {
      need_tokenizer(where);
      task.answer = read_string(object, "answer", where);
    }
    if (object.contains("rule")) {
      task.rule = read_rule(object, where);
    }
    check_answer(task, where);
    return task;
  }

 private:
  void need_tokenizer(const std::string& where) const {
    if (tokenizer_ == nullptr) {
      throw Error(ErrorCode::kBadFile, where,
                  "it holds text, and the model's folder has no tokenizer.json, and no other tokenizer, to tokenize it",
                  "put the model's tokenizer there, or give \"input_ids\" without answers");
    }
  }

  std::vector<std::int64_t> encode(const std::string& text, const std::string& where) const {
    need_tokenizer(where);
    std::vector<std::int64_t> ids = tokenizer_->begin_ids();
    const std::vector<std::int64_t> rest = tokenizer_->encode(text);
    ids.insert(ids.end(), rest.begin(), rest.end());
    if (ids.empty()) {
      throw Error(ErrorCode::kBadFile, where, "\"prompt\" has no token");
    }
    check_token_ids(ids, options_.vocab_size, where, "is the tokenizer that of the model?");
    return ids;
  }

  AnswerRule read_rule(const nlohmann::json& object, const std::string& where) const {
    if (!object.contains("answer")) {
      throw Error(ErrorCode::kBadFile, where, "it has a \"rule\", but no \"answer\"");
    }
    const std::string& name = read_string(object, "rule", where);
    const auto* found = std::ranges::find(kRuleNames, name, &RuleName::second);
    if (found == kRuleNames.end()) {
      throw Error(ErrorCode::kBadFile, where,
                  "the rule '" + name + "' is not one of " + join(kRuleNames, ", ", &RuleName::second));
    }
    if (found->first == AnswerRule::COMMAND && !options_.has_judge) {
      throw Error(ErrorCode::kBadFile, where, "the rule is 'command', and no program was given that judges",
                  "name one with --judge-command");
    }
    return found->first;
  }

  static void check_answer(const GenerationTask& task, const std::string& where) {
    if (task.answer && task.rule == AnswerRule::NUMBER && !last_number(*task.answer)) {
      throw Error(ErrorCode::kBadFile, where, "the rule is 'number', and the answer has none");
    }
    if (task.answer && task.rule == AnswerRule::REGEX) {
      try {
        static_cast<void>(Regex::from_pcre2(*task.answer, where));
      } catch (const Error& error) {
        throw Error(ErrorCode::kBadFile, where, "\"answer\": " + error.problem(), error.advice());
      }
    }
  }

  const Tokenizer* tokenizer_;
  GenerationTaskOptions options_;
};

}  // namespace

std::string_view to_string(AnswerRule rule) { return std::ranges::find(kRuleNames, rule, &RuleName::first)->second; }

AnswerRule parse_answer_rule(std::string_view text) {
  const auto* found = std::ranges::find(kRuleNames, text, &RuleName::second);
  if (found == kRuleNames.end()) {
    throw Error(ErrorCode::kInvalidArgument, "rule",
                "'" + std::string(text) + "' is not one of " + join(kRuleNames, ", ", &RuleName::second));
  }
  return found->first;
}

std::vector<GenerationTask> read_generation_tasks(const std::filesystem::path& file, const Tokenizer* tokenizer,
                                                  const GenerationTaskOptions& options) {
  const TaskReader reader(tokenizer, options);
  std::vector<GenerationTask> tasks;
  for_each_json_line(file, [&](const nlohmann::json& object, const std::string& where) {
    tasks.push_back(reader.read(object, where));
    return true;
  });
  if (tasks.empty()) {
    throw Error(ErrorCode::kBadFile, file.string(), "it has no prompt");
  }
  return tasks;
}

}  // namespace diffulex_edge
