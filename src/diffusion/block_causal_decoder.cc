// SDAR (https://github.com/JetAstra/SDAR), and autoregressive models, whose blocks are single tokens.

#include <algorithm>

#include "diffusion/block_decoder.h"

namespace diffulex_edge {
namespace {

class BlockCausalDecoder final : public BlockDecoder {
 public:
  using BlockDecoder::BlockDecoder;

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    keep_clean(pass);
    if (!pass.positions.empty()) {
      commit(pass, samples, share_of(step_), random);
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

  std::int64_t step_ = 0;
};

}  // namespace

std::unique_ptr<Decoder> block_causal_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<BlockCausalDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
