#include "server/openai_responses.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <random>

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string to_event(const Json& json) { return "data: " + to_text(json) + "\n\n"; }

// Different in each process and for each answer.
std::string make_id() {
  static const std::uint64_t process = (std::uint64_t{std::random_device{}()} << 32U) | std::random_device{}();
  static std::atomic<std::uint32_t> count{0};
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%016llx%08x", static_cast<unsigned long long>(process), count++);
  return text.data();
}

Json usage_of(AnswerTokens tokens) {
  return {{"prompt_tokens", tokens.prompt},
          {"completion_tokens", tokens.completion},
          {"total_tokens", tokens.prompt + tokens.completion},
          {"prompt_tokens_details", {{"cached_tokens", tokens.cached}}}};
}

// What OpenAI's form has no place for.
Json passes_of(const GenerationResult& result) {
  return {{"forward_passes", result.forward_passes},
          {"tokens_per_forward", result.tokens_per_forward()},
          {"tokens_per_second", result.tokens_per_second()},
          {"seconds", result.seconds},
          {"seconds_to_first_block", result.seconds_to_first_block}};
}

Json object_of(const AnswerHead& head, bool is_chunk) {
  const char* chat = is_chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", head.id},
          {"object", head.is_chat ? chat : "text_completion"},
          {"created", head.created},
          {"model", head.model}};
}

Json chunk_of(const AnswerHead& head, Json choices) {
  Json chunk = object_of(head, true);
  chunk["choices"] = std::move(choices);
  if (head.has_usage) {
    chunk["usage"] = nullptr;
  }
  return chunk;
}

Json choice_of(const AnswerHead& head, const Json& delta, const std::string& text, const Json& reason) {
  Json choice{{"index", 0}};
  if (head.is_chat) {
    choice["delta"] = delta;
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = reason;
  return choice;
}

}  // namespace

AnswerHead make_answer_head(const std::string& model, bool is_chat, bool has_usage) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {.id = (is_chat ? "chatcmpl-" : "cmpl-") + make_id(),
          .model = model,
          .created = std::chrono::duration_cast<std::chrono::seconds>(now).count(),
          .is_chat = is_chat,
          .has_usage = has_usage};
}

std::string_view finish_reason(Stopped stopped) { return stopped == Stopped::LENGTH ? "length" : "stop"; }

std::string whole_answer(const AnswerHead& head, const std::string& text, const GenerationResult& result,
                         AnswerTokens tokens) {
  Json choice{{"index", 0}};
  if (head.is_chat) {
    choice["message"] = Json{{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason(result.stopped);
  Json answer = object_of(head, false);
  answer["choices"] = Json::array({std::move(choice)});
  answer["usage"] = usage_of(tokens);
  answer["generation"] = passes_of(result);
  return to_text(answer);
}

std::string first_event(const AnswerHead& head) {
  if (!head.is_chat) {
    return {};
  }
  const Json delta{{"role", "assistant"}, {"content", ""}};
  return to_event(chunk_of(head, Json::array({choice_of(head, delta, {}, nullptr)})));
}

std::string text_event(const AnswerHead& head, const std::string& text) {
  return to_event(chunk_of(head, Json::array({choice_of(head, {{"content", text}}, text, nullptr)})));
}

std::string canvas_event(const AnswerHead& head, std::int64_t pass, const nlohmann::ordered_json& pieces) {
  Json chunk = chunk_of(head, Json::array());
  chunk["canvas"] = Json{{"pass", pass}, {"pieces", pieces}};
  return to_event(chunk);
}

std::string finish_event(const AnswerHead& head, const GenerationResult& result) {
  Json chunk = chunk_of(head, Json::array({choice_of(head, Json::object(), {}, finish_reason(result.stopped))}));
  chunk["generation"] = passes_of(result);
  return to_event(chunk);
}

std::string usage_event(const AnswerHead& head, AnswerTokens tokens) {
  Json chunk = chunk_of(head, Json::array());
  chunk["usage"] = usage_of(tokens);
  return to_event(chunk);
}

std::string error_event(const std::string& error_json) { return "data: " + error_json + "\n\n"; }

std::string done_event() { return "data: [DONE]\n\n"; }

std::string model_object(const ServedModel& model, std::int64_t created) {
  const ModelConfig& config = model.text.engine().config();
  return to_text({{"id", model.name},
                  {"object", "model"},
                  {"created", created},
                  {"owned_by", "diffulex-edge"},
                  {"family", config.family},
                  {"has_chat_template", model.chat_template.has_value()},
                  {"can_fill_in", config.block_length == 0},
                  {"max_model_len", model.capacity},
                  {"max_new_tokens", model.defaults.max_new_tokens}});
}

std::string model_list(const ServedModel& model, std::int64_t created) {
  return R"({"object":"list","data":[)" + model_object(model, created) + "]}";
}

}  // namespace diffulex_edge
