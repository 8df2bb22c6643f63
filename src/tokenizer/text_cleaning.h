// What BERT's normalizer does to characters, and NMT's.
#pragma once

#include <string>
#include <string_view>

namespace diffulex_edge {

// All texts are valid UTF-8.

// Takes away control characters and U+FFFD, and makes spaces of all white space.
std::string clean_text(std::string_view text);
// Puts spaces around each character of the CJK ideographs' blocks.
std::string space_ideographs(std::string_view text);
// Decomposes, and takes away nonspacing marks.
std::string strip_nonspacing_marks(std::string_view text);
// Takes away combining marks of every kind.
std::string strip_marks(std::string_view text);
// SentencePiece's rules of the name "nmt": no control characters, spaces for other white space and invisible marks.
std::string clean_for_nmt(std::string_view text);
std::string strip_spaces(std::string_view text, bool left, bool right);

}  // namespace diffulex_edge
