#include "diffulex_edge/tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>
#include <variant>

#include "diffulex_edge/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_decoder.h"
#include "tokenizer/token_model.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/tokenizer_source.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

// The words of one text: most of them come again.
class WordCache {
 public:
  explicit WordCache(const TokenModel& model) : model_(model) {}

  void encode(const std::string& piece, std::vector<std::int64_t>& ids) {
    if (piece.size() > kMaxBytes) {
      model_.encode(piece, ids);
      return;
    }
    auto position = known_.find(piece);
    if (position == known_.end()) {
      if (known_.size() >= kMaxWords) {
        known_.clear();
      }
      position = known_.emplace(piece, std::vector<std::int64_t>()).first;
      model_.encode(piece, position->second);
    }
    ids.insert(ids.end(), position->second.begin(), position->second.end());
  }

 private:
  static constexpr std::size_t kMaxBytes = 256;
  static constexpr std::size_t kMaxWords = 20'000;
  const TokenModel& model_;
  std::unordered_map<std::string, std::vector<std::int64_t>> known_;
};

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(TokenizerSource source)
      : model(std::visit([&](auto& model_source) { return make_token_model(std::move(model_source), source.where); },
                         source.model)),
        normalizer(source.normalizer, source.where + ": 'normalizer'"),
        pre_tokenizer(source.pre_tokenizer, source.where + ": 'pre_tokenizer'"),
        decoder(source.decoder, source.where + ": 'decoder'"),
        added(source.added_tokens, model->vocabulary(), normalizer, source.where + ": 'added_tokens'"),
        begin_ids(std::move(source.begin_ids)) {}

  std::string decode(std::span<const std::int64_t> ids, TokenDecoder::Part part) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const std::int64_t id : ids) {
      const std::string* text = added.text_of(id);
      text = text == nullptr ? model->vocabulary().token(id) : text;
      if (text != nullptr) {
        tokens.push_back(*text);
      }
    }
    return decoder.decode(std::move(tokens), part);
  }

  std::unique_ptr<TokenModel> model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  AddedTokens added;
  std::vector<std::int64_t> begin_ids;
};

Tokenizer::Tokenizer(const std::filesystem::path& path) : Tokenizer(read_tokenizer_source(path)) {}

Tokenizer::Tokenizer(TokenizerSource source) : parts_(std::make_shared<const Parts>(std::move(source))) {}

std::vector<std::int64_t> Tokenizer::encode(std::string_view utf8) const {
  if (const auto position = invalid_utf8(utf8)) {
    throw Error(ErrorCode::kInvalidArgument, "text to encode",
                "is not valid UTF-8 at byte " + std::to_string(*position));
  }
  std::vector<std::int64_t> ids;
  WordCache words(*parts_->model);
  for (const Section& raw : parts_->added.in_raw_text().cut(utf8)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    const bool is_first = raw.text.data() == utf8.data();
    const auto [normalized, start_bytes] = parts_->normalizer.apply(raw.text);
    for (const Section& section : parts_->added.in_normalized_text().cut(normalized)) {
      if (section.id) {
        ids.push_back(*section.id);
        continue;
      }
      const bool begins_input = is_first && start_bytes > 0 && section.text.data() == normalized.data();
      for (const std::string& piece : parts_->pre_tokenizer.cut(section.text, begins_input)) {
        words.encode(piece, ids);
      }
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids) const { return parts_->decode(ids, {}); }

std::string Tokenizer::decode_settled(std::span<const std::int64_t> ids) const {
  return parts_->decode(ids, {.is_end = false});
}

std::string Tokenizer::decode_continuation(std::span<const std::int64_t> ids) const {
  return parts_->decode(ids, {.is_start = false});
}

const std::vector<std::int64_t>& Tokenizer::begin_ids() const { return parts_->begin_ids; }

bool Tokenizer::is_special(std::int64_t id) const { return parts_->added.is_special(id); }

const std::set<std::int64_t>& Tokenizer::special_ids() const { return parts_->added.special_ids(); }

std::int64_t Tokenizer::vocab_size() const {
  return std::max(parts_->added.largest_id(), parts_->model->vocabulary().largest_id()) + 1;
}

std::optional<std::int64_t> Tokenizer::id_of(std::string_view token) const {
  const auto id = parts_->added.id_of(token);
  return id ? id : std::optional<std::int64_t>(parts_->model->vocabulary().id_of(token));
}

}  // namespace diffulex_edge
