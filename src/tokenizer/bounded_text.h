// A tokenizer's steps make texts longer by little; a damaged or hostile file must not make them fill the memory.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace diffulex_edge {

// Of a normalizer, a pre-tokenizer or a decoder: each costs time for every text.
inline constexpr std::size_t kMaxSteps = 64;

// What a text of so many bytes may become, in bytes.
std::size_t longest_result(std::size_t bytes);

// Throws Error{kUnsupported} where `bytes` is more than `limit`.
void check_length(std::size_t bytes, std::size_t limit);

// Appends, or throws as check_length() does.
void append_within(std::string& text, std::string_view more, std::size_t limit);

}  // namespace diffulex_edge
