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
      return bidirectional_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kBlockCausal:
    case DecoderKind::kAutoregressive:
      return block_causal_decoder(std::move(settings), std::move(canvas));
    case DecoderKind::kFastDllmV2:
      break;
  }
  return fast_dllm_v2_decoder(std::move(settings), std::move(canvas));
}

}  // namespace diffulex_edge
