#include "diffusion/decoder.h"

namespace diffulex_edge {

void Decoder::commit(const Pass& pass, std::span<const SampleOutput> samples, const StepShare& share, Random& random) {
  for (const std::size_t i : select(settings_.rule, samples, share, random)) {
    canvas_.set(pass.positions[i], samples[i].token);
  }
}

std::unique_ptr<Decoder> make_decoder(DecodingSettings settings, Canvas canvas) {
  switch (settings.decoder) {
    case DecoderKind::kBidirectional:
      if (settings.expansion) {
        return expanding_decoder(std::move(settings), std::move(canvas));
      }
      return settings.masks_again ? p2_decoder(std::move(settings), std::move(canvas))
                                  : bidirectional_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kBlockCausal:
      if (settings.editing) {
        return editing_decoder(std::move(settings), std::move(canvas));
      }
      return block_causal_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kAutoregressive:
      if (settings.window) {
        return window_decoder(std::move(settings), std::move(canvas));
      }
      return block_causal_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kCausalContext:
      return causal_context_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kFastDllmV2:
      break;
  }
  return fast_dllm_v2_decoder(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
