// Fast-dLLM v2 (https://arxiv.org/abs/2509.26328; the program is part of its published checkpoints).

#include "diffusion/block_decoder.h"

namespace diffulex_edge {
namespace {

class FastDllmV2Decoder final : public BlockDecoder {
 public:
  using BlockDecoder::BlockDecoder;

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    if (pass.end > block_begin_) {
      has_block_ = true;
    }
    keep_clean(pass);
    if (pass.is_greedy) {
      canvas_.set(pass.positions.front(), samples.front().token);
    } else if (!pass.positions.empty()) {
      commit(pass, samples, {.tokens = 1}, random);
    }
  }

 private:
  void begin_block() override { has_block_ = false; }

  Pass pass_for(std::int64_t first) override {
    if (first == block_begin_ && block_begin_ > 0) {  // predicted by the last row of what is finished
      return {.begin = clean_, .end = block_begin_, .sees = block_begin_, .positions = {first}, .is_greedy = true};
    }
    const std::int64_t sub = settings_.sub_block_length;
    const std::int64_t sub_begin = first / sub * sub;
    const std::int64_t block_end = block_begin_ + settings_.block_length;
    Pass pass{
        .begin = clean_, .end = block_end, .sees = block_end, .positions = canvas_.masks(sub_begin, sub_begin + sub)};
    if (settings_.cache == CacheKind::BLOCK && has_block_ && first != sub_begin) {
      pass.begin = sub_begin;
      pass.end = sub_begin + sub;
    }
    return pass;
  }

  bool has_block_ = false;  // the cache has all of the block, as a pass saw it
};

}  // namespace

std::unique_ptr<Decoder> fast_dllm_v2_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<FastDllmV2Decoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
