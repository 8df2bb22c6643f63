// What Unicode says of texts: normal forms (UAX 15), lower case, grapheme clusters (UAX 29).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace diffulex_edge {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// All texts are valid UTF-8.
std::string to_normal_form(std::string text, NormalForm form);

// Each character by itself, as Rust's char::to_lowercase has it: no final sigma.
std::string to_lower_case(std::string_view text);

// Bytes of the extended grapheme cluster that begins at `position`.
std::size_t grapheme_length(std::string_view text, std::size_t position);

}  // namespace diffulex_edge
