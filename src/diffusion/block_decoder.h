// What decoders of block-causal models share: blocks at multiples of their length, the prompt computed in pieces, and
// finished tokens that the cache keeps as they are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "diffusion/decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {

class BlockDecoder : public Decoder {
 public:
  BlockDecoder(DecodingSettings settings, Canvas canvas) : Decoder(std::move(settings), std::move(canvas)) {
    canvas_.fill_block(settings_.block_length);
  }

  std::optional<Pass> next() final {
    const std::int64_t first = first_open();
    if (first >= canvas_.end()) {
      return std::nullopt;
    }
    const std::int64_t block = settings_.block_length;
    const std::int64_t block_begin = first / block * block;
    if (block_begin != block_begin_) {
      block_begin_ = block_begin;
      begin_block();
    }
    if (settings_.cache == CacheKind::NONE) {
      clean_ = 0;
    }
    const std::int64_t piece = std::max(kPrefillTokens / block, std::int64_t{1}) * block;
    if (settings_.cache != CacheKind::NONE && block_begin - clean_ > piece) {
      return Pass{.begin = clean_, .end = clean_ + piece, .sees = clean_ + piece, .positions = {}};
    }
    return pass_for(first);
  }

  // The last block before the first mask is computed in any case: it may predict the first new token.
  std::int64_t reuse(std::int64_t tokens) final {
    if (settings_.cache != CacheKind::NONE) {
      const std::int64_t most = std::max<std::int64_t>(canvas_.first_mask() - 1, 0);
      clean_ = std::min(tokens, most) / settings_.block_length * settings_.block_length;
    }
    return clean_;
  }

  std::int64_t clean_tokens() const final { return settings_.cache == CacheKind::NONE ? 0 : clean_; }

 protected:
  // What a step of the block may commit.
  StepShare share_of(std::int64_t step) const {
    const std::int64_t steps = settings_.steps_per_block;
    const std::int64_t even = step < steps ? even_share(settings_.block_length, steps, step) : settings_.block_length;
    return {.tokens = std::max<std::int64_t>(1, even),
            .probability = static_cast<double>(commit_probability(steps, step, settings_.eps)),
            .is_last = step >= steps - 1};
  }

  // What a pass computed of tokens that are final.
  void keep_clean(const Pass& pass) { clean_ = std::max(clean_, std::min(pass.end, block_begin_)); }

  std::int64_t clean_ = 0;         // tokens that the cache has as they are
  std::int64_t block_begin_ = -1;  // of the block that is decoded

 private:
  // A position of the block that is to be decoded; the canvas's end or more once all are.
  virtual std::int64_t first_open() const { return canvas_.first_mask(); }
  virtual void begin_block() = 0;
  // The pass that writes in the block; `first` is what first_open() gave.
  virtual Pass pass_for(std::int64_t first) = 0;
};

}  // namespace diffulex_edge
