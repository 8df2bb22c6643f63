#include "server/openai_requests.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/json.h"
#include "diffulex_edge/error.h"
#include "diffusion/decoding_settings.h"
#include "server/api_error.h"
#include "server/request_fields.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMostStops = 4;

nlohmann::json parse_body(std::string_view body) {
  try {
    return parse_json(body, "the body");
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "invalid_json");
  }
}

void check_model(const RequestFields& fields, const ServedModel& model) {
  const std::optional<std::string> name = fields.text("model");
  if (name && *name != model.name) {
    throw ApiError(404, "the model '" + *name + "' is not served here, '" + model.name + "' is", "model_not_found",
                   "model");
  }
}

// What OpenAI's servers can do and this one can't: silence would be an answer to another question.
void refuse_unsupported(const RequestFields& fields) {
  for (const char* name : {"n", "best_of"}) {
    if (fields.integer(name, 1).value_or(1) != 1) {
      refuse_field(name, "must be 1: one answer is written for a request", "unsupported_value");
    }
  }
  for (const char* name : {"frequency_penalty", "presence_penalty"}) {
    if (fields.number(name).value_or(0.0) != 0.0) {
      refuse_field(name, "must be 0 (repetition_penalty is supported)", "unsupported_value");
    }
  }
  for (const char* name : {"logprobs", "top_logprobs"}) {
    if (const nlohmann::json* value = fields.find(name); value != nullptr && *value != false) {
      refuse_field(name, "is not supported", "unsupported_value");
    }
  }
  for (const char* name : {"logit_bias", "functions", "audio"}) {
    if (const nlohmann::json* value = fields.find(name); value != nullptr && !value->empty()) {
      refuse_field(name, "is not supported", "unsupported_value");
    }
  }
  if (fields.boolean("echo").value_or(false)) {
    refuse_field("echo", "is not supported", "unsupported_value");
  }
  if (const nlohmann::json* format = fields.find("response_format")) {
    if (RequestFields(*format).text("type") != "text") {
      refuse_field("response_format", "must be of the type 'text'", "unsupported_value");
    }
  }
  if (const nlohmann::json* choice = fields.find("tool_choice")) {
    if (*choice != "none" && *choice != "auto") {
      refuse_field("tool_choice", "must be 'none' or 'auto'", "unsupported_value");
    }
  }
}

template <typename Value>
void override_with(Value& target, const std::optional<Value>& value) {
  if (value) {
    target = *value;
  }
}

// For optional settings of a config.
template <typename Value>
void override_with(std::optional<Value>& target, const std::optional<Value>& value) {
  if (value) {
    target = value;
  }
}

void read_config(const RequestFields& fields, DiffusionGenerationConfig& config) {
  // Of two that contradict each other, what the request says replaces the server's other one.
  if (fields.find("steps") != nullptr || fields.find("steps_per_block") != nullptr) {
    config.steps.reset();
    config.steps_per_block.reset();
  }
  if (fields.find("threshold") != nullptr || fields.find("factor") != nullptr) {
    config.threshold.reset();
    config.factor.reset();
  }
  override_with(config.steps, fields.integer("steps", 1));
  override_with(config.steps_per_block, fields.integer("steps_per_block", 1));
  override_with(config.block_length, fields.integer("block_length", 1));
  override_with(config.sub_block_length, fields.integer("sub_block_length", 1));
  override_with(config.threshold, fields.number("threshold"));
  override_with(config.factor, fields.number("factor"));
  override_with(config.eb_threshold, fields.number("eb_threshold"));
  override_with(config.editing_threshold, fields.number("editing_threshold"));
  override_with(config.max_post_steps, fields.integer("max_post_steps", 0));
  override_with(config.initial_masks, fields.integer("initial_masks", 1));
  override_with(config.expand_budget, fields.integer("expand_budget", 0));
  override_with(config.pad_delete_to_right, fields.boolean("pad_delete_to_right"));
  if (fields.boolean("fixed_length").value_or(false)) {
    config.expand_id.reset();
  }
  override_with(config.window_size, fields.integer("window_size", 0));
  override_with(config.entropy_threshold, fields.number("entropy_threshold"));
  override_with(config.pos_penalty_factor, fields.number("pos_penalty_factor"));
  override_with(config.temperature, fields.number("temperature"));
  override_with(config.top_k, fields.integer("top_k", 0));
  override_with(config.top_p, fields.number("top_p"));
  override_with(config.min_p, fields.number("min_p"));
  override_with(config.repetition_penalty, fields.number("repetition_penalty"));
  override_with(config.eps, fields.number("eps"));
  override_with(config.alg_temp, fields.number("alg_temp"));
  override_with(config.cfg_scale, fields.number("cfg_scale"));
  override_with(config.cache_refresh, fields.integer("cache_refresh", 0));
  override_with(config.ignore_eos, fields.boolean("ignore_eos"));
  if (const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min())) {
    config.seed = static_cast<std::uint64_t>(*seed);
  }
  if (const auto remasking = fields.text("remasking")) {
    config.remasking = parse_remasking(*remasking);
  }
  if (const auto cache = fields.text("cache")) {
    config.cache = parse_cache_kind(*cache);
  }
}

