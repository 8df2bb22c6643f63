#include "diffulex_edge/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

constexpr const char* kHello = R"([{"role": "user", "content": "Hello"}])";

std::string render(std::string_view text, const ChatTemplateOptions& options = {}) {
  return ChatTemplate(text).render(kHello, options);
}

void expect_refused(ErrorCode code, std::initializer_list<std::string> parts, std::string_view text) {
  testing::expect_error(code, parts, [&] { render(text); });
}

std::string repeated(std::string_view text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) {
    result += text;
  }
  return result;
}

TEST(ChatTemplate, RendersMessages) {
  const ChatTemplate chat(
      "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}\n{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}");
  const std::vector<ChatMessage> messages = {{"system", "Be brief."}, {"user", "Caf\u00e9?"}};
  EXPECT_EQ(chat.render(messages), "<|system|>Be brief.\n<|user|>Caf\u00e9?\n");
  EXPECT_EQ(chat.render(messages, {.add_generation_prompt = true}),
            "<|system|>Be brief.\n<|user|>Caf\u00e9?\n<|assistant|>");
}

TEST(ChatTemplate, GivesToolsAndVariablesToTheTemplate) {
  const std::string text =
      "{{ tools is none }} {{ tools | tojson }} {{ enable_thinking is defined }}{{ enable_thinking }}";
  EXPECT_EQ(render(text), "True null False");
  EXPECT_EQ(render(text, {.tools = R"([{"z": 1, "a": [1.0, null]}])", .variables = R"({"enable_thinking": false})"}),
            R"(False [{"z": 1, "a": [1.0, null]}] TrueFalse)");
}

TEST(ChatTemplate, DropsNullsAndNamesReasoningAsTransformersDoes) {
  EXPECT_EQ(ChatTemplate("{{ messages }}").render(R"([{"content": null, "reasoning": "R", "role": "user"}])"),
            "[{'thinking': 'R', 'reasoning': 'R', 'role': 'user', 'reasoning_content': 'R'}]");
}

TEST(ChatTemplate, TellsTheGivenTime) {
  ChatTemplateOptions options;
  options.now = std::chrono::system_clock::from_time_t(86400 * 366);
  EXPECT_EQ(render("{{ strftime_now('%Y') }}%", options), "1971%");
}

TEST(ChatTemplate, RefusesWhatIsNoConversation) {
  const ChatTemplate chat("");
  const auto refused = [&](std::string_view messages, const std::string& part) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"messages", part}, [&] { chat.render(messages); });
  };
  refused("[]", "empty");
  refused("{}", "not a JSON list");
  refused("[1]", "not a JSON object");
  refused("[{", "not valid JSON");
  refused(R"([{"role": "user", "role": "user"}])", "'role' appears twice");
  refused("[{\"role\": \"\xFF\"}]", "UTF-8");
  refused(R"([{"n": 123456789012345678901234567890}])", "64 bits");
  refused("[{\"a\": " + repeated("[", 70) + repeated("]", 70) + "}]", "deeper");
  const std::vector<ChatMessage> broken = {{"user", "\xFF"}};
  testing::expect_error(ErrorCode::kInvalidArgument, {"UTF-8"}, [&] { chat.render(broken); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"variables", "messages"},
                        [&] { chat.render(kHello, {.variables = R"({"messages": 1})"}); });
}

TEST(ChatTemplate, TheTemplatesOwnRefusalIsTheMessage) {
  expect_refused(ErrorCode::kInvalidArgument, {"chat template: line 2: ", "Roles must alternate"},
                 "\n{{ raise_exception('Roles must alternate') }}");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  expect_refused(ErrorCode::kBadFile, {"chat template: line 3: ", "endif"}, "\n\n{% if true %}");
  expect_refused(ErrorCode::kBadFile, {"line 2", "']' closes nothing"}, "\n{{ (1] }}");
  expect_refused(ErrorCode::kBadFile, {"line 1", "'*' is not expected here"}, "{{ 1 * * 2 }}");
  expect_refused(ErrorCode::kBadFile, {"line 2", "comment"}, "\n{# ");
  expect_refused(ErrorCode::kBadFile, {"'break'", "loop"}, "{% break %}");
  expect_refused(ErrorCode::kBadFile, {"UTF-8 at byte 1"}, "a\xFF");
  expect_refused(ErrorCode::kInvalidArgument, {"line 4", "'nothing' is undefined"}, "\n\n\n{{ nothing.more }}");
  expect_refused(ErrorCode::kInvalidArgument, {"line 1", "'+' does not work on str and int"}, "{{ 'a' + 1 }}");
}

