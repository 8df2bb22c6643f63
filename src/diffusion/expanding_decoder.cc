// DreamOn (https://github.com/DreamLM/DreamOn, https://arxiv.org/abs/2602.01326): each pass writes the token that is
// most certain. Where that is the expand token, two masks take its place; where it ends a text, nothing does.

#include <algorithm>
#include <ranges>
#include <vector>

#include "diffusion/decoder.h"

namespace diffulex_edge {
namespace {

class ExpandingDecoder final : public Decoder {
 public:
  ExpandingDecoder(DecodingSettings settings, Canvas canvas)
      : Decoder(std::move(settings), std::move(canvas)),
        expansion_(settings_.expansion.value_or(ExpansionSettings())),
        longest_(canvas_.size() + expansion_.room),
        budget_(expansion_.budget.value_or(2 * (longest_ - canvas_.first_mask()))) {}

  std::optional<Pass> next() override {
    Pass pass{.begin = 0, .end = canvas_.size(), .sees = canvas_.size(), .positions = {}};
    pass.positions = canvas_.masks(0, canvas_.size());
    if (pass.positions.empty()) {
      return std::nullopt;
    }
    if (canvas_.size() >= longest_ || budget_ == 0) {
      pass.banned = expansion_.expand_token;
    }
    return pass;
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    const std::size_t best = select(settings_.rule, samples, {.tokens = 1}, random).front();
    const std::int64_t position = pass.positions[best];
    const std::int64_t token = samples[best].token;
    canvas_.set(position, token);
    if (ends(token) && !expansion_.deletes_to_right) {
      canvas_.erase(position);
      return;
    }
    const std::int64_t erased_from = expansion_.deletes_to_right ? erase_to_right(pass.positions) : longest_;
    if (token == expansion_.expand_token && position < erased_from) {
      canvas_.mask(position);
      canvas_.insert_mask(position);
      --budget_;
    }
  }

 private:
  bool ends(std::int64_t token) const {
    return std::ranges::find(expansion_.delete_tokens, token) != expansion_.delete_tokens.end();
  }

  // Of the positions that were masked, those from the first end token on, which is returned. As the published program
  // has it, an end token of the prompt counts too.
  std::int64_t erase_to_right(const std::vector<std::int64_t>& positions) {
    const std::vector<std::int64_t>& tokens = canvas_.tokens();
    const auto first = std::ranges::find_if(tokens, [this](std::int64_t token) { return ends(token); });
    const std::int64_t end = first - tokens.begin();
    for (const std::int64_t position : positions | std::views::reverse) {
      if (position >= end) {
        canvas_.erase(position);
      }
    }
    return end;
  }

  ExpansionSettings expansion_;
  std::int64_t longest_;  // that the canvas may be
  std::int64_t budget_;   // masks that may still be added
};

}  // namespace

std::unique_ptr<Decoder> expanding_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<ExpandingDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
