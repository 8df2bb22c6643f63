#include "tokenizer/sentencepiece_model.h"

#include <cmath>
#include <protozero/exception.hpp>
#include <string_view>

#include "core/mapped_file.h"
#include "core/message_reader.h"
#include "diffulex_edge/error.h"
#include "tokenizer/piece_trie.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

// Numbers of the fields.
namespace model_field {
enum : std::uint32_t { kPieces = 1, kTrainer = 2, kNormalizer = 3 };
}
namespace piece_field {
enum : std::uint32_t { kText = 1, kScore = 2, kKind = 3 };
}
namespace trainer_field {
enum : std::uint32_t {
  kAlgorithm = 3,
  kSpaceIsSuffix = 24,
  kByteFallback = 35,
  kUnknownId = 40,
  kBeginId = 41,
  kEndId = 42,
  kUnknownPiece = 45,
  kBeginPiece = 46,
  kEndPiece = 47
};
}
namespace normalizer_field {
enum : std::uint32_t { kCharacterMap = 2, kDummyPrefix = 3, kExtraSpaces = 4, kEscapesSpaces = 5 };
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : where_(path.string()) {}

  SentencePieceModel read(std::string_view bytes) {
    MessageReader message(bytes);
    while (message.next()) {
      switch (message.tag()) {
        case model_field::kPieces:
          read_piece(message.message());
          break;
        case model_field::kTrainer:
          read_trainer(message.message());
          break;
        case model_field::kNormalizer:
          read_normalizer(message.message());
          break;
        default:
          message.skip();
      }
    }
    if (model_.pieces.empty()) {
      fail("is no SentencePiece model: it has no pieces");
    }
    return std::move(model_);
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error(ErrorCode::kBadFile, where_, what); }

 private:
  std::string text(MessageReader& message) const {
    std::string text = message.text();
    if (invalid_utf8(text)) {
      fail("has a text that is not valid UTF-8");
    }
    return text;
  }

  void read_piece(MessageReader message) {
    const std::string number = std::to_string(model_.pieces.size());
    SentencePieceModel::Piece piece;
    while (message.next()) {
      switch (message.tag()) {
        case piece_field::kText:
          piece.text = text(message);
          break;
        case piece_field::kScore:
          piece.score = message.number();
          break;
        case piece_field::kKind:
          piece.kind = static_cast<SentencePieceModel::Kind>(message.integer());
          break;
        default:
          message.skip();
      }
    }
    const auto kind = static_cast<int>(piece.kind);
    if (kind < 1 || kind > static_cast<int>(SentencePieceModel::Kind::kByte)) {
      fail("piece number " + number + " is of kind " + std::to_string(kind) + ", which is not known");
    }
    if (piece.text.empty() || piece.text.size() > PieceTrie::kMaxBytes) {
      fail("piece number " + number + " has " + std::to_string(piece.text.size()) + " bytes, of 1 to " +
           std::to_string(PieceTrie::kMaxBytes));
    }
    if (!std::isfinite(piece.score)) {
      fail("the score of piece number " + number + " is not finite");
    }
    model_.pieces.push_back(std::move(piece));
  }

  void read_trainer(MessageReader message) {
    while (message.next()) {
      switch (message.tag()) {
        case trainer_field::kAlgorithm:
          model_.algorithm = static_cast<SentencePieceModel::Algorithm>(message.integer());
          break;
        case trainer_field::kSpaceIsSuffix:
          if (message.truth()) {
            throw Error(ErrorCode::kUnsupported, where_, "'treat_whitespace_as_suffix' is not supported",
                        kTokenizerAdvice);
          }
          break;
        case trainer_field::kByteFallback:
          model_.has_byte_fallback = message.truth();
          break;
        case trainer_field::kUnknownId:
          model_.unknown_id = message.integer();
          break;
        case trainer_field::kBeginId:
          model_.begin_id = message.integer();
          break;
        case trainer_field::kEndId:
          model_.end_id = message.integer();
          break;
        case trainer_field::kUnknownPiece:
          model_.unknown_piece = text(message);
          break;
        case trainer_field::kBeginPiece:
          model_.begin_piece = text(message);
          break;
        case trainer_field::kEndPiece:
          model_.end_piece = text(message);
          break;
        default:
          message.skip();
      }
    }
    const auto algorithm = static_cast<int>(model_.algorithm);
    if (algorithm != 1 && algorithm != 2) {
      throw Error(ErrorCode::kUnsupported, where_,
                  "is a SentencePiece model of words or characters; supported are BPE and Unigram", kTokenizerAdvice);
    }
  }

  void read_normalizer(MessageReader message) {
    while (message.next()) {
      switch (message.tag()) {
        case normalizer_field::kCharacterMap:
          model_.character_map = message.text();
          break;
        case normalizer_field::kDummyPrefix:
          model_.adds_dummy_prefix = message.truth();
          break;
        case normalizer_field::kExtraSpaces:
          model_.removes_extra_spaces = message.truth();
          break;
        case normalizer_field::kEscapesSpaces:
          model_.escapes_spaces = message.truth();
          break;
        default:
          message.skip();
      }
    }
  }

  std::string where_;
  SentencePieceModel model_;
};

}  // namespace

SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path) {
  const MappedFile file(path);
  Reader reader(path);
  if (file.bytes().size() > kMaxTokenizerBytes) {
    reader.fail("has " + std::to_string(file.bytes().size()) + " bytes; a tokenizer has at most " +
                std::to_string(kMaxTokenizerBytes));
  }
  const std::string bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  try {
    return reader.read(bytes);
  } catch (const protozero::exception& error) {
    reader.fail(std::string("is no SentencePiece model, or a damaged one: ") + error.what());
  }
}

}  // namespace diffulex_edge
