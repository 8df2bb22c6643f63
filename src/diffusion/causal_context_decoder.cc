// Nemotron-Labs-Diffusion (its generate, of modeling_nemotron_labs_diffusion.py): what is written is computed with a
// causal mask, so that its keys stay as they are; a block, whose tokens all see one another, is decoded behind it, and
// then computed once more with a causal mask, which also gives the next block's first token.

#include <algorithm>

#include "diffusion/decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

class CausalContextDecoder final : public Decoder {
 public:
  CausalContextDecoder(DecodingSettings settings, Canvas canvas)
      : Decoder(std::move(settings), std::move(canvas)), origin_(canvas_.first_mask()) {}

  std::optional<Pass> next() override {
    const std::int64_t first = canvas_.first_mask();
    if (first >= canvas_.end()) {
      return std::nullopt;
    }
    const std::int64_t begin = first - (first - origin_) % settings_.block_length;
    if (begin != block_begin_) {
      block_begin_ = begin;
      step_ = 0;
      masks_ = 0;
    }
    if (clean_ < begin) {
      Pass pass{.begin = clean_, .end = std::min(clean_ + kPrefillTokens, begin), .is_causal = true};
      pass.sees = pass.end;
      if (pass.end == begin && first == begin) {
        pass.positions = {begin};
      }
      return pass;
    }
    const std::int64_t end = std::min(begin + settings_.block_length, canvas_.size());
    return Pass{.begin = begin, .end = end, .sees = end, .positions = canvas_.masks(begin, end)};
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    if (pass.is_causal) {
      clean_ = pass.end;
      if (!pass.positions.empty()) {
        canvas_.set(pass.positions.front(), samples.front().token);
      }
      return;
    }
    const auto masks = static_cast<std::int64_t>(pass.positions.size());
    masks_ = std::max(masks_, masks);
    const std::int64_t even = even_share(masks_, settings_.steps_per_block, step_);
    const bool is_last = step_ >= settings_.steps_per_block - 1;
    commit(pass, samples, {.tokens = is_last ? masks : std::max<std::int64_t>(1, even), .is_last = is_last}, random);
    ++step_;
  }

  // The token before the first new one predicts it, and is computed in any case.
  std::int64_t reuse(std::int64_t tokens) override {
    clean_ = std::min(tokens, std::max<std::int64_t>(origin_ - 1, 0));
    return clean_;
  }

  std::int64_t clean_tokens() const override { return clean_; }

 private:
  std::int64_t origin_;            // the first block begins here
  std::int64_t clean_ = 0;         // tokens whose keys are those of a causal mask
  std::int64_t block_begin_ = -1;  // of the block that is decoded
  std::int64_t masks_ = 0;         // that it had at first
  std::int64_t step_ = 0;
};

}  // namespace

std::unique_ptr<Decoder> causal_context_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<CausalContextDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