TEST(ChatTemplate, WhatIsNotSupportedIsNamed) {
  expect_refused(ErrorCode::kUnsupported, {"line 2", "the tag 'include', which is not supported"},
                 "\n{% include 'x' %}");
  expect_refused(ErrorCode::kUnsupported, {"line 1", "the filter 'urlize'"}, "{{ 'x' | urlize }}");
  expect_refused(ErrorCode::kUnsupported, {"the test 'odder'"}, "{{ 1 is odder }}");
  expect_refused(ErrorCode::kUnsupported, {"a recursive loop"}, "{% for a in b recursive %}{% endfor %}");
  expect_refused(ErrorCode::kUnsupported, {"64 bits"}, "{{ 2 ** 64 }}");
  EXPECT_EQ(render("{% if false %}{{ 'x' | urlize }}{% endif %}"), "");  // Jinja asks for it when it is used
}

TEST(ChatTemplate, TemplatesCantChangeTheirInput) {
  expect_refused(ErrorCode::kInvalidArgument, {"'append' would change"}, "{{ messages.append(1) }}");
  expect_refused(ErrorCode::kInvalidArgument, {"'update' would change"}, "{{ messages[0].update({}) }}");
  expect_refused(ErrorCode::kInvalidArgument, {"underscore"}, "{% set n = namespace() %}{% set n._x = 1 %}");
}

TEST(ChatTemplate, EndlessWorkEndsInAnError) {
  expect_refused(ErrorCode::kInvalidArgument, {"a range has more than 100000"},
                 "{% for i in range(10**9) %}{% endfor %}");
  expect_refused(ErrorCode::kInvalidArgument, {"steps"},
                 "{% for i in range(99999) %}{% for j in range(99999) %}{% break %}{% endfor %}{% endfor %}");
  expect_refused(ErrorCode::kInvalidArgument, {"a text would have more"}, "{{ 'a' * 10**10 }}");
  expect_refused(ErrorCode::kInvalidArgument, {"a list would have more"}, "{{ [1] * 10**10 }}");
  expect_refused(ErrorCode::kInvalidArgument, {"a text would have more"}, "{{ 'a' | indent(10**12) }}");
  expect_refused(ErrorCode::kInvalidArgument, {"a text would have more"},
                 "{% set a = 'a' * 10**6 %}{{ a | replace('a', a) }}");
  expect_refused(ErrorCode::kInvalidArgument, {"a text would have more"},
                 "{% set n = namespace(t='ab') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}");
  expect_refused(ErrorCode::kInvalidArgument, {"steps"}, "{% set a = 'a' * 10**7 %}{{ (a ~ 'b') in (a ~ a) }}");
  expect_refused(
      ErrorCode::kInvalidArgument, {"too large"},
      "{% set n = namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l == n.l }}");
}

// It takes many times what copying a text does, and was counted as that: within the steps, a template ran for a minute.
TEST(ChatTemplate, WorkOnLettersIsCountedLetterByLetter) {
  const std::string often = "{% set a = 'a' * 10**6 %}{% for i in range(200) %}{% set b = ";
  for (const char* const work : {"a | safe", "a.startswith('b')"}) {  // which take no time in a test
    expect_refused(ErrorCode::kInvalidArgument, {"steps"}, often + work + " %}{% endfor %}");
  }
  EXPECT_EQ(render("{% set a = 'a' * 10**5 %}{{ (a | upper | trim).lower() | length }}"), "100000");
}

