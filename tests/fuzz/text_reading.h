// What users do with tokenizers and templates.
#pragma once

#include <string_view>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge::fuzz {

// Encodes the text, and decodes its ids and some others. Throws std::logic_error for ids outside of the vocabulary.
void use_tokenizer(const Tokenizer& tokenizer, std::string_view text);

// Renders a conversation with tools.
void use_template(const ChatTemplate& chat_template);

}  // namespace diffulex_edge::fuzz
