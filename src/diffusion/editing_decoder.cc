// LLaDA 2.1 (https://github.com/inclusionAI/LLaDA2.X, https://arxiv.org/abs/2602.08676): masks become tokens as in
// other block-causal models, and the same pass replaces tokens of the block that were placed before. A block ends with
// a pass that finds no mask and changes nothing, or after the last of its post steps.

#include <algorithm>
#include <vector>

#include "diffusion/block_decoder.h"

namespace diffulex_edge {
namespace {

class EditingDecoder final : public BlockDecoder {
 public:
  EditingDecoder(DecodingSettings settings, Canvas canvas)
      : BlockDecoder(std::move(settings), std::move(canvas)),
        editing_(settings_.editing.value_or(EditingSettings())),
        is_ours_(canvas_.masked()) {}

  void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) override {
    keep_clean(pass);
    if (pass.positions.empty()) {
      return;
    }
    std::vector<std::int64_t> masks;
    std::vector<SampleOutput> of_masks;
    bool is_edited = false;
    for (std::size_t i = 0; i < pass.positions.size(); ++i) {
      const std::int64_t position = pass.positions[i];
      if (canvas_.is_masked(position)) {
        masks.push_back(position);
        of_masks.push_back(samples[i]);
      } else if (samples[i].token != canvas_.token(position) && samples[i].confidence > editing_.threshold) {
        canvas_.set(position, samples[i].token);
        is_edited = true;
      }
    }
    if (!masks.empty()) {
      for (const std::size_t i : select(settings_.rule, of_masks, share_of(step_), random)) {
        canvas_.set(masks[i], of_masks[i].token);
      }
      ++step_;
    } else {
      ++post_steps_;
    }
    if (masks.empty() && !is_edited) {
      is_open_ = false;
      clean_ = pass.end;  // it saw the block as it stays
    } else if (canvas_.first_mask() >= block_end() && post_steps_ >= editing_.post_steps) {
      is_open_ = false;
    }
  }

  std::int64_t final_tokens() const override {
    const std::int64_t written = canvas_.written();
    return is_open_ ? std::clamp<std::int64_t>(block_begin_ - canvas_.begin(), 0, written) : written;
  }

 private:
  std::int64_t block_end() const { return block_begin_ + settings_.block_length; }

  std::int64_t first_open() const override { return is_open_ ? block_begin_ : canvas_.first_mask(); }

  void begin_block() override {
    step_ = 0;
    post_steps_ = 0;
    is_open_ = true;
  }

  Pass pass_for(std::int64_t /*first*/) override {
    Pass pass{.begin = clean_, .end = block_end(), .sees = block_end(), .positions = {}};
    for (std::int64_t i = block_begin_; i < block_end(); ++i) {
      if (is_ours_[static_cast<std::size_t>(i)]) {
        pass.positions.push_back(i);
      }
    }
    return pass;
  }

  EditingSettings editing_;
  std::vector<bool> is_ours_;  // the positions that were masked at first
  std::int64_t step_ = 0;
  std::int64_t post_steps_ = 0;
  bool is_open_ = false;  // the block may change
};

}  // namespace

std::unique_ptr<Decoder> editing_decoder(DecodingSettings settings, Canvas canvas) {
  return std::make_unique<EditingDecoder>(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
