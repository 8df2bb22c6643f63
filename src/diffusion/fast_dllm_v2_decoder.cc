// Fast-dLLM v2 (https://arxiv.org/abs/2509.26328; the program is part of its published checkpoints).

#include <algorithm>

#include "diffusion/decoder.h"

namespace diffulex_edge {
namespace {

class FastDllmV2Decoder final : public Decoder {
 public:
  FastDllmV2Decoder(DecodingSettings settings, Canvas canvas) : Decoder(std::move(settings), std::move(canvas)) {
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
      has_block_ = false;
    }
    if (settings_.cache == CacheKind::NONE) {
      clean_ = 0;
    }
    const std::int64_t piece = std::max(kPrefillTokens / block, std::int64_t{1}) * block;
    if (settings_.cache != CacheKind::NONE && block_begin - clean_ > piece) {
      return Pass{.begin = clean_, .end = clean_ + piece, .sees = clean_ + piece, .positions = {}};
    }
    if (first == block_begin && block_begin > 0) {  // predicted by the last row of what is finished
      return Pass{.begin = clean_, .end = block_begin, .sees = block_begin, .positions = {first}, .is_greedy = true};
    }
    const std::int64_t sub = settings_.sub_block_length;
    const std::int64_t sub_begin = first / sub * sub;
    Pass pass{.begin = clean_,
              .end = block_begin + block,
              .sees = block_begin + block,
              .positions = canvas_.masks(sub_begin, sub_begin + sub)};
    if (settings_.cache == CacheKind::BLOCK && has_block_ && first != sub_begin) {
      pass.begin = sub_begin;
      pass.end = sub_begin + sub;
    }
    return pass;
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    if (pass.end > block_begin_) {
      has_block_ = true;
    }
    clean_ = std::max(clean_, std::min(pass.end, block_begin_));
    if (pass.is_greedy) {
      canvas_.set(pass.positions.front(), samples.front().token);
    } else if (!pass.positions.empty()) {
      commit(pass, samples, {.tokens = 1}, random);
    }
  }

 private:
  std::int64_t clean_ = 0;         // tokens that the cache has as they are
  std::int64_t block_begin_ = -1;  // of the block that is decoded
  bool has_block_ = false;         // the cache has all of the block, as a pass saw it
};

}  // namespace

std::unique_ptr<Decoder> fast_dllm_v2_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<FastDllmV2Decoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
