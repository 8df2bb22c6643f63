#include "diffulex_edge/chat_template.h"

#include <array>
#include <utility>
#include <vector>

#include "chat/failure.h"
#include "chat/interpreter.h"
#include "chat/json_values.h"
#include "chat/parser.h"
#include "chat/template_files.h"
#include "chat/value.h"
#include "diffulex_edge/error.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

using chat::ParsedTemplate;
using chat::Value;
using Variables = std::vector<std::pair<std::string, Value>>;

[[noreturn]] void fail_argument(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, where, what);
}

// transformers drops what is null.
chat::Dict without_nulls(const chat::Dict& message) {
  chat::Dict result;
  for (const auto& [key, value] : message.items) {
    if (!value.is_none()) {
      result.set(key, value);
    }
  }
  return result;
}

// Reasoning is known by three names; transformers gives it to templates by the two that they read.
chat::Dict with_reasoning(const chat::Dict& message) {
  const Value* reasoning = nullptr;
  for (const char* name : {"reasoning", "thinking", "reasoning_content"}) {
    const Value* found = message.find(std::string(name));
    reasoning = found == nullptr ? reasoning : found;
  }
  if (reasoning == nullptr) {
    return message;
  }
  chat::Dict result;
  result.set(Value::text("thinking"), *reasoning);
  for (const auto& [key, value] : message.items) {
    result.set(key, value);
  }
  result.set(Value::text("reasoning_content"), *reasoning);
  return result;
}

Value read_messages(std::string_view json) {
  const Value value = chat::parse_json_value(json, "messages");
  const auto list = value.if_list();
  if (!list || list->items.empty()) {
    fail_argument("messages", list ? "the conversation is empty" : "is not a JSON list");
  }
  std::vector<Value> messages;
  for (const Value& each : list->items) {
    const auto message = each.if_dict();
    if (!message) {
      fail_argument("messages", "holds something that is not a JSON object");
    }
    messages.push_back(chat::make_dict(with_reasoning(without_nulls(*message))));
  }
  return chat::make_list(std::move(messages));
}

Value make_messages(std::span<const ChatMessage> given) {
  if (given.empty()) {
    fail_argument("messages", "the conversation is empty");
  }
  std::vector<Value> messages;
  for (const ChatMessage& each : given) {
    if (invalid_utf8(each.role) || invalid_utf8(each.content)) {
      fail_argument("messages", "is not valid UTF-8");
    }
    chat::Dict message;
    message.set(Value::text("role"), Value::text(each.role));
    message.set(Value::text("content"), Value::text(each.content));
    messages.push_back(chat::make_dict(std::move(message)));
  }
  return chat::make_list(std::move(messages));
}

Value read_tools(const std::string& json) {
  if (json.empty()) {
    return Value::none();
  }
  Value value = chat::parse_json_value(json, "tools");
  const auto list = value.if_list();
  if (!list) {
    fail_argument("tools", "is not a JSON list");
  }
  for (const Value& tool : list->items) {
    if (!tool.if_dict()) {
      fail_argument("tools", "holds something that is not a JSON object");
    }
  }
  return value;
}

void add_variables(const std::string& json, Variables& variables) {
  if (json.empty()) {
    return;
  }
  const auto object = chat::parse_json_value(json, "variables").if_dict();
  if (!object) {
    fail_argument("variables", "is not a JSON object");
  }
  for (const auto& [key, value] : object->items) {
    const std::string& name = *key.if_text();
    if (name == "messages" || name == "tools" || name == "add_generation_prompt") {
      fail_argument("variables", "'" + name + "' is given already");
    }
    variables.emplace_back(name, value);
  }
}

// Of the options, beside the messages. Later ones count.
Variables make_variables(const Variables& special_tokens, Value messages, const ChatTemplateOptions& options) {
  Variables variables = special_tokens;
  variables.emplace_back("documents", Value::none());
  add_variables(options.variables, variables);
  variables.emplace_back("messages", std::move(messages));
  variables.emplace_back("tools", read_tools(options.tools));
  variables.emplace_back("add_generation_prompt", Value(options.add_generation_prompt));
  return variables;
}

std::string run(const ParsedTemplate& parsed, Variables variables, const ChatTemplateOptions& options) {
  chat::Interpreter interpreter(options.now.value_or(std::chrono::system_clock::now()));
  try {
    return interpreter.render(parsed.block, std::move(variables));
  } catch (const chat::Failure& failure) {
    throw Error(failure.code(), parsed.name + ": line " + std::to_string(interpreter.line()), failure.what());
  }
}

}  // namespace

struct ChatTemplate::Parts {
  std::string render(Value messages, const ChatTemplateOptions& options) const {
    const bool uses_tools = !options.tools.empty() && with_tools;
    return run(uses_tools ? *with_tools : usual, make_variables(special_tokens, std::move(messages), options), options);
  }

  ParsedTemplate usual;
  std::optional<ParsedTemplate> with_tools = std::nullopt;
  Variables special_tokens;
};

ChatTemplate::ChatTemplate(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

ChatTemplate::ChatTemplate(std::string_view text, std::string name)
    : parts_(std::make_shared<const Parts>(Parts{ParsedTemplate(text, std::move(name))})) {}

std::optional<ChatTemplate> ChatTemplate::find(const std::filesystem::path& model_folder) {
  auto files = chat::find_template_files(model_folder);
  if (!files) {
    return std::nullopt;
  }
  Parts parts{ParsedTemplate(files->usual.text, files->usual.name)};
  if (files->with_tools) {
    parts.with_tools.emplace(files->with_tools->text, files->with_tools->name);
  }
  parts.special_tokens = std::move(files->special_tokens);
  return ChatTemplate(std::make_shared<const Parts>(std::move(parts)));
}

std::string ChatTemplate::render(std::string_view messages, const ChatTemplateOptions& options) const {
  return parts_->render(read_messages(messages), options);
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, const ChatTemplateOptions& options) const {
  return parts_->render(make_messages(messages), options);
}

}  // namespace diffulex_edge
