#include "diffulex_edge/tokenizer.h"

#include <algorithm>
#include <system_error>
#include <unordered_map>

#include "diffulex_edge/error.h"
#include "model_files/gguf_file.h"
#include "model_files/model_files.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/fields.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{32} << 20U;  // those of the known families are under 20 MiB

const nlohmann::json& member_or_null(const nlohmann::json& document, const char* key) {
  static const nlohmann::json null;
  const auto position = document.find(key);
  return position == document.end() ? null : *position;
}

// False where there is none: tokens are then put together with spaces.
bool read_decoder(const nlohmann::json& value, const std::string& where) {
  if (value.is_null()) {
    return false;
  }
  const Fields fields(value, where);
  if (fields.text("type") != "ByteLevel") {
    fields.fail_unsupported("the decoder '" + fields.text("type") + "' is not supported; supported is ByteLevel");
  }
  return true;
}

// The special tokens that a template puts before a single text, in a post-processor or one of a sequence of them. What
// follows the text (an end of sequence) would end a text that is to be continued, and is left out.
std::vector<std::int64_t> read_begin_ids(const nlohmann::json& value, const std::string& where) {
  std::vector<std::int64_t> ids;
  if (value.is_null()) {
    return ids;
  }
  const Fields fields(value, where);
  if (fields.text("type") == "Sequence") {
    for (const nlohmann::json& processor : fields.list("processors")) {
      const std::vector<std::int64_t> more = read_begin_ids(processor, where);
      ids.insert(ids.end(), more.begin(), more.end());
    }
  }
  if (fields.text("type") != "TemplateProcessing") {
    return ids;  // others move offsets, which nobody asks for here
  }
  for (const nlohmann::json& piece : fields.list("single")) {
    const Fields piece_fields(piece, where);
    if (!piece_fields.has("SpecialToken")) {
      break;
    }
    const std::string& name = piece_fields.object("SpecialToken").text("id");
    for (const nlohmann::json& id : fields.object("special_tokens").object(name).list("ids")) {
      if (!id.is_number_unsigned()) {
        fields.fail("the id of '" + name + "' is " + id.dump());
      }
      ids.push_back(id.get<std::int64_t>());
    }
  }
  return ids;
}

// The words of one text: most of them come again.
class WordCache {
 public:
  explicit WordCache(const Bpe& bpe) : bpe_(bpe) {}

  void encode(const std::string& piece, std::vector<std::int64_t>& ids) {
    if (piece.size() > kMaxBytes) {
      bpe_.encode(piece, ids);
      return;
    }
    auto position = known_.find(piece);
    if (position == known_.end()) {
      if (known_.size() >= kMaxWords) {
        known_.clear();
      }
      position = known_.emplace(piece, std::vector<std::int64_t>()).first;
      bpe_.encode(piece, position->second);
    }
    ids.insert(ids.end(), position->second.begin(), position->second.end());
  }

 private:
  static constexpr std::size_t kMaxBytes = 256;
  static constexpr std::size_t kMaxWords = 20'000;
  const Bpe& bpe_;
  std::unordered_map<std::string, std::vector<std::int64_t>> known_;
};

}  // namespace

struct Tokenizer::Parts {
  Parts(const nlohmann::json& document, const std::string& file)
      : bpe(Fields(document, file).object("model")),
        normalizer(member_or_null(document, "normalizer"), file + ": 'normalizer'"),
        pre_tokenizer(member_or_null(document, "pre_tokenizer"), file + ": 'pre_tokenizer'"),
        added(Fields(document, file).has("added_tokens") ? Fields(document, file).list("added_tokens")
                                                         : nlohmann::json::array(),
              bpe, normalizer, file + ": 'added_tokens'"),
        begin_ids(read_begin_ids(member_or_null(document, "post_processor"), file + ": 'post_processor'")),
        byte_level_decoder(read_decoder(member_or_null(document, "decoder"), file + ": 'decoder'")) {}

  const std::string* token(std::int64_t id) const {
    if (const auto position = added.tokens().find(id); position != added.tokens().end()) {
      return &position->second;
    }
    const auto position = bpe.tokens().find(id);
    return position == bpe.tokens().end() ? nullptr : &position->second;
  }

  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  AddedTokens added;
  std::vector<std::int64_t> begin_ids;
  bool byte_level_decoder;
};

Tokenizer::Tokenizer(const std::filesystem::path& path) {
  std::error_code ignored;  // opening the file gives the message
  const bool is_model = std::filesystem::is_directory(path, ignored) || is_gguf(path);
  const std::filesystem::path file = is_model ? path / "tokenizer.json" : path;
  const nlohmann::json document = read_document(file, kMaxFileBytes);
  parts_ = std::make_shared<const Parts>(document, file.string());
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view utf8) const {
  if (const auto position = invalid_utf8(utf8)) {
    throw Error(ErrorCode::kInvalidArgument, "text to encode",
                "is not valid UTF-8 at byte " + std::to_string(*position));
  }
  std::vector<std::int64_t> ids;
  WordCache words(parts_->bpe);
  for (const Section& raw : parts_->added.in_raw_text().cut(utf8)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    const std::string normalized = parts_->normalizer.apply(raw.text);
    for (const Section& section : parts_->added.in_normalized_text().cut(normalized)) {
      if (section.id) {
        ids.push_back(*section.id);
        continue;
      }
      for (const std::string& piece : parts_->pre_tokenizer.cut(section.text)) {
        words.encode(piece, ids);
      }
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids) const {
  std::string bytes;
  for (const std::int64_t id : ids) {
    const std::string* token = parts_->token(id);
    if (token == nullptr) {
      continue;
    }
    if (parts_->byte_level_decoder) {
      bytes += from_byte_characters(*token).value_or(*token);
    } else {
      bytes += (bytes.empty() ? "" : " ") + *token;
    }
  }
  return replace_invalid_utf8(bytes);
}

const std::vector<std::int64_t>& Tokenizer::begin_ids() const { return parts_->begin_ids; }

bool Tokenizer::is_special(std::int64_t id) const { return parts_->added.is_special(id); }

const std::set<std::int64_t>& Tokenizer::special_ids() const { return parts_->added.special_ids(); }

std::int64_t Tokenizer::vocab_size() const {
  std::int64_t largest = parts_->added.tokens().empty() ? -1 : parts_->added.tokens().rbegin()->first;
  for (const auto& [id, token] : parts_->bpe.tokens()) {
    largest = std::max(largest, id);
  }
  return largest + 1;
}

std::optional<std::int64_t> Tokenizer::id_of(std::string_view token) const {
  const auto id = parts_->added.id_of(token);
  return id ? id : parts_->bpe.id_of(token);
}

}  // namespace diffulex_edge
