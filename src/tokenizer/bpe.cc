#include "tokenizer/bpe.h"

#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
constexpr std::uint64_t kMaxId = std::numeric_limits<std::int32_t>::max();

// The queue's entry: left symbol, and the token that the pair would become. Stale where the symbols changed since.
struct Candidate {
  std::uint32_t rank = 0;
  std::size_t position = 0;
  std::uint32_t id = 0;

  bool operator>(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

std::pair<std::string, std::string> read_pair(const Fields& model, const nlohmann::json& merge, std::size_t rank) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  model.fail("'merges' number " + std::to_string(rank) + " is not a pair of tokens");
}

}  // namespace

// A piece's tokens as a list through their positions.
struct Bpe::Symbol {
  std::uint32_t id = 0;
  std::size_t previous = kNone;
  std::size_t next = kNone;
  bool merged = false;  // into the one before it
};

Bpe::Bpe(const Fields& model) {
  if (model.has("type") && model.text("type") != "BPE") {
    model.fail_unsupported("the model '" + model.text("type") + "' is not supported; supported is BPE");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(key) && !model.text(key).empty()) {
      model.fail_unsupported(std::string("'") + key + "' is not supported");
    }
  }
  if (model.flag("byte_fallback", false)) {
    model.fail_unsupported("'byte_fallback' is not supported");
  }
  if (model.has("dropout") && model.require("dropout") != 0.0) {
    model.fail_unsupported("'dropout' is not supported");
  }
  ignore_merges_ = model.flag("ignore_merges", false);
  fuse_unknown_ = model.flag("fuse_unk", false);
  read_vocabulary(model);
  read_merges(model);
  if (model.has("unk_token")) {
    const auto position = ids_.find(model.text("unk_token"));
    unknown_is_missing_ = position == ids_.end();
    if (!unknown_is_missing_) {
      unknown_ = position->second;
    }
  }
}

void Bpe::read_vocabulary(const Fields& model) {
  const nlohmann::json& vocabulary = model.require("vocab");
  if (!vocabulary.is_object() || vocabulary.empty()) {
    model.fail("'vocab' is not a JSON object with tokens");
  }
  ids_.reserve(vocabulary.size());
  tokens_.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > kMaxId) {
      model.fail("the token '" + token + "' has the id " + id.dump() + ", which is not an integer from 0 to 2^31 - 1");
    }
    const auto number = id.get<std::uint32_t>();
    ids_.emplace(token, number);
    const auto [other, is_new] = tokens_.emplace(number, token);
    if (!is_new) {
      model.fail("the tokens '" + other->second + "' and '" + token + "' have the same id " + std::to_string(number));
    }
  }
}

void Bpe::read_merges(const Fields& model) {
  const nlohmann::json& merges = model.list("merges");
  merges_.reserve(merges.size());
  std::uint32_t rank = 0;
  for (const nlohmann::json& merge : merges) {
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) {
      continue;  // the first line of a merges.txt
    }
    const auto [left, right] = read_pair(model, merge, rank);
    const std::uint64_t key = std::uint64_t{require_id(model, rank, left)} << 32U | require_id(model, rank, right);
    merges_.insert_or_assign(key, Merge{.rank = rank, .id = require_id(model, rank, left + right)});
    ++rank;
  }
}

std::uint32_t Bpe::require_id(const Fields& model, std::size_t rank, const std::string& token) const {
  const auto position = ids_.find(token);
  if (position == ids_.end()) {
    model.fail("'merges' number " + std::to_string(rank) + " needs the token '" + token + "', which is not in 'vocab'");
  }
  return position->second;
}

std::optional<std::int64_t> Bpe::id_of(std::string_view token) const {
  const auto position = ids_.find(token);
  return position == ids_.end() ? std::nullopt : std::optional<std::int64_t>(position->second);
}

const Bpe::Merge* Bpe::merge_of(std::uint32_t left, std::uint32_t right) const {
  const auto position = merges_.find(std::uint64_t{left} << 32U | right);
  return position == merges_.end() ? nullptr : &position->second;
}

std::vector<Bpe::Symbol> Bpe::symbols_of(std::string_view piece) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  bool after_unknown = false;
  for (std::size_t i = 0; i < piece.size();) {
    const std::size_t length = character_length(piece[i]);
    const auto position = ids_.find(piece.substr(i, length));
    const bool known = position != ids_.end();
    if (known) {
      symbols.push_back({.id = position->second});
    } else if (unknown_is_missing_) {
      throw Error(ErrorCode::kBadFile, "tokenizer",
                  "'" + std::string(piece.substr(i, length)) + "' is not in 'vocab', and neither is the 'unk_token'");
    } else if (unknown_ && !(fuse_unknown_ && after_unknown)) {
      symbols.push_back({.id = *unknown_});
    }
    after_unknown = !known;
    i += length;
  }
  for (std::size_t i = 1; i < symbols.size(); ++i) {
    symbols[i].previous = i - 1;
    symbols[i - 1].next = i;
  }
  return symbols;
}

void Bpe::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = id_of(piece)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<Symbol> symbols = symbols_of(piece);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::size_t left) {
    if (left == kNone || symbols[left].next == kNone) {
      return;
    }
    if (const Merge* merge = merge_of(symbols[left].id, symbols[symbols[left].next].id)) {
      queue.push({.rank = merge->rank, .position = left, .id = merge->id});
    }
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
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
  for (std::size_t i = symbols.empty() ? kNone : 0; i != kNone; i = symbols[i].next) {
    ids.push_back(symbols[i].id);
  }
}

}  // namespace diffulex_edge
