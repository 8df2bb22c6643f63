#include "diffulex_edge/generation_evaluation.h"

#include <gtest/gtest.h>

#include <fstream>

#include "diffulex_edge/error.h"
#include "diffusion/numbers_in_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

GenerationTask task(const std::string& answer, AnswerRule rule) {
  return {.prompt = {1}, .prompt_text = "2 + 2?", .answer = answer, .rule = rule};
}

GenerationResult result(std::vector<std::int64_t> tokens, std::int64_t passes = 1) {
  return {.tokens = std::move(tokens), .forward_passes = passes};
}

TEST(GenerationEvaluation, ExactAnswersAreEqualButForSpaceAtTheEnds) {
  EXPECT_TRUE(is_right(task(" four\n", AnswerRule::EXACT), "four  "));
  EXPECT_FALSE(is_right(task("four", AnswerRule::EXACT), "Four"));
  EXPECT_FALSE(is_right(task("four", AnswerRule::EXACT), "four."));
  EXPECT_TRUE(is_right(task("", AnswerRule::EXACT), " \t\n"));
}

TEST(GenerationEvaluation, LastNumberIsReadAsPeopleWriteIt) {
  EXPECT_EQ(last_number("first 3, then 4."), 4.0);
  EXPECT_EQ(last_number("1,234,567.50 dollars"), 1234567.5);
  EXPECT_EQ(last_number("1, 2"), 2.0);
  EXPECT_EQ(last_number("it is -7"), -7.0);
  EXPECT_EQ(last_number("10-3"), 3.0);
  EXPECT_EQ(last_number("A-4"), 4.0);
  EXPECT_EQ(last_number(".5"), 0.5);
  EXPECT_EQ(last_number("2e3 e"), 2000.0);
  EXPECT_EQ(last_number("2e-1"), 0.2);
  EXPECT_EQ(last_number("5."), 5.0);
  EXPECT_EQ(last_number("1.2.3"), 0.3);
  EXPECT_EQ(last_number("none, ."), std::nullopt);
}

TEST(GenerationEvaluation, NumbersAreComparedByValue) {
  EXPECT_TRUE(is_right(task("#### 1,234", AnswerRule::NUMBER), "So 2 and 1234.0 dollars"));
  EXPECT_FALSE(is_right(task("4", AnswerRule::NUMBER), "4, or 5"));
  EXPECT_FALSE(is_right(task("4", AnswerRule::NUMBER), "four"));
}

TEST(GenerationEvaluation, RegularExpressionsAreSearched) {
  EXPECT_TRUE(is_right(task("(?i)\\bfour\\b", AnswerRule::REGEX), "It is Four."));
  EXPECT_FALSE(is_right(task("^four$", AnswerRule::REGEX), "It is four."));
}

TEST(GenerationEvaluation, ACommandJudgesByItsExitCode) {
  const AnswerJudge judge =
      command_judge({"/bin/sh", "-c", R"(test "$1" = "2 + 2?" && test "$2" = 4 && test "$3" = "x 4")", "judge"});
  EXPECT_TRUE(is_right(task("4", AnswerRule::COMMAND), "x 4", judge));
  EXPECT_FALSE(is_right(task("4", AnswerRule::COMMAND), "x 5", judge));
  EXPECT_THROW(is_right(task("4", AnswerRule::COMMAND), "x 4"), Error);
  EXPECT_THROW(is_right(task("4", AnswerRule::COMMAND), "", command_judge({"/bin/sh", "-c", "exit 2"})), Error);
  EXPECT_THROW(is_right(task("4", AnswerRule::COMMAND), "", command_judge({"/no/such/judge"})), Error);
}

// Worked out by hand with z = 1.959964: for 8 of 10, (0.8 + 0.192073) / 1.384146 +- 0.226578.
TEST(GenerationEvaluation, WilsonsInterval) {
  const Proportion most = proportion(8, 10);
  EXPECT_DOUBLE_EQ(most.share, 0.8);
  EXPECT_NEAR(most.low, 0.490162, 1e-6);
  EXPECT_NEAR(most.high, 0.943318, 1e-6);
  const Proportion none = proportion(0, 10);
  EXPECT_EQ(none.low, 0.0);
  EXPECT_NEAR(none.high, 0.277533, 1e-6);  // z^2 / (n + z^2)
  const Proportion all = proportion(10, 10);
  EXPECT_NEAR(all.low, 1.0 - 0.277533, 1e-6);
  EXPECT_EQ(all.high, 1.0);
}

TEST(GenerationEvaluation, TokensAreComparedUpToTheFirstThatDiffers) {
  const std::vector<GenerationResult> a = {result({1, 2, 3, 4}), result({1, 2}), result({5, 6}), result({})};
  const std::vector<GenerationResult> b = {result({1, 9, 3, 4}), result({1, 2, 3, 4}), result({5, 6}), result({})};
  const TokenAgreement agreement = token_agreement(a, b);
  EXPECT_EQ(agreement.same.count, 2);
  EXPECT_EQ(agreement.same.of, 4);
  EXPECT_DOUBLE_EQ(agreement.equal_before, (0.25 + 0.5 + 1.0 + 1.0) / 4.0);
  EXPECT_EQ(agreement.first_difference, 1.5);  // of 1 and 2
  EXPECT_EQ(token_agreement(a, a).first_difference, std::nullopt);
}

