// "Metaspace", which pre-tokenizers and decoders have: spaces as a printable character (U+2581), as SentencePiece
// writes them.
#pragma once

#include <string>

#include "tokenizer/fields.h"

namespace diffulex_edge {

// U+2581 in UTF-8: SentencePiece's space.
inline constexpr const char* kSentencePieceSpace = "\xE2\x96\x81";

// Where a text gets one that has none at its beginning.
enum class MetaspacePrefix { kAlways, kFirst, kNever };

MetaspacePrefix read_metaspace_prefix(const Fields& fields);

// The value of a key that is one character.
std::string read_character(const Fields& fields, const char* key);

}  // namespace diffulex_edge
