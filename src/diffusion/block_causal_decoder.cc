// SDAR (https://github.com/JetAstra/SDAR), and autoregressive models, whose blocks are single tokens.

#include <algorithm>

#include "diffusion/decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

class BlockCausalDecoder final : public Decoder {
 public:
  BlockCausalDecoder(DecodingSettings settings, Canvas canvas) : Decoder(std::move(settings), std::move(canvas)) {
    canvas_.fill_block(settings_.block_length);
  }

  std::optional<Pass> next() override {
    const std::int64_t first = canvas_.first_mask();
    if (first >= canvas_.end()) {
      return std::nullopt;
    }
    const std::int64_t block = settings_.block_length;
    const std::int64_t block_begin = first / block * block;
    if (block_begin != block_begin_) {
      block_begin_ = block_begin;
      step_ = 0;
    }
    if (settings_.cache == CacheKind::NONE) {
      clean_ = 0;
    }
    Pass pass{.begin = clean_, .end = 0, .sees = 0, .positions = {}};
    const std::int64_t piece = std::max(kPrefillTokens / block, std::int64_t{1}) * block;
    if (settings_.cache != CacheKind::NONE && block_begin - clean_ > piece) {
      pass.end = clean_ + piece;
    } else if (settings_.decoder == DecoderKind::kAutoregressive) {
      // Its logits are those of the token before it: it is not computed itself.
      pass.begin = std::min(clean_, first - 1);
      pass.end = first;
      pass.positions = {first};
    } else {
      pass.end = block_begin + block;
      pass.positions = canvas_.masks(block_begin, pass.end);
    }
    pass.sees = pass.end;
    return pass;
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    clean_ = std::max(clean_, std::min(pass.end, block_begin_));
    if (!pass.positions.empty()) {
      commit(pass, samples, share(), random);
      ++step_;
    }
  }

 private:
  StepShare share() const {
    const std::int64_t steps = settings_.steps_per_block;
    const std::int64_t even = step_ < steps ? even_share(settings_.block_length, steps, step_) : settings_.block_length;
    return {.tokens = std::max<std::int64_t>(1, even),
            .probability = static_cast<double>(commit_probability(steps, step_, settings_.eps)),
            .is_last = step_ >= steps - 1};
  }

  std::int64_t clean_ = 0;         // tokens that the cache has as they are
  std::int64_t block_begin_ = -1;  // of the block that is decoded
  std::int64_t step_ = 0;
};

}  // namespace

std::unique_ptr<Decoder> block_causal_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<BlockCausalDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
