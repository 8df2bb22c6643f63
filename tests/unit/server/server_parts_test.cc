// Forms of requests and answers. What a server does with them is tests/integration/test_serve.py's matter.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "server/api_error.h"
#include "server/metrics.h"
#include "server/openai_responses.h"
#include "server/request_fields.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

template <typename Call>
void expect_refused(const std::string& param, const std::string& part, Call&& call) {
  try {
    call();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 400);
    EXPECT_EQ(error.param(), param);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    return;
  }
  ADD_FAILURE() << "no ApiError was thrown for " << param;
}

Json event_data(const std::string& event) {
  EXPECT_TRUE(event.starts_with("data: ") && event.ends_with("\n\n")) << event;
  return Json::parse(event.substr(6));
}

TEST(RequestFields, GiveValuesOfTheirTypeAndNothingForNull) {
  const Json body = Json::parse(R"({"a": 3, "b": 2.5, "c": true, "d": "x", "e": null, "f": ["x", "y"]})");
  const RequestFields fields(body);
  EXPECT_EQ(fields.integer("a", 0), 3);
  EXPECT_EQ(fields.number("a"), 3.0);
  EXPECT_EQ(fields.number("b"), 2.5);
  EXPECT_EQ(fields.boolean("c"), true);
  EXPECT_EQ(fields.text("d"), "x");
  EXPECT_EQ(fields.integer("e", 0), std::nullopt);
  EXPECT_EQ(fields.text("absent"), std::nullopt);
  EXPECT_EQ(fields.texts("d", 4), std::vector<std::string>{"x"});
  EXPECT_EQ(fields.texts("f", 4), (std::vector<std::string>{"x", "y"}));
}

TEST(RequestFields, RefuseOtherTypesAndRanges) {
  const Json body =
      Json::parse(R"({"a": 3, "b": 2.5, "d": "x", "f": ["x", ""], "g": [1], "big": 18446744073709551615, "m": -4})");
  const RequestFields fields(body);
  expect_refused("b", "an integer", [&] { fields.integer("b", 0); });
  expect_refused("a", "4 to 9", [&] { fields.integer("a", 4, 9); });
  expect_refused("big", "0 or more", [&] { fields.integer("big", 0); });
  expect_refused("m", "0 or more", [&] { fields.integer("m", 0); });
  expect_refused("d", "a number", [&] { fields.number("d"); });
  expect_refused("a", "true or false", [&] { fields.boolean("a"); });
  expect_refused("a", "a string", [&] { fields.text("a"); });
  expect_refused("f", "empty", [&] { fields.texts("f", 4); });
  expect_refused("f", "at most 1", [&] { fields.texts("f", 1); });
  expect_refused("g", "a string", [&] { fields.texts("g", 4); });
  expect_refused("", "object", [] { const RequestFields list(Json::array()); });
}

TEST(ApiError, HasOpenAisForm) {
  const Json error = Json::parse(ApiError(400, "'n' must be 1\n", "unsupported_value", "n").to_json());
  EXPECT_EQ(error, Json::parse(R"({"error": {"message": "'n' must be 1\\x0A", "type": "invalid_request_error",
                                             "param": "n", "code": "unsupported_value"}})"));
  EXPECT_EQ(Json::parse(ApiError(401, "no").to_json())["error"]["type"], "authentication_error");
  EXPECT_EQ(Json::parse(ApiError(503, "no").to_json())["error"]["type"], "server_error");
  EXPECT_TRUE(Json::parse(ApiError(503, "no").to_json())["error"]["param"].is_null());
}

TEST(ApiError, ComesFromTheLibrarysErrors) {
  EXPECT_EQ(to_api_error(Error(ErrorCode::kInvalidArgument, "steps", "are wrong")).status(), 400);
  EXPECT_EQ(to_api_error(Error(ErrorCode::kInvalidArgument, "steps", "are wrong")).param(), "steps");
  EXPECT_EQ(to_api_error(Error(ErrorCode::kOutOfMemory, {}, "none")).status(), 503);
  EXPECT_EQ(to_api_error(Error(ErrorCode::kCancelled, {}, "stopped")).code(), "shutting_down");
  EXPECT_EQ(to_api_error(Error(ErrorCode::kInternal, {}, "defect")).status(), 500);
}

TEST(OpenAiResponses, AreChatsOrTexts) {
  const GenerationResult result{.tokens = {1, 2}, .forward_passes = 2, .stopped = Stopped::END};
  const Json chat = Json::parse(whole_answer(make_answer_head("m", true, false), "hi", result, {3, 2}));
  EXPECT_EQ(chat["object"], "chat.completion");
  EXPECT_EQ(chat["choices"][0]["message"]["content"], "hi");
  EXPECT_EQ(chat["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(chat["usage"], Json::parse(R"({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                                           "prompt_tokens_details": {"cached_tokens": 0}})"));
  const Json text = Json::parse(whole_answer(make_answer_head("m", false, false), "hi", result, {3, 2}));
  EXPECT_EQ(text["object"], "text_completion");
  EXPECT_EQ(text["choices"][0]["text"], "hi");
  EXPECT_NE(chat["id"], text["id"]);
}

TEST(OpenAiResponses, StreamInEvents) {
  const AnswerHead chat = make_answer_head("m", true, true);
  EXPECT_EQ(event_data(first_event(chat))["choices"][0]["delta"]["role"], "assistant");
  const Json piece = event_data(text_event(chat, "a\n\nb"));
  EXPECT_EQ(piece["choices"][0]["delta"], Json::parse(R"({"content": "a\n\nb"})"));
  EXPECT_TRUE(piece["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(piece.contains("usage") && piece["usage"].is_null());
  const Json end = event_data(finish_event(chat, {.stopped = Stopped::LENGTH}));
  EXPECT_EQ(end["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(end["choices"][0]["delta"], Json::object());
  EXPECT_EQ(event_data(usage_event(chat, {3, 2}))["usage"]["total_tokens"], 5);
  EXPECT_EQ(done_event(), "data: [DONE]\n\n");
  EXPECT_EQ(first_event(make_answer_head("m", false, false)), "");
}

TEST(ServerMetrics, CountWhatHappened) {
  ServerMetrics metrics;
  metrics.count_answer("/health", 200);
  metrics.count_answer("/health", 200);
  metrics.count_pass();
  metrics.count_finished({.tokens = {1, 2, 3}, .prompt_tokens = 4, .forward_passes = 5});
  metrics.count_cancelled({.forward_passes = 2});
  metrics.count_cancelled();
  const std::string text = metrics.to_text({.running = 1, .sequences = 4});
  for (const char* line :
       {"http_requests_total{path=\"/health\",status=\"200\"} 2\n", "requests_running 1\n", "sequences 4\n",
        "requests_cancelled_total 2\n", "requests_finished_total 1\n", "generated_tokens_total 3\n",
        "prompt_tokens_total 4\n", "sequence_passes_total 7\n", "forward_passes_total 1\n"}) {
    EXPECT_NE(text.find("\ndiffulex_edge_" + std::string(line)), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace diffulex_edge