// How much is written: what the request says, or the server's default as far as there is room for it.
void set_length(const RequestFields& fields, std::int64_t least, const ServedModel& model, const char* prompt,
                GenerationRequest& request) {
  const char* name = fields.find("max_completion_tokens") != nullptr ? "max_completion_tokens" : "max_tokens";
  const std::optional<std::int64_t> length = fields.integer(name, least);
  // Models with blocks fill up their last one.
  const std::int64_t block = std::max<std::int64_t>(model.text.engine().config().block_length, 1);
  const auto used = static_cast<std::int64_t>(request.prompt.size() + request.suffix.size()) +
                    tokens_behind(model.text.engine().config(), request.config);
  const std::int64_t room = model.capacity / block * block - used;
  if (room < length.value_or(1)) {
    throw ApiError(400,
                   std::to_string(used) + " tokens of the prompt and " + std::to_string(length.value_or(1)) +
                       " new ones are more than the " + std::to_string(model.capacity / block * block) +
                       " that this server has room for",
                   "context_length_exceeded", room < least ? prompt : name);
  }
  request.config.max_new_tokens = length.value_or(std::min(request.config.max_new_tokens, room));
  request.config.ignore_eos = request.config.ignore_eos || length == 0;  // then all masks of the prompt are wanted
}

void read_stream(const RequestFields& fields, OpenAiRequest& request) {
  request.is_stream = fields.boolean("stream").value_or(false);
  request.has_canvas = fields.boolean("canvas").value_or(false);
  if (const nlohmann::json* options = fields.find("stream_options")) {
    if (!options->is_object()) {
      refuse_field("stream_options", std::string("must be an object, not ") + options->type_name(), "invalid_type");
    }
    request.has_usage = RequestFields(*options).boolean("include_usage").value_or(false);
    if (!request.is_stream) {
      refuse_field("stream_options", "is for streams: give \"stream\": true");
    }
  }
  if (request.has_canvas && !request.is_stream) {
    refuse_field("canvas", "is for streams: give \"stream\": true");
  }
}

std::vector<std::int64_t> read_ids(const nlohmann::json& list, const ServedModel& model) {
  std::vector<std::int64_t> ids;
  ids.reserve(list.size());
  const std::int64_t vocabulary = model.text.engine().config().vocab_size;
  for (const nlohmann::json& item : list) {
    if (!item.is_number_integer()) {
      refuse_field("prompt", "must be a string or a list of tokens", "invalid_type");
    }
    const bool is_token = item >= 0 && item < vocabulary;
    if (!is_token) {
      refuse_field("prompt", "has the token " + item.dump() + ", which is not in the vocabulary of " +
                                 std::to_string(vocabulary));
    }
    ids.push_back(item.get<std::int64_t>());
  }
  return ids;
}

// A text, or a list with one.
bool is_text(const nlohmann::json* prompt) {
  return prompt != nullptr &&
         (prompt->is_string() || (prompt->is_array() && !prompt->empty() && prompt->front().is_string()));
}

// A text or its tokens; or a list with one of them.
std::vector<std::int64_t> read_prompt(const RequestFields& fields, const ServedModel& model) {
  const nlohmann::json* prompt = fields.find("prompt");
  if (prompt == nullptr) {
    refuse_field("prompt", "is missing", "missing_field");
  }
  const bool is_list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (is_list && prompt->size() > 1) {
    refuse_field("prompt", "has " + std::to_string(prompt->size()) + " prompts: send a request for each",
                 "unsupported_value");
  }
  const nlohmann::json& one = is_list ? prompt->front() : *prompt;
  std::vector<std::int64_t> ids;
  if (one.is_string()) {
    ids = model.text.encode_prompt(one.get<std::string>());
  } else if (one.is_array()) {
    ids = read_ids(one, model);
  } else {
    refuse_field("prompt", std::string("must be a string or a list of tokens, not ") + one.type_name(), "invalid_type");
  }
  if (ids.empty()) {
    refuse_field("prompt", "has no token");
  }
  return ids;
}