TEST(GenerationEvaluation, CountsTokensPassesAndRightAnswers) {
  const Tokenizer tokenizer(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  const std::vector<GenerationTask> tasks = {task("yes", AnswerRule::EXACT), {.prompt = {1}}};
  const std::vector<GenerationResult> right = {result(tokenizer.encode("yes"), 2), result({5, 6, 7}, 3)};
  const std::vector<GenerationResult> wrong = {result(tokenizer.encode("no"), 4), result({5, 6, 8}, 4)};
  const GenerationEvaluation evaluation = evaluate_answers(tasks, right, wrong, &tokenizer);
  const auto tokens = static_cast<std::int64_t>(right[0].tokens.size() + 3);
  EXPECT_EQ(evaluation.prompts, 2);
  EXPECT_EQ(evaluation.model.tokens, tokens);
  EXPECT_EQ(evaluation.model.forward_passes, 5);
  EXPECT_DOUBLE_EQ(evaluation.model.tokens_per_forward(), static_cast<double>(tokens) / 5.0);
  ASSERT_TRUE(evaluation.model.right && evaluation.reference && evaluation.reference->right);
  EXPECT_EQ(evaluation.model.right->count, 1);
  EXPECT_EQ(evaluation.model.right->of, 1);
  EXPECT_EQ(evaluation.reference->right->count, 0);
  EXPECT_EQ(evaluation.agreement->same.count, 0);
  EXPECT_THROW(evaluate_answers(tasks, right, std::span(wrong).first(1), &tokenizer), Error);
  EXPECT_THROW(evaluate_answers(tasks, right, {}, nullptr), Error);
}

class GenerationTasks : public ::testing::Test {
 protected:
  std::vector<GenerationTask> read(const std::string& text, bool has_judge = false) {
    const std::filesystem::path file = folder_.path() / "prompts.jsonl";
    std::ofstream(file) << text;
    return read_generation_tasks(file, &tokenizer_, {.vocab_size = 1024, .has_judge = has_judge});
  }

  std::string problem_of(const std::string& text) {
    try {
      read(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile);
      return error.what();
    }
    return {};
  }

  testing::TemporaryFolder folder_;
  Tokenizer tokenizer_{DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada"};
};

TEST_F(GenerationTasks, AreReadLineByLine) {
  const std::vector<GenerationTask> tasks = read(
      "{\"prompt\": \"God\", \"answer\": \"a\", \"id\": 7}\n\n{\"input_ids\": [3, 4]}\n"
      "{\"prompt\": \"a\", \"answer\": \"1\", \"rule\": \"command\"}\n",
      true);
  ASSERT_EQ(tasks.size(), 3U);
  std::vector<std::int64_t> ids = tokenizer_.begin_ids();
  const std::vector<std::int64_t> own = tokenizer_.encode("God");
  ids.insert(ids.end(), own.begin(), own.end());
  EXPECT_EQ(tasks[0].prompt, ids);
  EXPECT_EQ(tasks[0].answer, "a");
  EXPECT_EQ(tasks[0].rule, AnswerRule::EXACT);
  EXPECT_EQ(tasks[1].prompt, (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(tasks[1].answer, std::nullopt);
  EXPECT_EQ(tasks[2].rule, AnswerRule::COMMAND);
}

TEST_F(GenerationTasks, BrokenLinesAreNamed) {
  const std::string good = "{\"prompt\": \"a\"}\n";
  const char* const broken[] = {
      "{\"prompt\": \"a\"",
      "[]",
      "{}",
      R"({"prompt": "a", "input_ids": [1]})",
      R"({"prompt": 3})",
      R"({"input_ids": []})",
      R"({"input_ids": [1024]})",
      R"({"input_ids": [-1]})",
      R"({"prompt": "a", "answer": 4})",
      R"({"prompt": "a", "rule": "exact"})",
      R"({"prompt": "a", "answer": "4", "rule": "best"})",
      R"({"prompt": "a", "answer": "4", "rule": "command"})",
      R"({"prompt": "a", "answer": "four", "rule": "number"})",
      R"({"prompt": "a", "answer": "(", "rule": "regex"})",
  };
  for (const char* line : broken) {
    EXPECT_NE(problem_of(good + line + "\n").find("prompts.jsonl: line 2: "), std::string::npos)
        << line << ": " << problem_of(good + line + "\n");
  }
  EXPECT_NE(problem_of("\n").find("it has no prompt"), std::string::npos);
}

}  // namespace
}  // namespace diffulex_edge
