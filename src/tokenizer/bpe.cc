// Byte pair encoding (Sennrich et al., arXiv:1508.07909).
#include <limits>
#include <optional>
#include <queue>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/byte_tokens.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

struct Merge {
  std::uint32_t rank = 0;
  std::uint32_t id = 0;
};

// A piece's tokens as a list through their positions.
struct Symbol {
  std::uint32_t id = 0;
  std::uint32_t previous = kNone;
  std::uint32_t next = kNone;
  bool merged = false;  // into the one before it
};

// The queue's entry: left symbol, and the token that the pair would become. Stale where the symbols changed since.
struct Candidate {
  std::uint32_t rank = 0;
  std::uint32_t position = 0;
  std::uint32_t id = 0;

  bool operator>(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

class Bpe final : public TokenModel {
 public:
  Bpe(BpeSource source, std::string where);

  // The piece's characters, where at each step the pair of lowest rank, leftmost first, is put together. O(n log n).
  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  void read_merges(const std::vector<std::pair<std::string, std::string>>& merges);
  std::uint32_t require_id(std::size_t rank, const std::string& token) const;
  const Merge* merge_of(std::uint32_t left, std::uint32_t right) const;
  std::string spelled(std::string_view piece, std::size_t begin, std::size_t length) const;
  std::vector<std::int64_t> characters_of(std::string_view piece) const;
  std::vector<Symbol> symbols_of(std::string_view piece) const;
  std::int64_t unknown_for(std::string_view text, const std::string& unknown_token) const;

  std::string where_;
  Vocabulary vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::string continuing_prefix_;
  std::string end_suffix_;
  std::optional<std::string> unknown_token_;
  std::optional<ByteTokens> byte_tokens_;
  bool fuses_unknown_;
  bool ignores_merges_;
};

Bpe::Bpe(BpeSource source, std::string where)
    : where_(std::move(where)),
      vocabulary_(std::move(source.vocabulary)),
      continuing_prefix_(std::move(source.continuing_prefix)),
      end_suffix_(std::move(source.end_suffix)),
      unknown_token_(std::move(source.unknown_token)),
      fuses_unknown_(source.fuses_unknown),
      ignores_merges_(source.ignores_merges) {
  read_merges(source.merges);
  if (source.has_byte_fallback) {
    byte_tokens_.emplace(vocabulary_);
  }
}

void Bpe::read_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.reserve(merges.size());
  std::uint32_t rank = 0;
  for (const auto& [left, right] : merges) {
    if (!right.starts_with(continuing_prefix_)) {
      throw Error(ErrorCode::kBadFile, where_,
                  "'merges' number " + std::to_string(rank) + ": '" + right + "' does not begin with '" +
                      continuing_prefix_ + "', the 'continuing_subword_prefix'");
    }
    const std::uint64_t key = std::uint64_t{require_id(rank, left)} << 32U | require_id(rank, right);
    const std::string merged = left + right.substr(continuing_prefix_.size());
    merges_.insert_or_assign(key, Merge{.rank = rank, .id = require_id(rank, merged)});
    ++rank;
  }
}

std::uint32_t Bpe::require_id(std::size_t rank, const std::string& token) const {
  const std::optional<std::uint32_t> id = vocabulary_.id_of(token);
  if (!id) {
    throw Error(
        ErrorCode::kBadFile, where_,
        "'merges' number " + std::to_string(rank) + " needs the token '" + token + "', which is not in 'vocab'");
  }
  return *id;
}

const Merge* Bpe::merge_of(std::uint32_t left, std::uint32_t right) const {
  const auto position = merges_.find(std::uint64_t{left} << 32U | right);
  return position == merges_.end() ? nullptr : &position->second;
}

// A character as the vocabulary has it at its place in the piece.
std::string Bpe::spelled(std::string_view piece, std::size_t begin, std::size_t length) const {
  std::string text = begin == 0 ? std::string() : continuing_prefix_;
  text += piece.substr(begin, length);
  return begin + length == piece.size() ? text + end_suffix_ : text;
}

std::int64_t Bpe::unknown_for(std::string_view text, const std::string& unknown_token) const {
  const std::optional<std::uint32_t> id = vocabulary_.id_of(unknown_token);
  if (!id) {  // an error only for a text that needs it, since byte-level BPE never does
    throw Error(ErrorCode::kBadFile, where_,
                "'" + std::string(text) + "' is not in 'vocab', and neither is the 'unk_token'");
  }
  return *id;
}

// As the original orders them: an unknown token waits for the next known character, behind bytes that came meanwhile.
std::vector<std::int64_t> Bpe::characters_of(std::string_view piece) const {
  const bool is_plain = continuing_prefix_.empty() && end_suffix_.empty();
  std::vector<std::int64_t> ids;
  ids.reserve(piece.size());
  constexpr std::int64_t kNothing = -1;
  std::int64_t waiting = kNothing;
  const auto put_waiting = [&] {
    if (waiting != kNothing) {
      ids.push_back(waiting);
      waiting = kNothing;
    }
  };
  for (std::size_t i = 0, length = 0; i < piece.size(); i += length) {
    length = character_length(piece[i]);
    const std::string decorated = is_plain ? std::string() : spelled(piece, i, length);
    const std::string_view character = is_plain ? piece.substr(i, length) : std::string_view(decorated);
    if (const auto id = vocabulary_.id_of(character)) {
      put_waiting();
      ids.push_back(*id);
    } else if (byte_tokens_ && byte_tokens_->append(character, ids)) {
      continue;
    } else if (unknown_token_ && (waiting == kNothing || !fuses_unknown_)) {
      put_waiting();
      waiting = unknown_for(character, *unknown_token_);
    }
  }
  put_waiting();
  return ids;
}

std::vector<Symbol> Bpe::symbols_of(std::string_view piece) const {
  const std::vector<std::int64_t> ids = characters_of(piece);
  if (ids.size() >= kNone) {
    throw Error(ErrorCode::kInvalidArgument, "text to encode", "is longer than 2^32 characters in one piece");
  }
  std::vector<Symbol> symbols(ids.size());
  for (std::uint32_t i = 0; i < symbols.size(); ++i) {
    symbols[i] = {.id = static_cast<std::uint32_t>(ids[i]),
                  .previous = i == 0 ? kNone : i - 1,
                  .next = i + 1 == symbols.size() ? kNone : i + 1};
  }
  return symbols;
}

void Bpe::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  if (ignores_merges_) {
    if (const auto id = vocabulary_.id_of(piece)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<Symbol> symbols = symbols_of(piece);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::uint32_t left) {
    if (left == kNone || symbols[left].next == kNone) {
      return;
    }
    if (const Merge* merge = merge_of(symbols[left].id, symbols[symbols[left].next].id)) {
      queue.push({.rank = merge->rank, .position = left, .id = merge->id});
    }
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    consider(i);
  }
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbols[candidate.position];
    if (left.merged || left.next == kNone) {
      continue;
    }
    Symbol& right = symbols[left.next];
    const Merge* merge = merge_of(left.id, right.id);
    if (merge == nullptr || merge->id != candidate.id) {
      continue;
    }
    left.id = candidate.id;
    left.next = right.next;
    right.merged = true;
    if (left.next != kNone) {
      symbols[left.next].previous = candidate.position;
    }
    consider(left.previous);
    consider(candidate.position);
  }
  for (std::uint32_t i = symbols.empty() ? kNone : 0; i != kNone; i = symbols[i].next) {
    ids.push_back(symbols[i].id);
  }
}

}  // namespace

std::unique_ptr<TokenModel> make_token_model(BpeSource source, const std::string& where) {
  return std::make_unique<Bpe>(std::move(source), where);
}

}  // namespace diffulex_edge
