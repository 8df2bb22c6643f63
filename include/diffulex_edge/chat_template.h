// Messages of a conversation as the text that a model was trained on.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace diffulex_edge {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ChatTemplateOptions {
  bool add_generation_prompt = false;  // ends with the beginning of the assistant's next message
  std::string tools;                   // a JSON list of the tools that the model may call; empty: none are given
  std::string variables;               // a JSON object of more variables, {"enable_thinking": false}; empty: none
  // What `strftime_now` of a template tells, in local time; the clock's time unless given.
  std::optional<std::chrono::system_clock::time_point> now = std::nullopt;
};

// A chat template of Hugging Face's transformers, which are Jinja templates. Renders the bytes that
// `apply_chat_template(..., tokenize=False)` gives. Immutable: one object serves any number of threads, copies are
// cheap. A template may come from anywhere: its steps, its depth and the memory of its values are limited.
class ChatTemplate {
 public:
  // `name` stands for the file in messages. Throws Error{kBadFile} for wrong syntax, and Error{kUnsupported} for what
  // is Jinja's but not supported, with the line.
  explicit ChatTemplate(std::string_view text, std::string name = "chat template");

  // The template of a model's folder: chat_template.jinja, or `chat_template` of tokenizer_config.json or
  // chat_template.json, with the special tokens of tokenizer_config.json and special_tokens_map.json. Where there are
  // several, "tool_use" serves conversations with tools and "default" the others. Nothing where there is none. Throws
  // as above, and Error{kBadFile} for files that are broken.
  static std::optional<ChatTemplate> find(const std::filesystem::path& model_folder);

  // `messages` is a JSON list of objects with "role", "content" and what else the template reads. Throws
  // Error{kInvalidArgument} where it isn't, where the template refuses the messages or does not work with them, and
  // where it would take too long or too much memory.
  std::string render(std::string_view messages, const ChatTemplateOptions& options = {}) const;
  std::string render(std::span<const ChatMessage> messages, const ChatTemplateOptions& options = {}) const;

 private:
  struct Parts;
  explicit ChatTemplate(std::shared_ptr<const Parts> parts);

  std::shared_ptr<const Parts> parts_;
};

}  // namespace diffulex_edge
