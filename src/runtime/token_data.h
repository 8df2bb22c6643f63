// Token sequences for calibration and evaluation, from text or from ready ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge {

struct TokenDataOptions {
  std::int64_t length = 128;       // tokens of a sequence, at most
  std::int64_t max_sequences = 0;  // the first so many; 0: all
  std::int64_t vocab_size = 0;     // of the model: every id is below it
};

// By the file's extension:
//   .txt          UTF-8 text. Its lines that are not blank are one stream of text, with newlines between them.
//   .jsonl        a JSON object on each line. "text": the texts are one stream of tokens, each tokenized by itself;
//                 "input_ids": a list of ids, a sequence by itself. All lines have the same of the two.
//   .npy          integers [n, length] of NumPy: n sequences
//   .safetensors  every tensor input_ids_R, int64 [n, length], in the order of their names; other tensors are
//                 ignored
// A stream is cut into pieces of options.length tokens; the last piece is kept if it has at least two. Sequences of
// ready ids have any length from 1 to options.length.
//
// Throws Error{kBadFile} for what is broken, empty, too long or outside the vocabulary, with one token in all (from
// which no model can be judged), and for text where `tokenizer` is null; Error{kInvalidArgument} for another extension.
std::vector<std::vector<std::int64_t>> read_token_sequences(const std::filesystem::path& file,
                                                            const Tokenizer* tokenizer,
                                                            const TokenDataOptions& options);

}  // namespace diffulex_edge
