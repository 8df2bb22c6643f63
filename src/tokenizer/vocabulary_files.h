// Tokenizers whose vocabulary has a file of its own, without a tokenizer.json.
#pragma once

#include <filesystem>

#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

// vocab.json with merges.txt beside it: byte-level BPE of the class that tokenizer_config.json names. Throws
// Error{kBadFile}, and Error{kUnsupported} for a class that is not known.
TokenizerSource read_vocabulary_and_merges(const std::filesystem::path& vocab_json);

// vocab.txt, a token a line: WordPiece of the class BertTokenizer. Throws the same.
TokenizerSource read_word_piece_vocabulary(const std::filesystem::path& vocab_txt);

}  // namespace diffulex_edge