TEST(ChatTemplate, DeepNestingEndsInAnError) {
  expect_refused(ErrorCode::kBadFile, {"nested deeper"},
                 "{{ " + repeated("(", 100'000) + repeated(")", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"},
                 "{{ " + repeated("[", 100'000) + repeated("]", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ " + repeated("-", 100'000) + "1 }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ " + repeated("not ", 100'000) + "1 }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ 1" + repeated("+1", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ a" + repeated(".a", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ a" + repeated("|trim", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{{ a" + repeated(" if a else a", 100'000) + " }}");
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, repeated("{% if 1 %}", 100'000));
  expect_refused(ErrorCode::kBadFile, {"nested deeper"}, "{% if 1 %}" + repeated("{% elif 1 %}", 100'000));
  expect_refused(ErrorCode::kBadFile, {"nested deeper"},
                 "{% set " + repeated("(", 100'000) + "a" + repeated(")", 100'000) + " = 1 %}");
  expect_refused(ErrorCode::kInvalidArgument, {"nested deeper"}, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  expect_refused(ErrorCode::kInvalidArgument, {"nested deeper"},
                 "{% macro f() %}" + repeated("{% if 1 %}", 150) + "{{ f() }}" + repeated("{% endif %}", 150) +
                     "{% endmacro %}{{ f() }}");
  expect_refused(ErrorCode::kInvalidArgument, {"nested deeper"},
                 "{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = [n.l] %}{% endfor %}");
  EXPECT_EQ(render("{{ " + repeated("(", 100) + "1" + repeated(")", 100) + " }}"), "1");
}

// Namespaces and loops that hold themselves, one another, or the scope that holds them.
TEST(ChatTemplate, CyclesAreReleased) {
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.n = n %}{% set n.l = [n] %}{{ n.n.n.l[0].x is defined }}"),
            "False");
  EXPECT_EQ(render("{% set n = namespace(l=none) %}{% for i in range(20000) %}{% for j in [n.l] %}{% set n.l = loop %}"
                   "{% endfor %}{% endfor %}{{ n.l.index0 }}"),
            "-1");
  EXPECT_EQ(
      render("{% set n = namespace() %}{% macro m() %}{{ n.m is defined }}{% endmacro %}{% set n.m = m %}{{ n.m() }}"),
      "True");
  expect_refused(ErrorCode::kUnsupported, {"macro outside"},
                 "{% set n = namespace() %}{% for i in [1] %}{% macro m() %}{{ i }}{% endmacro %}{% set n.m = m %}"
                 "{% endfor %}{{ n.m() }}");
  EXPECT_EQ(render("{% for x in [1, 2] if x > 1 %}{% set y = loop %}{{ y.length }}{% endfor %}"), "1");
}

TEST(ChatTemplate, ServesThreadsAtOnce) {
  const ChatTemplate chat("{% for i in range(200) %}{{ [i, messages[0].content] }}{% endfor %}");
  const std::string expected = chat.render(kHello);
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string& result : results) {
    threads.emplace_back([&chat, &result] { result = chat.render(kHello); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(results, std::vector<std::string>(4, expected));
}

class ChatTemplateFolder : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder_ / name).parent_path());
    testing::write_file(folder_ / name, text);
  }
  std::string render(const std::string& tools = {}) {
    return ChatTemplate::find(folder_.path()).value().render(kHello, {.tools = tools});
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ChatTemplateFolder, WithoutATemplateNothingIsFound) {
  EXPECT_FALSE(ChatTemplate::find(folder_.path()));
  write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": null})");
  EXPECT_FALSE(ChatTemplate::find(folder_.path()));
}

TEST_F(ChatTemplateFolder, TheFileOfItsOwnComesFirst) {
  write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(render(), "json");
  write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(render(), "config");
  write("chat_template.jinja", "own\n");
  EXPECT_EQ(render("[]"), "own");
  write("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(render(), "own");
  EXPECT_EQ(render("[]"), "tools");
}

TEST_F(ChatTemplateFolder, NamedTemplatesServeToolsAndTheRest) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  EXPECT_EQ(render(), "D");
  EXPECT_EQ(render("[]"), "T");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "T"}]})");
  testing::expect_error(ErrorCode::kBadFile, {"tokenizer_config.json", "'default'"}, [&] { render(); });
  write("tokenizer_config.json", R"({"chat_template": 1})");
  testing::expect_error(ErrorCode::kBadFile, {"tokenizer_config.json", "neither"}, [&] { render(); });
}

TEST_F(ChatTemplateFolder, SpecialTokensAreTextsOrObjects) {
  write("chat_template.jinja",
        "{{ bos_token }}{{ eos_token }}{{ mask_token }}{{ pad_token is defined }}{{ unk_token }}");
  write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null})");
  EXPECT_EQ(render(), "<s></s>False");
  write("special_tokens_map.json", R"({"bos_token": "<b>", "mask_token": {"content": "<m>"}})");
  EXPECT_EQ(render(), "<b></s><m>False");
  write("tokenizer_config.json", R"({"bos_token": "<s>", "unk_token": "<u>", "added_tokens_decoder": {}})");
  EXPECT_EQ(render(), "<s>False<u>");
}

TEST_F(ChatTemplateFolder, ErrorsNameTheFile) {
  write("chat_template.jinja", "\n{% if %}");
  testing::expect_error(ErrorCode::kBadFile, {"chat_template.jinja: line 2"}, [&] { render(); });
}

}  // namespace
}  // namespace diffulex_edge
