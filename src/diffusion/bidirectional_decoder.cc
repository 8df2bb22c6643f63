// LLaDA (https://github.com/ML-GSAI/LLaDA) and Dream (https://github.com/DreamLM/Dream), with the caches of Fast-dLLM
// (https://github.com/NVlabs/Fast-dLLM).

#include <algorithm>

#include "diffusion/decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

class BidirectionalDecoder final : public Decoder {
 public:
  BidirectionalDecoder(DecodingSettings settings, Canvas canvas)
      : Decoder(std::move(settings), std::move(canvas)), block_begin_(canvas_.first_mask()) {
    begin_block();
  }

  std::optional<Pass> next() override {
    while (canvas_.first_mask() >= block_end_ && block_end_ < canvas_.size()) {
      block_begin_ = block_end_;
      begin_block();
    }
    if (canvas_.first_mask() >= block_end_) {
      return std::nullopt;
    }
    while (chooses_by_share() && share().tokens == 0) {
      ++step_;  // a step without a share changes nothing
    }
    Pass pass{.begin = 0, .end = canvas_.size(), .sees = canvas_.size(), .positions = {}};
    if (settings_.cache != CacheKind::NONE && !is_refreshed()) {
      pass.begin = block_begin_;
      pass.end = settings_.cache == CacheKind::DUAL ? block_end_ : canvas_.size();
    }
    pass.positions = takes_first_only() ? std::vector{block_begin_} : canvas_.masks(pass.begin, block_end_);
    return pass;
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    if (takes_first_only()) {
      canvas_.set(block_begin_, samples.front().token);
    } else {
      const auto before = static_cast<std::int64_t>(pass.positions.size());
      const StepShare share = this->share();
      commit(pass, samples, share, random);
      const auto left = static_cast<std::int64_t>(canvas_.masks(pass.begin, block_end_).size());
      carried_ = std::max<std::int64_t>(0, share.most.value_or(0) - (before - left));
    }
    ++step_;
    ++passes_;
  }

 private:
  void begin_block() {
    block_end_ = std::min(block_begin_ + settings_.block_length, canvas_.size());
    block_masks_ = static_cast<std::int64_t>(canvas_.masks(block_begin_, block_end_).size());
    step_ = 0;
    passes_ = 0;
    carried_ = 0;
  }

  bool is_refreshed() const {
    return passes_ == 0 || (settings_.cache_refresh > 0 && passes_ % settings_.cache_refresh == 0);
  }

  // The logits of a block's first token lie before the block, which later passes don't compute: it is taken from the
  // first one, which commits nothing else.
  bool takes_first_only() const {
    return settings_.is_shifted && settings_.cache != CacheKind::NONE && passes_ == 0 &&
           canvas_.is_masked(block_begin_);
  }

  bool chooses_by_share() const {
    return settings_.rule.selection == Selection::kBest || settings_.rule.selection == Selection::kSequential;
  }

  StepShare share() const {
    const auto masks = static_cast<std::int64_t>(canvas_.masks(0, block_end_).size());
    const std::int64_t steps = settings_.steps_per_block;
    if (settings_.rule.selection == Selection::kThreshold || settings_.rule.selection == Selection::kFactor) {
      const std::int64_t even = step_ < steps ? block_masks_ / steps : 0;
      const std::int64_t most = std::max<std::int64_t>(1, even + carried_);
      return {.most = settings_.has_share_limit ? std::optional(most) : std::nullopt};
    }
    const bool is_last = step_ >= steps - 1;
    if (step_ >= steps) {
      return {.tokens = masks, .is_last = true};
    }
    if (settings_.schedule == Schedule::kTime) {
      return {.tokens = is_last ? masks : time_share(masks, steps, step_, settings_.eps),
              .probability = static_cast<double>(commit_probability(steps, step_, settings_.eps)),
              .is_last = is_last};
    }
    return {.tokens = even_share(block_masks_, steps, step_), .is_last = is_last};
  }

  std::int64_t block_begin_ = 0;
  std::int64_t block_end_ = 0;
  std::int64_t block_masks_ = 0;  // when the block began
  std::int64_t step_ = 0;
  std::int64_t passes_ = 0;   // of this block
  std::int64_t carried_ = 0;  // of earlier steps' shares
};

}  // namespace

std::unique_ptr<Decoder> bidirectional_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<BidirectionalDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
