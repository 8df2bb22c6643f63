// Open-dCoder's p2 (https://github.com/pengzhangzhi/Open-dLLM): after step i of n, the share (i + 1)/n of all that is
// written stays, the most probable. What is not among them is masked, also if an earlier step had placed it.

#include <algorithm>
#include <vector>

#include "diffusion/decoder.h"
#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

class P2Decoder final : public Decoder {
 public:
  P2Decoder(DecodingSettings settings, Canvas canvas)
      : Decoder(std::move(settings), std::move(canvas)), positions_(canvas_.masks(0, canvas_.size())) {}

  std::optional<Pass> next() override {
    if (is_done()) {
      return std::nullopt;
    }
    return Pass{.begin = 0, .end = canvas_.size(), .sees = canvas_.size(), .positions = positions_};
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    const std::int64_t kept =
        std::ssize(positions_) - masked_share(std::ssize(positions_), settings_.steps_per_block, step_);
    std::vector<bool> is_kept(positions_.size(), false);
    for (const std::size_t i : select({.selection = Selection::kBest}, samples, {.tokens = kept}, random)) {
      is_kept[i] = true;
    }
    for (std::size_t i = 0; i < positions_.size(); ++i) {
      if (!is_kept[i]) {
        canvas_.mask(pass.positions[i]);
      } else if (canvas_.is_masked(pass.positions[i])) {
        canvas_.set(pass.positions[i], samples[i].token);
      }
    }
    ++step_;
  }

  // Any of them may be masked again until none is.
  std::int64_t final_tokens() const override { return is_done() ? canvas_.written() : 0; }

 private:
  bool is_done() const { return canvas_.first_mask() >= canvas_.size(); }

  std::vector<std::int64_t> positions_;  // that are written
  std::int64_t step_ = 0;
};

}  // namespace

std::unique_ptr<Decoder> p2_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<P2Decoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
