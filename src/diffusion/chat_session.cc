#include "diffusion/chat_session.h"

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/json.h"
#include "diffulex_edge/error.h"
#include "diffusion/decoding_settings.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20U;
constexpr std::string_view kForm = R"(is not a conversation: {"messages": [{"role": ..., "content": ...}, ...]})";

[[noreturn]] void refuse_form(const std::filesystem::path& file) {
  throw Error(ErrorCode::kBadFile, file.string(), std::string(kForm));
}

// The value of an object's key. Throws where the file has another form.
const nlohmann::json& member(const nlohmann::json& object, const char* key, const std::filesystem::path& file) {
  if (!object.is_object() || !object.contains(key)) {
    refuse_form(file);
  }
  return object.at(key);
}

std::string text_member(const nlohmann::json& object, const char* key, const std::filesystem::path& file) {
  const nlohmann::json& value = member(object, key, file);
  if (!value.is_string()) {
    refuse_form(file);
  }
  return value.get<std::string>();
}

}  // namespace

ChatSession::ChatSession(const TextModel& model, Options options, const RunControl& control)
    : model_(model),
      options_(std::move(options)),
      template_(model.chat_template()),
      loop_(model.engine(),
            {.capacity = options_.capacity,
             .sequences = options_.config.cfg_scale > 0.0 ? std::size_t{2} : std::size_t{1},  // with guidance
             .cache_dtype = options_.config.cache_dtype},
            control) {
  if (options_.config.max_new_tokens < 1) {
    throw Error(ErrorCode::kInvalidArgument, "max_new_tokens",
                std::to_string(options_.config.max_new_tokens) + " is not 1 or more");
  }
  // What the options say is wrong, before the first turn.
  loop_.check(shortest_request(model.engine().config(), options_.config, options_.capacity));
  reset();
}

void ChatSession::reset() {
  messages_.clear();
  if (!options_.system.empty()) {
    messages_.push_back({.role = "system", .content = options_.system});
  }
}

std::vector<std::int64_t> ChatSession::prompt_with(const std::string& message) const {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({.role = "user", .content = message});
  // The template writes the tokens that begin a sequence itself.
  return model_.tokenizer().encode(
      template_.render(messages, {.add_generation_prompt = true, .variables = options_.template_variables}));
}

ChatSession::Answer ChatSession::answer(const std::string& message, const TextSink& sink,
                                        const std::function<bool()>& goes_on) {
  const GenerationRequest request{.prompt = prompt_with(message), .suffix = {}, .config = options_.config};
  const auto tokens = static_cast<std::int64_t>(request.prompt.size());
  if (tokens + options_.config.max_new_tokens > options_.capacity) {
    throw Error(ErrorCode::kInvalidArgument, "conversation",
                std::to_string(tokens) + " tokens and up to " + std::to_string(options_.config.max_new_tokens) +
                    " of the answer are more than there is room for, " + std::to_string(options_.capacity),
                "begin anew, or start with a larger capacity or fewer new tokens");
  }
  TextStream stream = model_.stream(options_.stops);
  const std::size_t id = loop_.add(request, [&](const GenerationState& state) {
    const std::string text = stream.take(
        state.tokens.subspan(static_cast<std::size_t>(state.begin), static_cast<std::size_t>(state.written)));
    sink(state, text);
    return !stream.is_stopped();
  });
  try {
    while (loop_.step() && goes_on()) {
    }
  } catch (...) {
    static_cast<void>(loop_.take(id));
    throw;
  }
  Answer answer{.text = {}, .rest = {}, .result = loop_.take(id)};
  answer.rest = stream.take(answer.result.tokens) + stream.finish();
  answer.text = stream.text();
  if (!answer.text.empty() || answer.result.stopped != Stopped::STOP) {
    messages_.push_back({.role = "user", .content = message});
    messages_.push_back({.role = "assistant", .content = answer.text});
  }
  return answer;
}

std::string ChatSession::to_json() const {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages_) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  const nlohmann::ordered_json document{{"messages", std::move(messages)}};
  return document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void ChatSession::load(const std::filesystem::path& file) {
  const nlohmann::json document = read_json_file(file, kMaxFileBytes);
  const nlohmann::json& list = member(document, "messages", file);
  if (!list.is_array()) {
    refuse_form(file);
  }
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& message : list) {
    messages.push_back({.role = text_member(message, "role", file), .content = text_member(message, "content", file)});
  }
  messages_ = std::move(messages);
}

}  // namespace diffulex_edge
