// Answers in the form of OpenAI's /v1/completions and /v1/chat/completions, whole and in pieces.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "diffulex_edge/generation.h"
#include "server/served_model.h"

namespace diffulex_edge {

// What all objects of one answer share.
struct AnswerHead {
  std::string id;
  std::string model;
  std::int64_t created = 0;  // seconds since 1970
  bool is_chat = false;
  bool has_usage = false;
};

struct AnswerTokens {
  std::size_t prompt = 0;
  std::size_t completion = 0;
  std::size_t cached = 0;  // of the prompt: computed for an earlier request
};

// With a new id.
AnswerHead make_answer_head(const std::string& model, bool is_chat, bool has_usage);

// "stop" or "length".
std::string_view finish_reason(Stopped stopped);

// The JSON of a whole answer.
std::string whole_answer(const AnswerHead& head, const std::string& text, const GenerationResult& result,
                         AnswerTokens tokens);

// The same as a stream: server-sent events, each with its line end.
std::string first_event(const AnswerHead& head);  // empty but for chats
std::string text_event(const AnswerHead& head, const std::string& text);
// The canvas after a pass; `pieces` are those of CanvasPieces.
std::string canvas_event(const AnswerHead& head, std::int64_t pass, const nlohmann::ordered_json& pieces);
std::string finish_event(const AnswerHead& head, const GenerationResult& result);
std::string usage_event(const AnswerHead& head, AnswerTokens tokens);
std::string error_event(const std::string& error_json);
std::string done_event();

// /v1/models, and one of them.
std::string model_list(const ServedModel& model, std::int64_t created);
std::string model_object(const ServedModel& model, std::int64_t created);

}  // namespace diffulex_edge
