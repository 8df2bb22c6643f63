// GPT-2's alphabet: every byte as a printable character, so that vocabularies are text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace diffulex_edge {

// " é" is "ĠÃ©": printable bytes of Latin-1 stand for themselves, the others for U+0100 onwards in their order.
std::string to_byte_characters(std::string_view bytes);

// The way back; no value where `text` has a character that stands for no byte. `text` is valid UTF-8.
std::optional<std::string> from_byte_characters(std::string_view text);

}  // namespace diffulex_edge
