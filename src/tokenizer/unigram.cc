// A unigram language model (Kudo, arXiv:1804.10959): of all ways to cut a piece, the one of the highest probability.
#include <cmath>
#include <limits>
#include <optional>
#include <ranges>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/byte_tokens.h"
#include "tokenizer/piece_trie.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the lowest score, as SentencePiece has it

class Unigram final : public TokenModel {
 public:
  Unigram(UnigramSource source, std::string where);

  // Viterbi's algorithm over the piece's bytes: O(n) for tokens of bounded length.
  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  // The best way to cut what lies before a position.
  struct Step {
    static constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();
    double score = 0.0;
    std::size_t begin = kNowhere;  // of the last token
    std::uint32_t id = 0;

    void improve(double new_score, std::size_t new_begin, std::uint32_t new_id) {
      if (begin == kNowhere || new_score > score) {
        *this = {.score = new_score, .begin = new_begin, .id = new_id};
      }
    }
  };
  struct Cut {
    std::size_t begin = 0;
    std::size_t end = 0;
  };

  void read_tokens(std::vector<UnigramSource::Token> tokens);
  std::uint32_t unknown_for(std::string_view text) const;
  std::vector<Step> best_steps(std::string_view piece) const;
  std::vector<Cut> best_cuts(std::string_view piece) const;

  std::string where_;
  Vocabulary vocabulary_;
  PieceTrie trie_;
  std::vector<double> scores_;
  double unknown_score_ = 0.0;
  std::optional<std::uint32_t> unknown_;
  std::optional<ByteTokens> byte_tokens_;
};

Unigram::Unigram(UnigramSource source, std::string where) : where_(std::move(where)) {
  if (source.tokens.empty()) {
    throw Error(ErrorCode::kBadFile, where_, "'vocab' has no tokens");
  }
  const std::size_t count = source.tokens.size();
  read_tokens(std::move(source.tokens));
  if (source.unknown_id) {
    if (*source.unknown_id >= count) {
      throw Error(
          ErrorCode::kBadFile, where_,
          "'unk_id' is " + std::to_string(*source.unknown_id) + ", beyond the " + std::to_string(count) + " tokens");
    }
    unknown_ = static_cast<std::uint32_t>(*source.unknown_id);
  }
  if (source.has_byte_fallback) {
    byte_tokens_.emplace(vocabulary_);
  }
}

void Unigram::read_tokens(std::vector<UnigramSource::Token> tokens) {
  double lowest = std::numeric_limits<double>::infinity();
  vocabulary_.reserve(tokens.size());
  std::vector<PieceTrie::Entry> entries;
  entries.reserve(tokens.size());
  for (auto& [text, score] : tokens) {
    const std::size_t id = scores_.size();
    if (text.size() > PieceTrie::kMaxBytes) {
      throw Error(ErrorCode::kBadFile, where_,
                  "token number " + std::to_string(id) + " has " + std::to_string(text.size()) +
                      " bytes; the longest that is read has " + std::to_string(PieceTrie::kMaxBytes));
    }
    if (!std::isfinite(score)) {
      throw Error(ErrorCode::kBadFile, where_, "the score of token number " + std::to_string(id) + " is not finite");
    }
    vocabulary_.add(std::move(text), static_cast<std::int64_t>(id));
    entries.emplace_back(*vocabulary_.token(static_cast<std::int64_t>(id)), static_cast<std::uint32_t>(id));
    scores_.push_back(score);
    lowest = score < lowest ? score : lowest;
  }
  trie_ = PieceTrie(std::move(entries));
  unknown_score_ = lowest - kUnknownPenalty;
}

std::uint32_t Unigram::unknown_for(std::string_view text) const {
  if (!unknown_) {
    throw Error(ErrorCode::kBadFile, where_,
                "'" + std::string(text) + "' is not in 'vocab', and there is no unknown token ('unk_id')");
  }
  return *unknown_;
}

std::vector<Unigram::Step> Unigram::best_steps(std::string_view piece) const {
  std::vector<Step> steps(piece.size() + 1);
  for (std::size_t begin = 0, length = 0; begin < piece.size(); begin += length) {
    const double so_far = steps[begin].score;
    length = character_length(piece[begin]);
    bool has_character = false;
    trie_.for_each_prefix(piece.substr(begin), [&](std::size_t bytes, std::uint32_t id) {
      steps[begin + bytes].improve(so_far + scores_[id], begin, id);
      has_character = has_character || bytes == length;
    });
    if (!has_character) {
      steps[begin + length].improve(so_far + unknown_score_, begin, unknown_for(piece.substr(begin, length)));
    }
  }
  return steps;
}

// Unknown characters side by side are one part.
std::vector<Unigram::Cut> Unigram::best_cuts(std::string_view piece) const {
  const std::vector<Step> steps = best_steps(piece);
  std::vector<Cut> cuts;  // from the end
  bool behind_unknown = false;
  for (std::size_t end = piece.size(); end > 0; end = steps[end].begin) {
    const bool is_unknown = unknown_ == steps[end].id;
    if (is_unknown && behind_unknown) {
      cuts.back().begin = steps[end].begin;
    } else {
      cuts.push_back({.begin = steps[end].begin, .end = end});
    }
    behind_unknown = is_unknown;
  }
  return cuts;
}

void Unigram::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  const std::vector<Cut> cuts = best_cuts(piece);
  for (const Cut& cut : std::views::reverse(cuts)) {
    const std::string_view text = piece.substr(cut.begin, cut.end - cut.begin);
    if (const auto id = vocabulary_.id_of(text)) {
      ids.push_back(*id);
    } else if (!byte_tokens_ || !byte_tokens_->append(text, ids)) {
      ids.push_back(unknown_for(text));
    }
  }
}

}  // namespace

std::unique_ptr<TokenModel> make_token_model(UnigramSource source, const std::string& where) {
  return std::make_unique<Unigram>(std::move(source), where);
}

}  // namespace diffulex_edge
