// Bodies of OpenAI's /v1/completions and /v1/chat/completions as requests to the engine.
// https://platform.openai.com/docs/api-reference
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/generation.h"
#include "server/served_model.h"

namespace diffulex_edge {

struct OpenAiRequest {
  GenerationRequest generation;
  std::vector<std::string> stops;
  bool is_chat = false;
  bool is_stream = false;
  bool has_usage = false;   // a stream ends with the number of tokens
  bool has_canvas = false;  // a stream shows the whole canvas after each pass
};

// Throws ApiError: 400 for what is wrong, 404 for another model's name, 501 for a chat with a model that has no chat
// template. Fields that nobody knows are ignored, those that are known but not supported are not.
OpenAiRequest read_completion(std::string_view body, const ServedModel& model);
OpenAiRequest read_chat(std::string_view body, const ServedModel& model);

}  // namespace diffulex_edge
