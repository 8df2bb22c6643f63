// A SentencePiece model: what its file says, and the tokenizer that Hugging Face makes of it.
// Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

struct SentencePieceModel {
  enum class Algorithm { kUnigram = 1, kBpe = 2 };
  // The file's numbers; GGUF has the same.
  enum class Kind { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0.0F;  // the logarithm of its probability, or minus a BPE merge's rank
    Kind kind = Kind::kNormal;
  };

  std::vector<Piece> pieces;  // by id
  Algorithm algorithm = Algorithm::kUnigram;
  bool has_byte_fallback = false;
  std::int64_t unknown_id = 0;
  std::int64_t begin_id = 1;  // negative: there is none
  std::int64_t end_id = 2;
  std::string unknown_piece = "<unk>";
  std::string begin_piece = "<s>";
  std::string end_piece = "</s>";
  std::string character_map;  // as CharacterMap takes it; empty: none
  bool adds_dummy_prefix = true;
  bool removes_extra_spaces = true;
  bool escapes_spaces = true;
};

// Throws Error{kBadFile} for what is no such file, and Error{kUnsupported} for models of words or characters.
SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path);

// `where` is the model's file, for messages. By config.class_name: LlamaTokenizer is the tokenizer that transformers'
// class of this name is, "legacy" or not; where no class is said, or a general one, the model's own settings count.
// Throws Error{kBadFile}, and Error{kUnsupported} for another class.
TokenizerSource sentencepiece_source(const SentencePieceModel& model, const TokenizerConfig& config,
                                     const std::string& where);

}  // namespace diffulex_edge