// A message's content is a text, or a list of texts.
void join_content(nlohmann::json& message) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_string() || content->is_null()) {
    return;
  }
  if (!content->is_array()) {
    refuse_field("messages", std::string("has a content that is ") + content->type_name() + ", not a string",
                 "invalid_type");
  }
  std::string text;
  for (const nlohmann::json& part : *content) {
    const RequestFields fields(part);
    const std::string type = fields.text("type").value_or("");
    if (type != "text") {
      refuse_field("messages", "has a part of the type '" + type + "': only text is supported", "unsupported_value");
    }
    text += fields.text("text").value_or("");
  }
  *content = text;
}

nlohmann::json read_messages(const RequestFields& fields) {
  const nlohmann::json* given = fields.find("messages");
  if (given == nullptr) {
    refuse_field("messages", "is missing", "missing_field");
  }
  if (!given->is_array() || given->empty()) {
    refuse_field("messages", "must be a list of messages, at least one", "invalid_type");
  }
  nlohmann::json messages = *given;
  for (nlohmann::json& message : messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      refuse_field("messages", "has an entry that is no object with a \"role\"", "invalid_type");
    }
    join_content(message);
  }
  return messages;
}

std::vector<std::int64_t> render_chat(const RequestFields& fields, const ServedModel& model) {
  ChatTemplateOptions options{.add_generation_prompt = true};
  if (const nlohmann::json* tools = fields.find("tools"); tools != nullptr && *tools != nlohmann::json::array()) {
    if (!tools->is_array()) {
      refuse_field("tools", std::string("must be a list, not ") + tools->type_name(), "invalid_type");
    }
    options.tools = tools->dump();
  }
  if (const nlohmann::json* variables = fields.find("chat_template_kwargs")) {
    if (!variables->is_object()) {
      refuse_field("chat_template_kwargs", std::string("must be an object, not ") + variables->type_name(),
                   "invalid_type");
    }
    options.variables = variables->dump();
  }
  const std::string messages = read_messages(fields).dump();
  if (!model.chat_template) {
    throw ApiError(501, "the model has no chat template: use /v1/completions", "no_chat_template");
  }
  try {
    // The template says where a text begins: no token is put before it.
    return model.text.tokenizer().encode(model.chat_template->render(messages, options));
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "invalid_value", "messages");
  }
}

// Errors of the library about one field, as its functions that read names throw.
OpenAiRequest read_common(const RequestFields& fields, const ServedModel& model) {
  check_model(fields, model);
  refuse_unsupported(fields);
  OpenAiRequest request;
  request.generation.config = model.defaults;
  try {
    read_config(fields, request.generation.config);
  } catch (const Error& error) {
    throw to_api_error(error);
  }
  if (request.generation.config.cfg_scale > 0.0 && model.sequences < 2) {
    refuse_field("cfg_scale", "needs a server with --sequences 2 or more", "unsupported_value");
  }
  request.stops = fields.texts("stop", kMostStops);
  read_stream(fields, request);
  return request;
}

}  // namespace

OpenAiRequest read_completion(std::string_view body, const ServedModel& model) {
  const nlohmann::json document = parse_body(body);
  const RequestFields fields(document);
  OpenAiRequest request = read_common(fields, model);
  request.generation.prompt = read_prompt(fields, model);
  const std::string suffix = fields.text("suffix").value_or("");
  if (!suffix.empty()) {
    if (model.text.engine().config().block_length != 0) {
      refuse_field("suffix", "is for bidirectional models, this one does not see what comes later",
                   "unsupported_value");
    }
    request.generation.suffix = model.text.tokenizer().encode(suffix);
  }
  if (is_text(fields.find("prompt"))) {
    model.text.frame(request.generation);
  }
  set_length(fields, 0, model, "prompt", request.generation);
  return request;
}

OpenAiRequest read_chat(std::string_view body, const ServedModel& model) {
  const nlohmann::json document = parse_body(body);
  const RequestFields fields(document);
  OpenAiRequest request = read_common(fields, model);
  request.is_chat = true;
  request.generation.prompt = render_chat(fields, model);
  const std::optional<std::int64_t> mask = model.text.engine().config().mask_token_id;
  if (mask && std::ranges::find(request.generation.prompt, *mask) != request.generation.prompt.end()) {
    refuse_field("messages", "have the model's mask token, which stands for text to be written");
  }
  set_length(fields, 1, model, "messages", request.generation);
  return request;
}

}  // namespace diffulex_edge
