// WeDLM (https://github.com/Tencent/WeDLM, https://arxiv.org/abs/2512.22737): the model is causal, so that what is
// known has to come before the masks that are to see it. Each pass computes the placed tokens of a window and then its
// masks, both in the order of the text, with the positions that they have there. What is placed without a mask before
// it is final, and its keys are those of any causal model.

#include <algorithm>
#include <vector>

#include "diffusion/decoder.h"

namespace diffulex_edge {
namespace {

class WindowDecoder final : public Decoder {
 public:
  // Behind the last new token the window has masks too.
  WindowDecoder(DecodingSettings settings, Canvas canvas)
      : Decoder(std::move(settings), std::move(canvas)), window_(settings_.window.value_or(WindowSettings())) {
    canvas_.extend(window_.size - 1);
  }

  std::optional<Pass> next() override {
    const std::int64_t first = canvas_.first_mask();
    if (first >= canvas_.end()) {
      return std::nullopt;
    }
    if (settings_.cache == CacheKind::NONE) {
      clean_ = 0;
    } else if (first - clean_ > kPrefillTokens) {
      return Pass{.begin = clean_,
                  .end = clean_ + kPrefillTokens,
                  .sees = clean_ + kPrefillTokens,
                  .positions = {},
                  .order = {}};
    }
    const std::int64_t end = std::min(first + window_.size, canvas_.size());
    Pass pass{.begin = clean_, .end = end, .sees = end, .positions = canvas_.masks(first, end), .order = {}};
    for (std::int64_t i = clean_; i < end; ++i) {
      if (!canvas_.is_masked(i)) {
        pass.order.push_back(i);
      }
    }
    pass.order.insert(pass.order.end(), pass.positions.begin(), pass.positions.end());
    return pass;
  }

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& /*random*/) override {
    if (pass.positions.empty()) {
      clean_ = pass.end;
      return;
    }
    clean_ = pass.positions.front();
    std::size_t best = 0;
    bool has_certain = false;
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const double entropy = penalized(pass, samples, i);
      best = entropy < penalized(pass, samples, best) ? i : best;
      if (entropy < window_.entropy_threshold) {
        has_certain = true;
        canvas_.set(pass.positions[i], samples[i].token);
      }
    }
    if (!has_certain) {
      canvas_.set(pass.positions[best], samples[best].token);
    }
  }

  std::int64_t reuse(std::int64_t tokens) override {
    if (settings_.cache != CacheKind::NONE) {
      clean_ = std::min(tokens, canvas_.first_mask());
    }
    return clean_;
  }

  std::int64_t clean_tokens() const override { return settings_.cache == CacheKind::NONE ? 0 : clean_; }

 private:
  double penalized(const Pass& pass, std::span<const SampleOutput> samples, std::size_t i) const {
    const auto distance = static_cast<double>(pass.positions[i] - pass.positions.front());
    return samples[i].entropy + distance * window_.penalty;
  }

  WindowSettings window_;
  std::int64_t clean_ = 0;  // tokens that the cache has in the order of the text
};

}  // namespace

std::unique_ptr<Decoder> window_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<WindowDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
