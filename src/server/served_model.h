// What a server needs of the model that it serves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/generation.h"
#include "diffusion/text_model.h"

namespace diffulex_edge {

struct ServedModel {
  std::string name;
  const TextModel& text;  // with a tokenizer
  std::optional<ChatTemplate> chat_template;
  DiffusionGenerationConfig defaults;  // what a request does not say
  std::int64_t capacity = 0;           // tokens of a prompt and its answer together
  std::size_t sequences = 1;           // requests at once
};

}  // namespace diffulex_edge
