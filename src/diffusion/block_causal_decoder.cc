// SDAR (https://github.com/JetAstra/SDAR), and autoregressive models, whose blocks are single tokens.

#include <algorithm>

#include "diffusion/block_decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

class BlockCausalDecoder final : public BlockDecoder {
 public:
  using BlockDecoder::BlockDecoder;

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    keep_clean(pass);
    if (!pass.positions.empty()) {
      commit(pass, samples, share(), random);
      ++step_;
    }
  }

 private:
  void begin_block() override { step_ = 0; }

  Pass pass_for(std::int64_t first) override {
    Pass pass{.begin = clean_, .end = 0, .sees = 0, .positions = {}};
    if (settings_.decoder == DecoderKind::kAutoregressive) {
      // Its logits are those of the token before it: it is not computed itself.
      pass.begin = std::min(clean_, first - 1);
      pass.end = first;
      pass.positions = {first};
    } else {
      pass.end = block_begin_ + settings_.block_length;
      pass.positions = canvas_.masks(block_begin_, pass.end);
    }
    pass.sees = pass.end;
    return pass;
  }

  StepShare share() const {
    const std::int64_t steps = settings_.steps_per_block;
    const std::int64_t even = step_ < steps ? even_share(settings_.block_length, steps, step_) : settings_.block_length;
    return {.tokens = std::max<std::int64_t>(1, even),
            .probability = static_cast<double>(commit_probability(steps, step_, settings_.eps)),
            .is_last = step_ >= steps - 1};
  }

  std::int64_t step_ = 0;
};

}  // namespace

std::unique_ptr<Decoder> block_causal_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<BlockCausalDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
